# SPDX-License-Identifier: Apache-2.0
"""
What the bytes of a picture say before anything is decoded: kind, size, orientation, wholeness.

A decoder allocates what a header claims and fills what is missing with grey, so both are looked at
first. Sizes are (height, width) in pixels. Only the standard library is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import mmap
import re
import struct
from typing import NamedTuple
import zlib

MAX_PIXELS = 1 << 26  # 8192 x 8192; more is refused before it is decoded
# Each scan of a progressive JPEG visits all pixels. Encoders make about ten; a file of 400 KB may
# hold hundreds. All together are as much work as so many scans of the largest picture.
_MOST_SCANS, _SCANS_OF_LARGEST = 64, 16
_MOST_PARTS = 1 << 16  # segments or chunks; a picture of 500 MB has fewer
ENDS = b'\xff\xd9', b'IEND\xaeB`\x82'  # the last bytes of a JPEG and of a PNG
ORIENTATION = 0x0112  # the tag of EXIF and TIFF: 1 upright, 2..8 mirrored or turned
_WIDTH, _HEIGHT = 0x0100, 0x0101  # tags of TIFF

Data = bytes | mmap.mmap  # mmap: only the pages that are looked at are read


class PictureError(ValueError):
    """A picture that cannot be used; the message says why and what to do."""


class PictureHeader(NamedTuple):
    """What is known of a picture without decoding it."""

    kind: str  # JPEG, PNG, BMP, PNM, TIFF or WebP
    size: tuple[int, int]  # as the pixels are stored
    orientation: int = 1  # a viewer would turn the picture where it is not 1
    scans: int = 1
    channels: int = 0  # of JPEG and PNG: 1 (grey) or 3 and more, without alpha; 0: not looked at
    bits: int = 0  # of PNG: of each number, 1 to 16; 0: not looked at


def read_header(data: Data, *, whole: bool = True, max_pixels: int = MAX_PIXELS) -> PictureHeader:
    """
    Read the header of a JPEG, PNG, BMP, PNM (.ppm, .pgm), TIFF or WebP picture.

    Stray bytes between JPEG segments and after a picture's end are passed over, as decoders do.

    :param whole: find out whether the end is there too; False looks at the header alone.
    :raises PictureError: another kind, an end that is missing, no size or too large a one.
    """
    read = next((read for start, read in _READERS.items() if data[:len(start)] == start), None)
    if read is None:
        raise PictureError(
            'it is not a picture of a known kind: use JPEG, PNG, BMP, PPM, TIFF or WebP')
    try:
        header = read(data, whole)
    except (struct.error, IndexError):
        raise PictureError(_CUT) from None
    height, width = header.size
    if not (0 < height and 0 < width and height * width <= max_pixels):
        raise PictureError(
            f'a {header.kind} picture of {width}x{height} is refused: both sides must be at least '
            f'1 and the product at most {max_pixels} pixels')
    if (header.scans > _MOST_SCANS or
            height * width * header.scans > _SCANS_OF_LARGEST * max_pixels):
        raise PictureError(
            f'a JPEG of {width}x{height} with {header.scans} scans would take seconds to decode; '
            'save it with fewer, for example as baseline JPEG')
    return header


def upright(tiff: bytes) -> bytes:
    """Return a TIFF file without its orientation, which OpenCV would apply whatever it is told."""
    order = '<' if tiff[:2] == b'II' else '>'
    for place, tag, _, _ in _entries(tiff, order):
        if tag == ORIENTATION:
            return tiff[:place + 8] + struct.pack(f'{order}HH', 1, 0) + tiff[place + 12:]
    return tiff


_CUT = 'it is cut short: its end is missing'
_MANY = f'it has more than {_MOST_PARTS} parts; save it again'
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # by the kind of colour
# A marker of JPEG. Stuffed zeros and restarts belong to the picture, TEM has no content.
_MARKER = re.compile(rb'\xff([^\x00\x01\xd0-\xd7\xff])')


def _jpeg(data: Data, whole: bool) -> PictureHeader:
    at, size, orientation, scans, channels = 2, None, 1, 0, 0
    for _ in range(_MOST_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None:
            raise PictureError(_CUT)
        code, at = marker[1][0], marker.end()
        if code == 0xD9 and scans and size:  # end of image
            return PictureHeader('JPEG', size, orientation, scans, channels)
        if code in (0xD8, 0xD9):
            continue
        length = struct.unpack('>H', data[at:at + 2])[0]
        if at + length > len(data):
            raise PictureError(_CUT)
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width, channels = struct.unpack('>HHB', data[at + 3:at + 8])
            size = height, width
        elif code == 0xE1 and data[at + 2:at + 8] == b'Exif\0\0':
            orientation = _tags(bytes(data[at + 8:at + length])).get(ORIENTATION, 1)
        elif code == 0xDA:  # start of scan
            scans += 1
            if not whole and size:
                return PictureHeader('JPEG', size, orientation, channels=channels)
        at += max(length, 2)
    raise PictureError(_MANY)


def _png(data: Data, whole: bool) -> PictureHeader:
    width, height, bits, color = struct.unpack('>IIBB', data[16:26])
    orientation, at = 1, 8
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack('>I4s', data[at:at + 8])
        if kind == b'IEND' or kind == b'IDAT' and not whole:
            return PictureHeader('PNG', (height, width), orientation,
                                 channels=_PNG_CHANNELS.get(color, 0), bits=bits)
        if at + 12 + length > len(data):
            raise PictureError(_CUT)
        if kind == b'eXIf':
            orientation = _tags(bytes(data[at + 8:at + 8 + length])).get(ORIENTATION, 1)
        # A decoder would draw what it can of it, or nothing, and complain to standard error.
        if whole and kind[0] < ord('a') and zlib.crc32(data[at + 4:at + 8 + length]) != \
                int.from_bytes(data[at + 8 + length:at + 12 + length], 'big'):
            raise PictureError(f'it is damaged: the checksum of {kind.decode("latin-1")} is wrong')
        at += 12 + length
    raise PictureError(_MANY)


def _bmp(data: Data, whole: bool) -> PictureHeader:
    length, start, about = struct.unpack('<2x I 4x I I', data[:18])
    if about < 40:
        raise PictureError('it is a BMP of OS/2, which is not read; save it as PNG')
    width, height, _, depth, packed = struct.unpack('<iiHHI', data[18:34])
    height = abs(height)  # below zero: the top row comes first
    rows = 0 if packed in (1, 2) else (width * depth + 31) // 32 * 4 * height
    if whole and len(data) < start + rows:
        raise PictureError(_CUT)
    return PictureHeader('BMP', (height, width))


_PNM = re.compile(rb'P[2356](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s')


def _pnm(data: Data, whole: bool) -> PictureHeader:
    found = _PNM.match(data)
    if found is None:
        raise PictureError('it is not a PPM or PGM picture: its first lines hold no size')
    return PictureHeader('PNM', (int(found[2]), int(found[1])))


def _webp(data: Data, whole: bool) -> PictureHeader:
    if data[8:12] != b'WEBP':
        raise PictureError('it is a RIFF file but not WebP')
    if whole and 8 + struct.unpack('<I', data[4:8])[0] > len(data):
        raise PictureError(_CUT)
    form = data[12:16]
    if form == b'VP8X':
        width, height = (1 + int.from_bytes(data[i:i + 3], 'little') for i in (24, 27))
    elif form == b'VP8L':
        bits = struct.unpack('<I', data[21:25])[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack('<HH', data[26:30]))
    at, orientation = 12, 1
    while form == b'VP8X' and at + 8 <= len(data):
        kind, length = struct.unpack('<4sI', data[at:at + 8])
        if kind == b'EXIF':
            block = bytes(data[at + 8:at + 8 + length]).removeprefix(b'Exif\0\0')
            orientation = _tags(block).get(ORIENTATION, 1)
        at += 8 + length + length % 2
    return PictureHeader('WebP', (height, width), orientation)


def _tiff(data: Data, whole: bool) -> PictureHeader:
    tags = _tags(data)
    if not {_WIDTH, _HEIGHT} <= tags.keys():
        raise PictureError(_CUT)
    return PictureHeader('TIFF', (tags[_HEIGHT], tags[_WIDTH]), tags.get(ORIENTATION, 1))


def _tags(block: Data) -> dict[int, int]:
    """Return the whole numbers of a TIFF structure's first directory by their tags."""
    order = {b'II': '<', b'MM': '>'}.get(bytes(block[:2]), '')
    found = {}
    for _, tag, kind, value in _entries(block, order) if order else ():
        if kind == 3:  # short
            found[tag] = struct.unpack(f'{order}H', value[:2])[0]
        elif kind == 4:  # long
            found[tag] = struct.unpack(f'{order}I', value)[0]
    if not 1 <= found.get(ORIENTATION, 1) <= 8:
        del found[ORIENTATION]
    return found


def _entries(block: Data, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield place, tag, type and value of each entry of a TIFF structure's first directory."""
    try:
        at = struct.unpack(f'{order}I', block[4:8])[0]
        count = struct.unpack(f'{order}H', block[at:at + 2])[0]
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack(f'{order}HHI4s', block[entry:entry + 12])
            yield entry, tag, kind, value
    except struct.error:  # a directory that is cut short has said what it says
        return


_READERS: dict[bytes, Callable[[Data, bool], PictureHeader]] = {
    b'\xff\xd8\xff': _jpeg, b'\x89PNG\r\n\x1a\n': _png, b'BM': _bmp, b'RIFF': _webp,
    b'II*\0': _tiff, b'MM\0*': _tiff, **{f'P{kind}'.encode(): _pnm for kind in (2, 3, 5, 6)}}
