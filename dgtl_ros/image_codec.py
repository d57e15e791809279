# SPDX-License-Identifier: Apache-2.0
"""
Pictures in and out of ROS messages; nothing here needs a node, cv_bridge or a copy too many.

The one place that knows BGR. Everything leaves it as (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import cv2
from dgtl_ros.cdr_image import CdrImage, ImageError
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

if TYPE_CHECKING:
    from std_msgs.msg import Header

RawPicture: TypeAlias = 'Image | CdrImage'
Picture: TypeAlias = 'Image | CdrImage | CompressedImage'
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


def to_rgb(msg: Picture, encoding: str = '') -> np.ndarray:
    """
    Read the picture of a message.

    Shape: (H, W, 3) uint8 RGB. For ``rgb8`` it is a view of the message's own memory, padded rows
    included; else a new array. Of 16-bit pixels the high byte is used.

    :param encoding: of a raw picture, where the message's own is wrong; empty: the message's.
    :raises ImageError: unknown encoding, impossible size, too little data, a broken JPEG or PNG.
    """
    if isinstance(msg, CompressedImage):
        return _decode(msg)
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


def mono8(pixels: np.ndarray, header: Header) -> Image:
    """Build a ``mono8`` message. Shape: (H, W) uint8. The header is used as it is."""
    return _message(pixels, header, 'mono8', 1)


def rgb8(pixels: np.ndarray, header: Header) -> Image:
    """Build an ``rgb8`` message. Shape: (H, W, 3) uint8. The header is used as it is."""
    return _message(pixels, header, 'rgb8', 3)


def jpeg(pixels: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """Build a JPEG message. Shape: (H, W, 3) uint8 RGB; ``quality`` in 1..100."""
    done, data = cv2.imencode(
        '.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f'OpenCV could not write a picture of shape {pixels.shape} as JPEG')
    msg = CompressedImage(header=header, format='rgb8; jpeg compressed bgr8')
    msg.data.frombytes(data.data)
    return msg


def _message(pixels: np.ndarray, header: Header, encoding: str, channels: int) -> Image:
    height, width = pixels.shape[:2]
    msg = Image(header=header, height=height, width=width, encoding=encoding,
                step=width * channels, is_bigendian=0)
    # Filling the array('B') that is there is fast on every distribution; assigning an array or
    # bytes makes some of them check or copy every single element.
    msg.data.frombytes(np.ascontiguousarray(pixels).data)
    return msg


def _pixels(msg: RawPicture, encoding: str, rows: int, pixel_bytes: int) -> np.ndarray:
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


def _require_even(msg: RawPicture, encoding: str, length: int, side: str) -> None:
    if length % 2:
        raise ImageError(
            f'{encoding} shares colour between neighbours, so its {side} must be even, got '
            f'{msg.width}x{msg.height}; check the camera driver')


def _decode(msg: CompressedImage) -> np.ndarray:
    data = np.frombuffer(msg.data, np.uint8)
    height, width = _compressed_size(bytes(data), msg.format)
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
            f'compressed image ({msg.format!r}, {data.size} bytes) is damaged: OpenCV cannot '
            'decode it; check the camera driver and the network')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


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
