# SPDX-License-Identifier: Apache-2.0
"""Pictures in and out of ROS messages; nothing here needs a node, cv_bridge or a copy too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import cv2
from dgtl_core.encodings import decode, decode_compressed, ImageError
from dgtl_ros.cdr_image import CdrImage
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

if TYPE_CHECKING:
    from std_msgs.msg import Header

Picture: TypeAlias = 'Image | CdrImage | CompressedImage'


def to_rgb(msg: Picture, encoding: str = '') -> np.ndarray:
    """
    Read the picture of a message.

    Shape: (H, W, 3) uint8 RGB. For ``rgb8`` it is a view of the message's own memory, padded rows
    included; else a new array. Of 16-bit pixels the high byte is used.

    :param encoding: of a raw picture, where the message's own is wrong; empty: the message's.
    :raises ImageError: unknown encoding, impossible size, too little data, a broken JPEG or PNG.
    """
    if isinstance(msg, CompressedImage):
        return decode_compressed(msg.data, msg.format)
    return decode(msg, encoding)


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
