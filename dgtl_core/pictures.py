# SPDX-License-Identifier: Apache-2.0
"""
Picture files: which there are, how they are read, how they are written.

One rule for all that reads them (training, evaluation, export, the command line, the player):
pixels as they are stored, not turned as an EXIF tag asks, so that labels drawn on these pixels
fit; transparency is dropped; 16 bits become 8; a file that is cut short is an error, and one of
more than MAX_PIXELS is refused before it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
import logging
import mmap
from pathlib import Path

import cv2
from dgtl_core.files import write_atomically
from dgtl_core.picture_header import (
    ENDS,
    ORIENTATION,
    PictureError,
    PictureHeader,
    read_header,
    upright,
)
import numpy as np

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
MAX_BYTES = 1 << 30  # of a file; a picture of MAX_PIXELS is smaller in every kind
_turned: set[int] = set()  # orientations that were warned of


def is_picture(path: Path) -> bool:
    """Return whether a file's name is that of a picture; hidden ones (.x, ._x.png) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith('.')


def find_pictures(places: Iterable[Path]) -> list[Path]:
    """
    Return the picture files among files and folders, those of a folder in the order of names.

    Folders are searched to any depth; hidden ones (.x, __MACOSX) are passed over, and so are
    folders that are called like a picture.

    :raises PictureError: a place does not exist or holds none.
    """
    found: list[Path] = []
    for place in places:
        here = [place] * place.is_file()
        if place.is_dir():
            here = sorted(
                path for path in place.rglob('*')
                if is_picture(path) and not path.is_dir() and not any(
                    part.startswith('.') or part == '__MACOSX'
                    for part in path.relative_to(place).parts))
        if not here:
            raise PictureError(
                f'no pictures at {place}: name files, or a folder with files that end in '
                f'{", ".join(SUFFIXES)}')
        found += here
    return found


def header_of(path: str | Path) -> PictureHeader:
    """
    Return kind, size and orientation of a picture file; its header is read, and its end.

    :raises FileNotFoundError: there is no such file.
    :raises PictureError: it is no picture, cut short, or too large.
    """
    path = _existing(path)
    with open(path, 'rb') as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                # a file that ends as its kind does is whole; in another the end is looked for
                return read_header(data, whole=not data[-8:].endswith(ENDS))
        except ValueError as error:  # also mmap's for an empty file
            raise PictureError(f'{path} cannot be read: {error}') from None


def read_image(path: str | Path) -> np.ndarray:
    """
    Read a picture file as RGB, pixels as they are stored.

    Shape: (H, W, 3) uint8.

    :raises FileNotFoundError: there is no such file.
    :raises PictureError: it is no picture, cut short, damaged or too large.
    """
    data, header = read_checked(path)
    if header.orientation != 1 and header.orientation not in _turned:
        _turned.add(header.orientation)
        logging.getLogger(__name__).warning(
            '%s has orientation %d in its EXIF tag 0x%04x, for which a viewer would turn it: its '
            'pixels are taken as they are stored (said once for each orientation). To turn them, '
            'rewrite the file, for example with "jpegtran" or "exiftran -ai"',
            path, header.orientation, ORIENTATION)
    if header.kind == 'TIFF':
        data = upright(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise PictureError(
            f'{path} cannot be read: OpenCV cannot decode this {header.kind} picture; it is '
            'damaged, or of a variety that OpenCV does not know')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_checked(path: str | Path) -> tuple[bytes, PictureHeader]:
    """
    Return a picture file's bytes and its header, whole and within the limits, for a decoder.

    :raises FileNotFoundError: there is no such file.
    :raises PictureError: it is no picture, cut short or too large.
    """
    path = _existing(path)
    if path.stat().st_size > MAX_BYTES:
        raise PictureError(f'{path} is larger than {MAX_BYTES >> 20} MiB; make it smaller')
    data = path.read_bytes()
    try:
        return data, read_header(data)
    except PictureError as error:
        raise PictureError(f'{path} cannot be read: {error}') from None


def open_video(path: Path) -> cv2.VideoCapture:
    """
    Return a reader of a video file, which need not have been opened.

    :raises PictureError: the name is no valid text, for which OpenCV ends the whole process.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PictureError(
            f'the file name {str(path)!r} is no valid text, which OpenCV cannot open; rename the '
            'file') from None
    return cv2.VideoCapture(str(path))


def write_image(path: str | Path, image: np.ndarray) -> None:
    """
    Write an RGB picture or a (H, W) label map; the file appears complete or not at all.

    :raises ValueError: the suffix is none that OpenCV can write.
    """
    path = Path(path)
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(path.suffix or '.png', pixels)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f'cannot write {path.name}: use a suffix such as .png or .jpg')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.tobytes())


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no picture at {path}')
    return path
