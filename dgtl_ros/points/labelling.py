# SPDX-License-Identifier: Apache-2.0
"""From the messages of one moment to a labelled cloud; nothing here needs a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
from dgtl_core.encodings import view
from dgtl_core.points import from_depth, label_points, moved, PinholeCamera
from dgtl_ros.camera_info import pictured
from dgtl_ros.image_codec import to_rgb
from dgtl_ros.points.cloud import CloudError, organised, read_xyz, with_labels
from dgtl_ros.points.settings import PointsSettings
from dgtl_ros.points.transforms import Transforms
import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

_DEPTHS = {'16UC1': np.uint16, 'mono16': np.uint16, '32FC1': np.float32}


class Labelling:
    """
    Makes the cloud of a set of messages.

    :param transforms: needed by the source ``lidar`` alone.
    """

    def __init__(self, settings: PointsSettings, transforms: Transforms | None) -> None:
        self._settings, self._transforms = settings, transforms
        self._camera: tuple[tuple[Any, ...], PinholeCamera] | None = None

    def __call__(self, messages: Mapping[str, Any], info: CameraInfo | None) -> PointCloud2:
        """
        Label the points; the cloud has the header of the points that came.

        :raises CloudError: a message does not hold what is needed, or sizes do not fit.
        :raises ValueError: the CameraInfo or the depth image cannot be used.
        :raises TransformError: nobody knows where the lidar is.
        """
        labels = plane(messages['segmentation'])
        confidence = (plane(messages['segmentation/confidence'])
                      if self._settings.use_confidence else None)
        if confidence is not None and confidence.shape != labels.shape:
            raise CloudError(
                f'labels of {_text(labels.shape)} came with a confidence of '
                f'{_text(confidence.shape)}; both must be of one node')
        source = self._settings.source
        if source != 'depth' and not messages['points'].height * messages['points'].width:
            return with_labels(messages['points'], *np.empty((2, 0), np.uint8))
        if source == 'cloud':
            return self._aligned(messages['points'], labels, confidence)
        if info is None:
            raise CloudError(
                'no CameraInfo came yet: map camera_info to the topic of the camera whose '
                'pictures are labelled')
        if source == 'lidar':
            return self._projected(messages['points'], labels, confidence, info)
        depth = messages['depth']
        metres = read_depth(depth)
        labels, confidence = _fitted(labels, metres.shape), _fitted(confidence, metres.shape)
        rgb = _fitted(to_rgb(messages['image']), metres.shape) if 'image' in messages else None
        points = from_depth(metres, self._camera_of(info, metres.shape))
        return organised(points, rgb, labels, confidence, depth.header)

    def _aligned(self, cloud: PointCloud2, labels: np.ndarray,
                 confidence: np.ndarray | None) -> PointCloud2:
        if cloud.height == 1 and labels.shape[0] > 1:
            raise CloudError(
                f'the cloud of {cloud.width} points is not organised, so no point belongs to a '
                'pixel: set source to lidar, or let the camera driver publish an organised cloud')
        size = cloud.height, cloud.width
        labels, confidence = _fitted(labels, size), _fitted(confidence, size)
        sure = np.full(labels.shape, 255, np.uint8) if confidence is None else confidence
        return with_labels(cloud, labels.reshape(-1), sure.reshape(-1))

    def _projected(self, cloud: PointCloud2, labels: np.ndarray,
                   confidence: np.ndarray | None, info: CameraInfo) -> PointCloud2:
        assert self._transforms is not None
        transform = self._transforms(
            info.header.frame_id, cloud.header.frame_id, cloud.header.stamp)
        points = moved(read_xyz(cloud), transform)
        camera = self._camera_of(info, labels.shape)
        return with_labels(cloud, *label_points(points, camera, labels, confidence))

    def _camera_of(self, info: CameraInfo, size: tuple[int, ...]) -> PinholeCamera:
        """Return the camera at the size of the picture; its rays are computed once."""
        region = pictured(info)
        key = (tuple(info.k), tuple(info.d), info.distortion_model, region.y_offset,
               region.x_offset, region.height, region.width, size)
        if self._camera is None or self._camera[0] != key:
            camera = PinholeCamera(
                (region.height, region.width), float(info.k[0]), float(info.k[4]),
                float(info.k[2]) - region.x_offset, float(info.k[5]) - region.y_offset,
                info.distortion_model, tuple(map(float, info.d)))
            if size != camera.size:  # the picture was made smaller on the way
                _check_same_view('CameraInfo', camera.size, 'pictures', size)
                camera = camera.resized((size[0], size[1]))
            self._camera = key, camera
        return self._camera[1]


def plane(msg: Image) -> np.ndarray:
    """
    View a ``mono8`` picture. Shape: (H, W) uint8.

    :raises CloudError: it is none, or it has too few bytes.
    """
    if msg.encoding not in ('mono8', '8UC1'):
        raise CloudError(
            f'labels and confidence are mono8 pictures, got {msg.encoding!r}: map segmentation to '
            'the topic of segment_node')
    return _view(msg, np.dtype(np.uint8))


def read_depth(msg: Image) -> np.ndarray:
    """
    View a depth image: uint16 millimetres or float32 metres. Shape: (H, W).

    :raises CloudError: it is neither, or it has too few bytes.
    """
    kind = _DEPTHS.get(msg.encoding)
    if kind is None:
        raise CloudError(
            f'a depth image is 16UC1 (millimetres) or 32FC1 (metres), got {msg.encoding!r}')
    values = _view(msg, np.dtype(kind).newbyteorder('>' if msg.is_bigendian else '<'))
    return values.astype(kind, copy=False)


def _view(msg: Image, kind: np.dtype) -> np.ndarray:
    data = view(msg.data)
    row = msg.width * kind.itemsize
    if not msg.height or not msg.width or msg.step < row or \
            data.size < msg.step * (msg.height - 1) + row:
        raise CloudError(
            f'the picture is truncated: {msg.width}x{msg.height} {msg.encoding} with step '
            f'{msg.step} does not fit into {data.size} bytes')
    return np.ndarray((msg.height, msg.width), kind, data, strides=(msg.step, kind.itemsize))


def _fitted(pixels: Any, size: tuple[int, ...]) -> Any:
    """
    Bring labels to the size of the points, nearest neighbour: segment_node may keep them small.

    :raises CloudError: the other size shows another part of the world.
    """
    if pixels is None or pixels.shape[:2] == size:
        return pixels
    _check_same_view('labels', pixels.shape, 'points', size)
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _check_same_view(one: str, size: tuple[int, ...], other: str, target: tuple[int, ...]) -> None:
    if abs(size[1] * target[0] / (size[0] * target[1]) - 1) > 0.02:
        raise CloudError(
            f'{one} of {_text(size)} and {other} of {_text(target)} do not show the same part of '
            'the world: align the depth to the camera that is labelled')


def _text(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'
