# SPDX-License-Identifier: Apache-2.0
"""
What a data set is, and the ways one is made of others.

The data sets themselves are in :mod:`dgtl_core.data.catalog`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
from dgtl_core.classes import CITYSCAPES, ClassSet, IGNORE_INDEX
import numpy as np
from PIL import Image


class DataError(ValueError):
    """A data set that is not as it should be; the message names the folder or file."""


class LabelledPicture(NamedTuple):
    """One sample: what was seen, and the class of every pixel."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H, W) uint8 class ids, 255 = unlabelled
    name: str
    depth: np.ndarray | None = None  # (H, W) float32 metres, where it is known


class Pictures(Protocol):
    """A data set: a fixed sequence of labelled pictures."""

    name: str
    classes: ClassSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledPicture: ...


class PicturePairs:
    """Picture files with label files; ``table`` turns stored ids into class ids."""

    def __init__(self, name: str, pairs: Sequence[tuple[Path, Path]], table: np.ndarray, *,
                 classes: ClassSet = CITYSCAPES, shrink: int = 1,
                 read: Callable[[Path], np.ndarray] | None = None) -> None:
        """
        :param table: (256,) int16, see :func:`id_table`.
        :param shrink: divide the size of pictures and labels by this.
        :param read: reads a label file as (H, W) ids; by default a grey or a palette PNG.
        """
        self.name, self.classes = name, classes
        self._pairs, self._table, self._shrink = pairs, table, shrink
        self._read = read or read_ids

    def __repr__(self) -> str:
        return f'PicturePairs({self.name}, {self._pairs[0][0]}, {len(self)}, {self._shrink})'

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> LabelledPicture:
        image_file, label_file = self._pairs[index]
        image = cv2.imread(str(image_file), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f'{image_file} is missing or not a picture')
        stored = self._read(label_file)
        if stored.shape != image.shape[:2]:
            raise DataError(
                f'{label_file} has size {stored.shape}, its picture {image_file.name} has '
                f'{image.shape[:2]}; they must be equal')
        labels = np.where(stored < 256, self._table[np.minimum(stored, 255)], -1)
        if (labels < 0).any():
            allowed = [i for i, entry in enumerate(self._table) if entry >= 0]
            raise DataError(
                f'{label_file} holds the ids {np.unique(stored[labels < 0]).tolist()}; '
                f'{self.name} has {_ranges(allowed)}')
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        labels = labels.astype(np.uint8)
        if self._shrink > 1:
            size = image.shape[1] // self._shrink, image.shape[0] // self._shrink
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return LabelledPicture(image, labels, f'{self.name}/{image_file.name}')


def read_ids(path: Path) -> np.ndarray:
    """
    Return the ids in a grey or a palette picture, (H, W).

    :raises DataError: it is no such picture.
    """
    # OpenCV would turn palette entries into colours
    try:
        with Image.open(path) as picture:
            ids = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:  # the second: Pillow's for a broken PNG
        raise DataError(f'{path} cannot be read: {error}') from None
    if ids.ndim != 2:
        raise DataError(
            f'{path} must hold one id for each pixel (grey or palette), got shape {ids.shape}')
    return ids.astype(np.int64)


def id_table(ids: Mapping[int, int], ignored: Iterable[int] = (IGNORE_INDEX,)) -> np.ndarray:
    """Return (256,) int16: stored id -> class id, 255 where ignored, -1 where not allowed."""
    table = np.full(256, -1, np.int16)
    table[list(ignored)] = IGNORE_INDEX
    table[list(ids)] = list(ids.values())
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Write 0, 1, 2, 255 as '0-2, 255'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ', '.join('-'.join(map(str, part)) for part in parts)


class JoinedPictures:
    """Several data sets of the same classes, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        for part in parts[1:]:
            if part.classes.names != parts[0].classes.names:
                raise DataError(
                    f'{parts[0].name} and {part.name} have different classes: not to be mixed')
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.name = '+'.join(part.name for part in parts)
        self.classes = parts[0].classes

    def __repr__(self) -> str:
        return f'JoinedPictures({self.parts})'

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> LabelledPicture:
        part = int(np.searchsorted(self._ends, index, side='right'))
        return self.parts[part][index - (int(self._ends[part - 1]) if part else 0)]


class CachedPictures:
    """
    Another data set, decoded once into two memory-mapped files; all pictures have one size.

    :func:`dgtl_core.learning.batches.cached` makes the files.
    """

    def __init__(self, folder: Path, classes: ClassSet) -> None:
        about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))
        self.name, self._names, self.classes = about['name'], about['names'], classes
        self._folder = folder
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> LabelledPicture:
        if self._arrays is None:  # opened in the process that reads, not where it was made
            self._arrays = (np.load(self._folder / 'images.npy', mmap_mode='r'),
                            np.load(self._folder / 'labels.npy', mmap_mode='r'))
        images, labels = self._arrays
        return LabelledPicture(
            np.array(images[index]), np.array(labels[index]), self._names[index])
