# SPDX-License-Identifier: Apache-2.0
"""
The pictures of ``sensor_msgs``, decoded without ROS: of a live message, or of one from a bag.

The one place that knows BGR. Everything leaves it as (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np

MAX_PIXELS = 1 << 26  # a message that claims more is broken; no camera has 67 megapixels

# layout -> (bytes or 16-bit words per pixel, OpenCV's conversion to RGB). OpenCV names a Bayer
# pattern by its second row, ROS by its first: RGGB is OpenCV's BG.
_LAYOUTS: dict[str, tuple[int, int | None]] = {
    'rgb': (3, None), 'bgr': (3, cv2.COLOR_BGR2RGB),
    'rgba': (4, cv2.COLOR_RGBA2RGB), 'bgra': (4, cv2.COLOR_BGRA2RGB),
    'mono': (1, cv2.COLOR_GRAY2RGB),
    'bayer_rggb': (1, cv2.COLOR_BayerBG2RGB), 'bayer_bggr': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': (1, cv2.COLOR_BayerGR2RGB), 'bayer_grbg': (1, cv2.COLOR_BayerGB2RGB),
}
_PACKED = {  # two bytes per pixel, two pixels share their colour; old and new ROS names
    'yuv422': cv2.COLOR_YUV2RGB_UYVY, 'uyvy': cv2.COLOR_YUV2RGB_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2, 'yuyv': cv2.COLOR_YUV2RGB_YUY2,
}
_PLANAR = {  # a full plane of brightness, then half as many rows of interleaved colour
    'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21,
}
ENCODINGS = tuple(sorted(
    [f'{layout}{bits}' for layout in _LAYOUTS for bits in (8, 16)] + [*_PACKED, *_PLANAR]))

class ImageError(ValueError):
    """A message that does not hold a picture we can read; the text says why."""


class RawImage(Protocol):
    """The fields of ``sensor_msgs/Image`` that hold the picture, whoever read the message."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def encoding(self) -> str: ...
    @property
    def is_bigendian(self) -> int | bool: ...
    @property
    def step(self) -> int: ...
    @property
    def data(self) -> Any: ...  # bytes, or what has their buffer


def decode(msg: RawImage, encoding: str = '') -> np.ndarray:
    """
    Read the picture of a raw message.

    Shape: (H, W, 3) uint8 RGB. For ``rgb8`` it is a view of the message's own memory, padded rows
    included; else a new array. Of 16-bit pixels the high byte is used.

    :param encoding: where the message's own is wrong; empty: the message's.
    :raises ImageError: unknown encoding, impossible size, too little data.
    """
    encoding = encoding or msg.encoding
    height, width = msg.height, msg.width
    if not (0 < height and 0 < width and height * width <= MAX_PIXELS):
        raise ImageError(
            f'image size {width}x{height} is impossible: both sides must be at least 1 and the '
            f'product at most {MAX_PIXELS}; check the camera driver')
    layout, bits = encoding[:-1], 8
    if encoding.endswith('16'):
        layout, bits = encoding[:-2], 16
    if layout in _LAYOUTS and encoding == f'{layout}{bits}':
        channels, conversion = _LAYOUTS[layout]
        if layout.startswith('bayer') and (height < 2 or width < 2):
            raise ImageError(f'{encoding} needs at least 2x2 pixels, got {width}x{height}')
        pixels = _pixels(msg, encoding, height, channels * bits // 8)
        if bits == 16:  # the high byte comes first in big-endian words
            pixels = np.ascontiguousarray(pixels[:, :, (0 if msg.is_bigendian else 1)::2])
        return pixels if conversion is None else cv2.cvtColor(pixels, conversion)
    if encoding in _PACKED:
        _require_even(msg, encoding, width, 'width')
        return cv2.cvtColor(_pixels(msg, encoding, height, 2), _PACKED[encoding])
    if encoding in _PLANAR:
        _require_even(msg, encoding, width, 'width')
        _require_even(msg, encoding, height, 'height')
        planes = _pixels(msg, encoding, height + height // 2, 1)
        return cv2.cvtColor(planes, _PLANAR[encoding])
    raise ImageError(
        f'image encoding {encoding!r} is not supported: use one of {list(ENCODINGS)}; set it '
        'in the camera driver, or convert with image_proc')


def decode_compressed(data: Any, name: str) -> np.ndarray:
    """
    Read the picture of a ``sensor_msgs/CompressedImage``.

    Shape: (H, W, 3) uint8 RGB, a new array.

    :param data: the field of that name: bytes, or what has their buffer.
    :param name: the field ``format``, for messages.
    :raises ImageError: neither JPEG nor PNG, impossible size, cut off or damaged.
    """
    data = np.frombuffer(data, np.uint8)
    height, width = _compressed_size(bytes(data), name)
    if not (0 < height and 0 < width and height * width <= MAX_PIXELS):
        raise ImageError(
            f'compressed image of {width}x{height} is impossible: at most {MAX_PIXELS} pixels')
    # The labels must fit the camera's picture, so a rotation noted in the file is not applied.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            f'compressed image ({name!r}, {data.size} bytes) is damaged: OpenCV cannot '
            'decode it; check the camera driver and the network')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _pixels(msg: RawImage, encoding: str, rows: int, pixel_bytes: int) -> np.ndarray:
    """View the data as (rows, width, pixel_bytes), whatever the padding of the rows."""
    data, row_bytes = np.frombuffer(msg.data, np.uint8), msg.width * pixel_bytes
    if msg.step < row_bytes:
        raise ImageError(
            f'image step {msg.step} is too small: a row of {msg.width} pixels of '
            f'{encoding} has {row_bytes} bytes; check the camera driver')
    needed = msg.step * (rows - 1) + row_bytes  # some drivers leave out the last row's padding
    if data.size < needed:
        raise ImageError(
            f'image is truncated: {msg.width}x{msg.height} {encoding} with step {msg.step} '
            f'needs {needed} bytes, got {data.size}; check the camera driver and the network')
    shape = (rows, msg.width, pixel_bytes)
    return np.ndarray(shape, np.uint8, data, strides=(msg.step, pixel_bytes, 1))


def _require_even(msg: RawImage, encoding: str, length: int, side: str) -> None:
    if length % 2:
        raise ImageError(
            f'{encoding} shares colour between neighbours, so its {side} must be even, got '
            f'{msg.width}x{msg.height}; check the camera driver')


def _compressed_size(data: bytes, name: str) -> tuple[int, int]:
    """Read (height, width) without decoding; OpenCV would fill a truncated picture with grey."""
    truncated = ImageError(
        f'compressed image ({name!r}, {len(data)} bytes) is truncated: its end is missing; check '
        'the camera driver and the network')
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        if len(data) < 33 or b'IEND' not in data[-64:]:
            raise truncated
        return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
    if data[:2] != b'\xff\xd8':
        raise ImageError(
            f'compressed image ({name!r}, {len(data)} bytes) is neither JPEG nor PNG; set the '
            'camera driver to one of them, or use image_transport "raw"')
    at, size = 2, None
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:  # the picture itself starts here; it must have an end
            if size is None or data.rfind(b'\xff\xd9', at) < 0:
                break
            return size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            size = (int.from_bytes(data[at + 5:at + 7], 'big'),
                    int.from_bytes(data[at + 7:at + 9], 'big'))
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    raise truncated
