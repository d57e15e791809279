# SPDX-License-Identifier: Apache-2.0
"""
The pictures of ``sensor_msgs``, decoded without ROS: of a live message, or of one from a bag.

The one place that knows BGR. Everything leaves it as (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import cv2
from dgtl_core.picture_header import MAX_PIXELS, PictureError, read_header
import numpy as np

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
    'i420': cv2.COLOR_YUV2RGB_I420,  # of this one, a plane of each colour
}
_FULL = 'nv24'  # a full plane of brightness, then a full plane of interleaved colour
# BT.601 with the range 16..235, as OpenCV computes the others: rows R, G, B; columns Y, U, V, 1.
_YUV_TO_RGB = np.array([[1.164, 0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0]])
_YUV_TO_RGB = np.hstack([_YUV_TO_RGB, _YUV_TO_RGB @ [[-16], [-128], [-128]]])
_UNSAID = {  # names of OpenCV, which do not say what the channels mean; cv_bridge's default
    '8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC1': 'mono16'}
ENCODINGS = tuple(sorted(
    [f'{layout}{bits}' for layout in _LAYOUTS for bits in (8, 16)] +
    [*_PACKED, *_PLANAR, _FULL]))


class ImageError(ValueError):
    """A message that does not hold a picture we can read; the text says why."""


class UnknownEncodingError(ImageError):
    """A raw picture whose encoding is not among ENCODINGS."""


# Told of what is doubtful about a picture that can be read: a word for the kind, a sentence.
Remark: TypeAlias = Callable[[str, str], None]
DAMAGED = 'damaged'  # the kind of remark that this picture alone deserves


def unsaid(kind: str, text: str) -> None:
    """Take a remark, and do not say it."""


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


def decode(msg: RawImage, encoding: str = '', max_pixels: int = MAX_PIXELS,
           remark: Remark = unsaid) -> np.ndarray:
    """
    Read the picture of a raw message.

    Shape: (H, W, 3) uint8 RGB. For ``rgb8`` it is a view of the message's own memory, padded rows
    included; else a new array. Of 16-bit pixels the high byte is used.

    :param encoding: where the message's own is wrong; empty: the message's.
    :param max_pixels: what is larger is refused.
    :param remark: called with the kind and the text of what is doubtful.
    :raises ImageError: unknown encoding, impossible size, too little data.
    """
    encoding = encoding or msg.encoding
    height, width = msg.height, msg.width
    if not (0 < height and 0 < width and height * width <= max_pixels):
        raise ImageError(
            f'image size {width}x{height} is impossible: both sides must be at least 1 and the '
            f'product at most {max_pixels} (max_pixels); check the camera driver')
    if encoding in _UNSAID:
        remark(encoding, f'the encoding {encoding} does not say what the channels mean, and is '
               f'read as {_UNSAID[encoding]}; where that is wrong, set input_encoding')
        encoding = _UNSAID[encoding]
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
        if encoding == 'i420':  # the rows of colour are half as long, and so is their padding
            _pixels(msg, encoding, 1, 1)
            _require_even(msg, encoding, msg.step, 'step')
            planes = _rows(msg, encoding, height + height // 2)
            return cv2.cvtColor(planes, _PLANAR[encoding])[:, :width]
        planes = _pixels(msg, encoding, height + height // 2, 1)
        return cv2.cvtColor(planes, _PLANAR[encoding])
    if encoding == _FULL:
        rows = _pixels(msg, encoding, height, 1), _color_rows(msg, encoding)
        return cv2.transform(np.concatenate(rows, 2), _YUV_TO_RGB)
    raise UnknownEncodingError(
        f'image encoding {encoding!r} is not supported: use one of {list(ENCODINGS)}; set it '
        'in the camera driver, convert with image_proc, or install cv_bridge')


def decode_compressed(data: Any, name: str, max_pixels: int = MAX_PIXELS,
                      remark: Remark = unsaid) -> np.ndarray:
    """
    Read the picture of a ``sensor_msgs/CompressedImage``.

    Shape: (H, W, 3) uint8 RGB, a new array.

    A Bayer mosaic (image_transport says so in ``format``) is demosaiced. An Exif rotation is not
    applied: labels must fit the camera's picture as it is stored.

    :param data: the field of that name: bytes, or what has their buffer.
    :param name: the field ``format``, such as ``bayer_rggb8; jpeg compressed bayer_rggb8``.
    :param max_pixels: what is larger, or as much work, is refused before it is decoded.
    :param remark: called with the kind and the text of what is doubtful.
    :raises ImageError: neither JPEG nor PNG, not as ``format`` says, too large, cut off, damaged.
    """
    data = bytes(data)
    start = f'compressed image ({name!r}, {len(data)} bytes)'
    if not data.startswith((b'\xff\xd8', b'\x89PNG')):
        raise ImageError(f'{start} is neither JPEG nor PNG; set the camera driver to one of them, '
                         'or use image_transport "raw"')
    try:
        header = read_header(data, max_pixels=max_pixels)
    except PictureError as error:
        raise ImageError(f'{start} cannot be read: {error}; check the camera driver and the '
                         'network') from None
    if header.orientation != 1:
        remark('Exif', f'Exif orientation {header.orientation} would turn them; they are read as '
               'they are stored, and the labels fit those pixels')
    layout = _stated_layout(name)
    gray = layout == 'mono' or layout.startswith('bayer')
    if layout and gray != (header.channels == 1):
        raise ImageError(
            f'{start} has {header.channels} channel(s), and its format states {layout}: correct '
            'the format in the camera driver')
    bayer = layout.startswith('bayer')
    if header.kind == 'JPEG':
        image = _jpeg(data, bayer, remark)
        if image is not None:
            return cv2.cvtColor(image, _LAYOUTS[layout][1] or 0) if bayer else image
    flags = cv2.IMREAD_UNCHANGED if bayer else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None or bayer and (image.ndim != 2 or min(image.shape) < 2):
        raise ImageError(f'{start} is damaged: OpenCV cannot decode it; check the camera driver '
                         'and the network')
    if not bayer:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    if image.dtype == np.uint16:
        image = (image.view(np.uint16) >> 8).astype(np.uint8)
    return cv2.cvtColor(image, _LAYOUTS[layout][1] or 0)


def _jpeg(data: bytes, bayer: bool, remark: Remark) -> np.ndarray | None:
    """
    Decode a JPEG where simplejpeg is installed: three times as fast as OpenCV's, and it warns.

    Both are libjpeg-turbo and give the same pixels. OpenCV writes a line to standard error for
    each damaged picture, of which a loose cable makes thirty a second. None: OpenCV has to try.
    """
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    space = 'GRAY' if bayer else 'RGB'
    try:
        image: np.ndarray = decode_jpeg(data, space, strict=True)
    except ValueError as error:
        try:
            image = decode_jpeg(data, space, strict=False)
        except ValueError:
            return None
        remark(DAMAGED, f'{error}; what is wrong shows in the picture')
    return image if not bayer else image[:, :, 0] if min(image.shape[:2]) > 1 else None


def _stated_layout(name: str) -> str:
    """Return what the field ``format`` says that the compressed pixels are; empty: nothing."""
    # image_transport writes "SOURCE; jpeg compressed TARGET"; without a target it is the source.
    source, _, rest = name.partition(';')
    target = rest.partition('compressed')[2].strip() or source.strip()
    layout = target.removesuffix('16').removesuffix('8')
    return layout if layout in _LAYOUTS and layout != target else ''


def _pixels(msg: RawImage, encoding: str, rows: int, pixel_bytes: int) -> np.ndarray:
    """View the data as (rows, width, pixel_bytes), whatever the padding of the rows."""
    row_bytes = msg.width * pixel_bytes
    if msg.step < row_bytes:
        raise ImageError(
            f'image step {msg.step} is too small: a row of {msg.width} pixels of '
            f'{encoding} has {row_bytes} bytes; check the camera driver')
    # Some drivers leave out the last row's padding.
    data = _data(msg, encoding, msg.step * (rows - 1) + row_bytes)
    shape = (rows, msg.width, pixel_bytes)
    return np.ndarray(shape, np.uint8, data, strides=(msg.step, pixel_bytes, 1))


def _rows(msg: RawImage, encoding: str, rows: int) -> np.ndarray:
    """View the data as (rows, step), padding included."""
    return _data(msg, encoding, rows * msg.step)[:rows * msg.step].reshape(rows, msg.step)


def _color_rows(msg: RawImage, encoding: str) -> np.ndarray:
    """View what follows a full plane as (height, width, 2)."""
    start, step = msg.step * msg.height, 2 * msg.step
    data = _data(msg, encoding, start + step * (msg.height - 1) + 2 * msg.width)
    shape = (msg.height, msg.width, 2)
    return np.ndarray(shape, np.uint8, data, start, strides=(step, 2, 1))


def view(data: object) -> np.ndarray:
    """
    View the bytes of a message without a copy: the one place that knows what holds them.

    rclpy gives an ``array.array``, bags give bytes. From Lyrical on, a subscription that asks for
    another memory gets a ``rosidl_buffer.Buffer``, which the CPU cannot read.

    Shape: (N,) uint8.

    :raises ImageError: the CPU cannot read them.
    """
    try:
        return np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    except TypeError:
        raise ImageError(
            f'the data of the message is a {type(data).__name__}, which does not lie in the '
            "memory of the CPU: leave the subscription's acceptable_buffer_backends empty"
        ) from None


def _data(msg: RawImage, encoding: str, needed: int) -> np.ndarray:
    """View the data as bytes, of which there must be so many."""
    data = view(msg.data)
    if data.size < needed:
        raise ImageError(
            f'image is truncated: {msg.width}x{msg.height} {encoding} with step {msg.step} '
            f'needs {needed} bytes, got {data.size}; check the camera driver and the network')
    return data


def _require_even(msg: RawImage, encoding: str, length: int, side: str) -> None:
    if length % 2:
        raise ImageError(
            f'{encoding} shares colour between neighbours, so its {side} must be even, got '
            f'{msg.width}x{msg.height}; check the camera driver')
