# SPDX-License-Identifier: Apache-2.0
"""
Labelled street pictures: the public data sets, StreetWorld, and plain folders.

A data set is named as on the command line: ``NAME``, ``NAME:FOLDER`` or ``NAME:FOLDER,key=value``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
import inspect
import json
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
from dgtl_core.classes import CITYSCAPES, ClassSet, IGNORE_INDEX
import numpy as np


class DataError(ValueError):
    """A data set that is not as it should be; the message names the folder or file."""


class LabelledPicture(NamedTuple):
    """One sample: what was seen, and the class of every pixel."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H, W) uint8 class ids, 255 = unlabelled
    name: str


class Pictures(Protocol):
    """A data set: a fixed sequence of labelled pictures."""

    name: str
    classes: ClassSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledPicture: ...


class StreetWorldPictures:
    """Pictures of procedural streets, drawn when they are asked for."""

    def __init__(self, condition: str = 'clear', *, count: int = 100, seed: int = 1000,
                 severity: int = 3, height: int = 512, width: int = 1024) -> None:
        from dgtl_core.data.streetworld import CONDITIONS, StreetWorld

        if condition not in CONDITIONS:
            raise DataError(
                f'StreetWorld has no condition {condition!r}; take one of {list(CONDITIONS)}')
        self._world = StreetWorld(
            seed=seed, size=(height, width), condition=condition, severity=severity)
        self._count = count
        self._about = (condition, count, seed, severity, height, width)
        self.name = f'streetworld-{condition}'
        self.classes = CITYSCAPES

    def __repr__(self) -> str:
        return f'StreetWorldPictures{self._about}'

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> LabelledPicture:
        if not 0 <= index < self._count:
            raise IndexError(index)
        sample = self._world.picture(index)
        return LabelledPicture(sample.image, sample.labels, f'{self.name}/{index}')


class PicturePairs:
    """Picture files with label files; ``table`` turns stored ids into class ids."""

    def __init__(self, name: str, pairs: Sequence[tuple[Path, Path]], table: np.ndarray,
                 classes: ClassSet = CITYSCAPES,
                 read_labels: Callable[[Path], np.ndarray] | None = None) -> None:
        self.name, self.classes = name, classes
        self._pairs, self._table = pairs, table
        self._read_labels = read_labels or _read_labels

    def __repr__(self) -> str:
        return f'PicturePairs({self.name}, {self._pairs[0][0]}, {len(self)})'

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> LabelledPicture:
        image_file, label_file = self._pairs[index]
        image = cv2.imread(str(image_file), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f'{image_file} is missing or not a picture')
        stored = self._read_labels(label_file)
        if stored.shape != image.shape[:2]:
            raise DataError(
                f'{label_file} has size {stored.shape}, its picture {image_file.name} '
                f'{image.shape[:2]}; they must be equal')
        labels = self._table[stored]
        if (labels < 0).any():
            raise DataError(
                f'{label_file} holds the ids {np.unique(stored[labels < 0]).tolist()}, which '
                f'{self.name} does not have')
        return LabelledPicture(
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB), labels.astype(np.uint8), image_file.name)


def _read_labels(path: Path) -> np.ndarray:
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f'{path} is missing or not a picture')
    if labels.ndim != 2:
        raise DataError(f'{path} must hold one id for each pixel, got shape {labels.shape}')
    return labels


def id_table(ids: dict[int, int], ignored: Sequence[int] = (), size: int = 256) -> np.ndarray:
    """Return (size,) int16: stored id -> class id, 255 where ignored, -1 where not allowed."""
    table = np.full(size, -1, np.int16)
    table[list(ignored)] = IGNORE_INDEX
    table[list(ids)] = list(ids.values())
    return table


def pairs_below(images: Path, labels: Path, label_of: Callable[[Path], str],
                pattern: str = '**/*.png') -> list[tuple[Path, Path]]:
    """
    Return the pictures below ``images`` with their label files, sorted.

    :raises DataError: a folder or a label file is not there, or there is no picture.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise DataError(f'there is no folder {folder}')
    found = sorted(images.glob(pattern))
    if not found:
        raise DataError(f'{images} holds no {pattern}')
    pairs = [(file, labels / label_of(file.relative_to(images))) for file in found]
    for image, label in pairs:
        if not label.is_file():
            raise DataError(f'{image} has no labels: there is no {label}')
    return pairs


def camvid(folder: str, *, split: str = 'test') -> PicturePairs:
    """CamVid with 11 classes: ``images/*.jpg`` and ``labels/*.png``, also below the split."""
    root = Path(folder) / split if (Path(folder) / split).is_dir() else Path(folder)
    pairs = pairs_below(root / 'images', root / 'labels', lambda file: f'{file.stem}.png', '*.*g')
    ids = dict(enumerate((10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12)))
    return PicturePairs('camvid', pairs, id_table(ids, [255]))


class JoinedPictures:
    """Several data sets of the same classes, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        for part in parts[1:]:
            if part.classes.names != parts[0].classes.names:
                raise DataError(
                    f'{parts[0].name} and {part.name} have different classes: not to be mixed')
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.name = '+'.join(part.name for part in parts)
        self.classes = parts[0].classes

    def __repr__(self) -> str:
        return f'JoinedPictures({self._parts})'

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> LabelledPicture:
        part = int(np.searchsorted(self._ends, index, side='right'))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]


class CachedPictures:
    """
    Another data set, decoded once into two memory-mapped files; all pictures have one size.

    The files are made with :func:`write_cache`.
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


def open_pictures(spec: str) -> Pictures:
    """
    Open a data set by its command-line name, for example ``streetworld:fog,count=50``.

    :raises DataError: there is no such data set or option, or its folder is not right.
    """
    name, _, rest = spec.partition(':')
    if name not in DATASETS:
        raise DataError(f'unknown data set {name!r}{_near(name, list(DATASETS))}')
    function = DATASETS[name]
    allowed = {key: parameter for key, parameter in inspect.signature(function).parameters.items()
               if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    words = [word for word in rest.split(',') if word]
    place = [word for word in words if '=' not in word]
    options: dict[str, str | int] = {}
    for key, _, value in (word.partition('=') for word in words if '=' in word):
        if key not in allowed:
            raise DataError(f'{name} has no option {key!r}{_near(key, list(allowed))}')
        options[key] = int(value) if isinstance(allowed[key].default, int) else value
    if len(place) > 1:
        raise DataError(f'{spec!r} names more than one place: {place}')
    return function(*place, **options)


def _near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f'; did you mean {close[0]!r}?' if close else f'; there are {", ".join(sorted(known))}'


DATASETS: dict[str, Callable[..., Pictures]] = {
    'camvid': camvid,
    'streetworld': StreetWorldPictures,
}
