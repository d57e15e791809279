# SPDX-License-Identifier: Apache-2.0
"""Label pictures: the number, or the colour, of every pixel, and the classes these stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import io
from pathlib import Path

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.label_mapping import MAX_VALUE
from dgtl_core.picture_header import PictureHeader
from dgtl_core.pictures import read_checked
import numpy as np
from PIL import Image


class DataError(ValueError):
    """A data set that is not as it should be; the message names the folder or file."""


class ColorError(DataError):
    """A label picture that holds colours where numbers are expected."""


def read_ids(path: Path) -> np.ndarray:
    """
    Return the numbers as they are stored in a grey or a palette picture, (H, W) int64.

    A picture in colours is taken for grey where its three channels are equal; transparency is
    passed over.

    :raises ColorError: it is in colours.
    :raises DataError: it is no such picture, or larger than a picture may be.
    """
    ids = _decoded(path, None)
    if ids.ndim == 3:
        ids = ids[..., :ids.shape[2] - (ids.shape[2] in (2, 4))]  # the last one is alpha
        if (ids != ids[..., :1]).any():
            raise ColorError(
                f'{path} is in colours, and must hold one number for each pixel (grey or '
                'palette); for an own folder, say in its class file what each colour means, for '
                'example "colors: {road: [128, 64, 128]}" (docs/train.md)')
        ids = ids[..., 0]
    return ids.astype(np.int64)


def read_colors(path: Path, colors: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """
    Return the class ids that colours stand for, (H, W) int64; any other colour is 255.

    :param colors: (red, green, blue, class id) each.
    :raises DataError: it is no picture, or larger than a picture may be.
    """
    rgb = _decoded(path, 'RGB').astype(np.int64)
    pixels = (rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]
    codes = np.array([(r << 16) + (g << 8) + b for r, g, b, _ in colors])
    order = np.argsort(codes)
    place = order[np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)]
    ids = np.array([color[3] for color in colors])
    return np.where(codes[place] == pixels, ids[place], IGNORE_INDEX)


def read_synthia(path: Path) -> np.ndarray:
    """Return the ids of SYNTHIA, which lie in the red channel of 16-bit pictures, (H, W)."""
    data, _ = _checked(path)
    stored = _unchanged(data)
    if stored is None or stored.ndim != 3:
        raise DataError(f'{path} is no 16-bit label picture with three channels')
    return stored[..., 2].astype(np.int64)  # OpenCV has blue first


def id_table(ids: Mapping[int, int], ignored: Iterable[int] = (IGNORE_INDEX,), *,
             rest: int = -1) -> np.ndarray:
    """
    Return (N,) int16: stored number -> class id, 255 where ignored; N is at least 256.

    :param rest: for numbers that are not named: 255 ignores them, -1 does not allow them.
    """
    most = MAX_VALUE if rest >= 0 else max(255, *ids, *ignored)
    table = np.full(most + 1, rest, np.int16)
    table[list(ignored)] = IGNORE_INDEX
    table[list(ids)] = list(ids.values())
    return table


def ranges(numbers: Sequence[int]) -> str:
    """Write 0, 1, 2, 255 as '0-2, 255'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ', '.join('-'.join(map(str, part)) for part in parts)


def named(files: Sequence[Path | str]) -> str:
    """Name the first five of files, or of classes."""
    return ', '.join(map(str, files[:5])) + (', ...' if len(files) > 5 else '')


def _checked(path: Path) -> tuple[bytes, PictureHeader]:
    try:
        data, header = read_checked(path)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from None
    if header.kind == 'JPEG':
        raise DataError(
            f'{path} is a JPEG, which does not keep the numbers of labels; save the labels as '
            'PNG, from where they were made')
    return data, header


def _decoded(path: Path, mode: str | None) -> np.ndarray:
    data, header = _checked(path)
    if mode is None and header.bits == 16:
        stored = _unchanged(data)  # Pillow keeps half of the bits
        if stored is None:
            raise DataError(f'{path} cannot be read: OpenCV cannot decode this PNG picture')
        return stored
    try:  # OpenCV would turn palette entries into colours
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture if mode is None else picture.convert(mode))
            spread = mode is None and picture.mode == 'L' and header.bits in (2, 4)
    # SyntaxError is Pillow's for a broken PNG; its decoders raise the others
    except (OSError, SyntaxError, ValueError, OverflowError, MemoryError,
            Image.DecompressionBombError) as error:
        raise DataError(f'{path} cannot be read: {error}') from None
    # Pillow multiplies grey numbers of few bits, so that the largest becomes 255
    return pixels // (255 // (2 ** header.bits - 1)) if spread else pixels


def _unchanged(data: bytes) -> np.ndarray | None:
    """Return the numbers of a picture as they are stored, colours as BGR; None: it is broken."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
