# SPDX-License-Identifier: Apache-2.0
"""
What a data set is, and the ways one is made of others.

The data sets themselves are in :mod:`dgtl_core.data.catalog`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import cv2
from dgtl_core.classes import CITYSCAPES, ClassSet, IGNORE_INDEX
from dgtl_core.data.labels import DataError, named, ranges, read_ids
from dgtl_core.data.pairs import Pairs
from dgtl_core.picture_header import PictureError
from dgtl_core.pictures import read_image
import numpy as np

Size = tuple[int, int]
NO_SIZES: Mapping[str, Size] = MappingProxyType({})


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
    # (height, width) that a protocol fits its pictures into, by protocol; none: as they are
    protocol_sizes: Mapping[str, Size]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledPicture: ...

    def fingerprint(self) -> str:
        """Return a text that is another one whenever the pictures or labels are others."""


class PicturePairs:
    """Picture files with label files; ``id_table`` turns stored numbers into class ids."""

    def __init__(self, name: str, pairs: Pairs, id_table: np.ndarray, *,
                 classes: ClassSet = CITYSCAPES, shrink: int = 1,
                 read: Callable[[Path], np.ndarray] = read_ids,
                 protocol_sizes: Mapping[str, Size] = NO_SIZES, notes: Sequence[str] = (),
                 own_ids: bool = False) -> None:
        """
        :param id_table: (N,) int16, see :func:`dgtl_core.data.labels.id_table`.
        :param shrink: divide the size of pictures and labels by this.
        :param read: reads a label file as (H, W) numbers; by default a grey or a palette PNG.
        :param notes: what the user should know of these files.
        :param own_ids: label values are class ids because nobody said what else they are.
        """
        self.name, self.classes, self.protocol_sizes = name, classes, protocol_sizes
        self.pairs, self.missing, self.notes = pairs.found, pairs.missing, tuple(notes)
        self.own_ids = own_ids
        self._id_table, self._shrink, self._read = id_table, shrink, read

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> LabelledPicture:
        image_file, label_file = self.pairs[index]
        try:
            image = read_image(image_file)
        except (OSError, PictureError) as error:
            raise DataError(str(error)) from None
        labels = self.labels(label_file)
        if labels.shape != image.shape[:2]:
            raise DataError(
                f'{label_file} has size {labels.shape}, its picture {image_file.name} has '
                f'{image.shape[:2]}; they must be equal')
        if self._shrink > 1:
            size = image.shape[1] // self._shrink, image.shape[0] // self._shrink
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return LabelledPicture(image, labels, f'{self.name}/{image_file.name}')

    def labels(self, label_file: Path) -> np.ndarray:
        """
        Return the class ids of a label file. Shape: (H, W) uint8.

        :raises DataError: it cannot be read, or holds what this data set does not have.
        """
        stored = self._read(label_file)
        most = len(self._id_table) - 1
        labels = np.where(
            (0 <= stored) & (stored <= most), self._id_table[stored.clip(0, most)], -1)
        if (labels < 0).any():
            allowed = np.flatnonzero(self._id_table >= 0).tolist()
            raise DataError(
                f'{label_file} holds the ids {np.unique(stored[labels < 0])[:20].tolist()}; '
                f'{self.name} has {ranges(allowed)}')
        return labels.astype(np.uint8)

    def fingerprint(self) -> str:
        """Return a text that changes with the files, or with what they mean."""
        digest = hashlib.sha256(self._id_table.tobytes())
        digest.update(repr((self.name, self._shrink, self.classes)).encode())
        for file in (file for pair in self.pairs for file in pair):
            digest.update(repr(_about(file)).encode())
        return digest.hexdigest()


def _about(file: Path) -> tuple[str, int, int]:
    about = file.stat()
    return str(file), about.st_size, about.st_mtime_ns


class UnlabelledPictures:
    """Picture files without labels, which only a teacher can make something of."""

    def __init__(self, name: str, files: Sequence[Path], classes: ClassSet) -> None:
        """:param classes: what the labels of the pictures beside them mean."""
        self.name, self.files, self.classes = name, tuple(files), classes
        self.protocol_sizes = NO_SIZES

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> LabelledPicture:
        try:
            image = read_image(self.files[index])
        except (OSError, PictureError) as error:
            raise DataError(str(error)) from None
        return LabelledPicture(image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8),
                               f'{self.name}/{self.files[index].name}')

    def fingerprint(self) -> str:
        """Return a text that changes with the files."""
        return hashlib.sha256(repr([self.name, *map(_about, self.files)]).encode()).hexdigest()


def _difference(first: Pictures, second: Pictures) -> str:
    """Say how the classes of two data sets differ."""
    only = []
    for one, other in ((first, second), (second, first)):
        names = [name for name in one.classes.names if name not in other.classes.names]
        only += [f'only {one.name} has {named(names)}'] * bool(names)
    return '; '.join(only) or 'they come in another order'


class JoinedPictures:
    """Several data sets of the same classes, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        for part in parts[1:]:
            if part.classes.names != parts[0].classes.names:
                raise DataError(
                    f'{parts[0].name} and {part.name} have different classes: '
                    f'{_difference(parts[0], part)}. Only data sets of the same classes, in the '
                    'same order, can be learned together')
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.name = '+'.join(part.name for part in parts)
        self.classes, self.protocol_sizes = parts[0].classes, NO_SIZES

    def fingerprint(self) -> str:
        """Return a text that changes with any of the parts."""
        return '+'.join(part.fingerprint() for part in self.parts)

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

    def __init__(self, folder: Path, source: Pictures) -> None:
        about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))
        self._names = about['names']
        self.name, self.classes = source.name, source.classes
        self.protocol_sizes = source.protocol_sizes
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

    def fingerprint(self) -> str:
        """Return the name of the files, which is made of the source's fingerprint."""
        return self._folder.name
