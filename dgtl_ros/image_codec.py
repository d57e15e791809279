# SPDX-License-Identifier: Apache-2.0
"""Pictures in and out of ROS messages; nothing here needs a node, cv_bridge or a copy too many."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

import cv2
from dgtl_core.encodings import (
    decode,
    decode_compressed,
    ImageError,
    Remark,
    UnknownEncodingError,
    unsaid,
)
from dgtl_core.picture_header import MAX_PIXELS
from dgtl_ros.cdr_image import CdrImage
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

if TYPE_CHECKING:
    from std_msgs.msg import Header

Picture: TypeAlias = 'Image | CdrImage | CompressedImage'


def to_rgb(msg: Picture, encoding: str = '', max_pixels: int = MAX_PIXELS,
           remark: Remark = unsaid) -> np.ndarray:
    """
    Read the picture of a message.

    Shape: (H, W, 3) uint8 RGB. For ``rgb8`` it is a view of the message's own memory, padded rows
    included; else a new array. Of 16-bit pixels the high byte is used. An encoding that we do not
    know is left to ``cv_bridge``, where that is installed.

    :param encoding: of a raw picture, where the message's own is wrong; empty: the message's.
    :param max_pixels: what is larger is refused.
    :param remark: called with the kind and the text of what is doubtful.
    :raises ImageError: unknown encoding, impossible size, too little data, a broken JPEG or PNG.
    """
    if isinstance(msg, CompressedImage):
        return decode_compressed(msg.data, msg.format, max_pixels, remark)
    try:
        return decode(msg, encoding, max_pixels, remark)
    except UnknownEncodingError as error:
        return _converted(msg, error)


def _converted(msg: Image | CdrImage, unknown: UnknownEncodingError) -> np.ndarray:
    """Let cv_bridge convert what we cannot; only then it is imported."""
    try:
        bridge = import_module('cv_bridge').CvBridge()
    except (ImportError, AttributeError):  # not there, or made for another NumPy
        raise unknown from None
    try:
        image = np.ascontiguousarray(bridge.imgmsg_to_cv2(msg, 'rgb8'))
    except Exception as error:  # CvBridgeError, KeyError, TypeError and more, by its version
        raise ImageError(f'{unknown}; cv_bridge cannot convert it either '
                         f'({type(error).__name__}: {error})') from None
    if image.shape != (msg.height, msg.width, 3) or image.dtype != np.uint8:
        raise ImageError(f'{unknown}; cv_bridge made {image.dtype} of shape {image.shape} of it')
    return image


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


def png(pixels: np.ndarray, header: Header) -> CompressedImage:
    """Build a lossless PNG message, for radio links. Shape: (H, W) uint8."""
    done, data = cv2.imencode('.png', pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ImageError(f'OpenCV could not write labels of shape {pixels.shape} as PNG')
    msg = CompressedImage(header=header, format='mono8; png compressed mono8')
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
