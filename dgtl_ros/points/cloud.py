# SPDX-License-Identifier: Apache-2.0
"""``sensor_msgs/PointCloud2`` in and out: coordinates as arrays, labels as two more fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
from dgtl_core.encodings import view
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

if TYPE_CHECKING:
    from std_msgs.msg import Header

MAX_POINTS = 1 << 24  # a message that claims more is broken, or no robot's
_FLOATS = {PointField.FLOAT32: 4, PointField.FLOAT64: 8}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}  # bytes of each datatype
_OWN = ('label', 'confidence')
_STEP = 20  # bytes of a point of ours: x, y, z, rgb, then label, confidence and two unused


class CloudError(ValueError):
    """A cloud that does not hold what it says, or not what is needed; the text says which."""


def read_xyz(msg: PointCloud2) -> np.ndarray:
    """
    Return the coordinates of a cloud, in the order of its points, as a copy.

    Shape: (3, height * width) float32 metres.

    :raises CloudError: there are no x, y and z of float32 or float64, or too few bytes.
    """
    rows = _rows(msg)
    fields = {field.name: field for field in msg.fields}
    result = np.empty((3, msg.height * msg.width), np.float32)
    if not result.size:  # a lidar may see nothing
        return result
    for axis, name in enumerate('xyz'):
        field = fields.get(name)
        size = _FLOATS.get(field.datatype, 0) if field is not None else 0
        if field is None or not size or field.offset + size > msg.point_step:
            raise CloudError(
                f'the cloud has the fields {sorted(fields)}; x, y and z of float32 or float64 '
                'inside of each point are needed')
        kind = np.dtype(f'{">" if msg.is_bigendian else "<"}f{size}')
        values = np.ndarray(
            (msg.height, msg.width), kind, rows, field.offset, (_row_step(msg), msg.point_step))
        with np.errstate(over='ignore', invalid='ignore'):  # beyond float32 is infinitely far
            result[axis] = values.reshape(-1)
    return result


def organised(points: np.ndarray, rgb: np.ndarray | None, labels: np.ndarray,
              confidence: np.ndarray | None, header: Header) -> PointCloud2:
    """
    Build a cloud that is aligned with a picture, pixel for pixel.

    Fields: x, y, z float32 metres, rgb as PCL packs it, label and confidence uint8.

    Shape: points (3, H, W) float32, rgb (H, W, 3) uint8 or None for black, labels and confidence
    (H, W) uint8; no confidence is 255. The header is used as it is.
    """
    height, width = labels.shape
    sure = np.full_like(labels, 255) if confidence is None else confidence
    nothing = np.zeros_like(labels)
    marks = cv2.merge([labels, sure, nothing, nothing])
    color = np.zeros((height, width, 4), np.uint8)
    if rgb is not None:  # in memory: b, g, r, 0
        cv2.mixChannels([rgb], [color], [0, 2, 1, 1, 2, 0])
    # Whole words are copied, whatever they mean.
    words = cv2.merge([*points.view(np.int32), color.view(np.int32), marks.view(np.int32)])
    msg = PointCloud2(header=header, height=height, width=width, point_step=_STEP,
                      row_step=_STEP * width, is_dense=False, is_bigendian=False)
    msg.fields = [*(PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                    for i, name in enumerate(('x', 'y', 'z', 'rgb'))), *_marks(16)]
    msg.data.frombytes(words.view(np.uint8).data)
    return msg


def with_labels(msg: PointCloud2, labels: np.ndarray, confidence: np.ndarray) -> PointCloud2:
    """
    Return a cloud with all that it had, and label and confidence as two fields more.

    Shape: labels and confidence (height * width,) uint8.

    :raises CloudError: the cloud has fields of these names, or too few bytes.
    """
    taken = sorted({field.name for field in msg.fields} & set(_OWN))
    if taken:
        raise CloudError(f'the cloud has {taken} already; send the cloud of the sensor itself')
    rows = _rows(msg)
    old, step = msg.point_step, (msg.point_step + 2 + 3) // 4 * 4
    data = np.zeros((msg.height, msg.width, step), np.uint8)
    if data.size:
        data[:, :, :old] = np.ndarray(
            (msg.height, msg.width, old), np.uint8, rows, 0, (_row_step(msg), old, 1))
        data[:, :, old] = labels.reshape(msg.height, msg.width)
        data[:, :, old + 1] = confidence.reshape(msg.height, msg.width)
    result = PointCloud2(
        header=msg.header, height=msg.height, width=msg.width, point_step=step,
        row_step=step * msg.width, is_dense=msg.is_dense, is_bigendian=msg.is_bigendian)
    result.fields = [*msg.fields, *_marks(old)]
    result.data.frombytes(data.data)
    return result


def _marks(offset: int) -> list[PointField]:
    return [PointField(name=name, offset=offset + i, datatype=PointField.UINT8, count=1)
            for i, name in enumerate(_OWN)]


def _rows(msg: PointCloud2) -> np.ndarray:
    """View the bytes of a cloud; :raises CloudError: they are fewer than it says."""
    if msg.height * msg.width > MAX_POINTS:
        raise CloudError(
            f'the cloud claims {msg.width}x{msg.height} points; at most {MAX_POINTS} are read')
    data, row = view(msg.data), msg.point_step * msg.width
    if not msg.height * msg.width:
        return data
    for field in msg.fields:
        if field.offset + _SIZES.get(field.datatype, 1) > msg.point_step:
            raise CloudError(
                f'field {field.name!r} lies beyond the {msg.point_step} bytes of a point')
    if not msg.point_step or _row_step(msg) < row:
        raise CloudError(
            f'{msg.width} points of {msg.point_step} bytes do not fit into a row of '
            f'{msg.row_step}: correct point_step and row_step in the driver of the sensor')
    needed = _row_step(msg) * (msg.height - 1) + row
    if data.size < needed:
        raise CloudError(
            f'the cloud is truncated: {msg.width}x{msg.height} points of {msg.point_step} bytes '
            f'in rows of {_row_step(msg)} need {needed} bytes, got {data.size}')
    return data


def _row_step(msg: PointCloud2) -> int:
    """Return the bytes of a row; drivers of lidars leave it out, where there is only one."""
    return int(msg.row_step if msg.height > 1 else msg.point_step * msg.width)
