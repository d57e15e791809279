# SPDX-License-Identifier: Apache-2.0
"""
A ``sensor_msgs/Image`` read from its serialized bytes, where rclpy would copy them twice.

The layout is the one of CDR: an encapsulation of four bytes, whose second says the byte order,
then the fields, each aligned to its own size relative to byte 4; strings and sequences have their
length in front.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from dgtl_core.encodings import ImageError
from std_msgs.msg import Header

_KINDS = (0, 1, 6, 7)  # CDR and plain XCDR2, big and little endian; they differ in 64-bit fields


class CdrImage(NamedTuple):
    """What a ``sensor_msgs/Image`` holds; ``data`` is a view of the message that came."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


def read_image(message: bytes) -> CdrImage:
    """
    Read a serialized ``sensor_msgs/Image``.

    :raises ImageError: the bytes are not such a message, or end too early.
    """
    try:
        kind, order = int.from_bytes(message[:2], 'big'), '<' if message[1] & 1 else '>'
        if kind not in _KINDS:
            raise ImageError(
                f'the middleware serializes in another way (kind {kind}) than raw_subscription '
                'can read; set raw_subscription to false')
        sec, nanosec = struct.unpack_from(f'{order}iI', message, 4)
        frame_id, at = _text(message, 12, order)
        height, width = struct.unpack_from(f'{order}II', message, at)
        encoding, at = _text(message, at + 8, order, aligned=False)
        bigendian = message[at]
        step, size = struct.unpack_from(f'{order}II', message, _aligned(at + 1))
    except (struct.error, IndexError) as error:
        raise ImageError(
            f'a message of {len(message)} bytes is no image ({error}); check the camera driver '
            'and the network') from None
    data = memoryview(message)[_aligned(at + 1) + 8:][:size]
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = sec, nanosec
    return CdrImage(header, height, width, encoding, bigendian, step, data)


def _text(message: bytes, at: int, order: str, aligned: bool = True) -> tuple[str, int]:
    """Return a string and where the next field starts."""
    size, = struct.unpack_from(f'{order}I', message, at)
    end = at + 4 + size
    text = message[at + 4:end].rstrip(b'\0').decode(errors='replace')  # as rclpy does
    return text, _aligned(end) if aligned else end


def _aligned(at: int) -> int:
    return at + -at % 4
