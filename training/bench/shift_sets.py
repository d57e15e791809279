# SPDX-License-Identifier: Apache-2.0
"""The pictures that the domain verdict is measured on, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import hashlib
import itertools
from pathlib import Path

from dgtl_core import appearance, domain, streetworld
from dgtl_core.calibration import CORRUPTIONS, Looks
from dgtl_core.data import corruptions, weather
from dgtl_core.data.corruptions import corrupt
from dgtl_core.files import placing
from dgtl_core.pictures import find_pictures, read_image
from dgtl_core.predictor import Predictor
from dgtl_core.streetworld import StreetWorld
import numpy as np

_SEVERITY = 3  # of the copies that a domain is fitted on


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures in an order that is always the same; ``key`` names everything they depend on."""

    key: str
    images: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Streets:
    """StreetWorld at one size."""

    size: tuple[int, int]

    def pictures(self, seed: int, count: int, condition: str = 'clear', severity: int = 3,
                 corruption: str = '') -> PictureSet:
        """Each of another street, which does not depend on the condition."""
        def images() -> Iterator[np.ndarray]:
            world = StreetWorld(
                seed=seed, size=self.size, condition=condition, severity=severity)
            for index in range(count):
                image = world.picture(index).image
                yield corrupt(image, corruption, _SEVERITY, index) if corruption else image

        return PictureSet(
            key=f'streets {self.size} {seed} {count} {condition} {severity} {corruption}',
            images=images)

    def drive(self, seed: int, count: int, fps: float, conditions: tuple[str, ...],
              severity: int = 3) -> PictureSet:
        """One street; each condition for an equal part of the pictures."""
        def images() -> Iterator[np.ndarray]:
            frames = StreetWorld(seed=seed, size=self.size, severity=severity).stream(
                fps=fps, conditions=conditions,
                seconds_per_condition=count / fps / len(conditions))
            return (frame.image for frame in itertools.islice(frames, count))

        return PictureSet(
            key=f'drive {self.size} {seed} {count} {fps} {conditions} {severity}', images=images)


def photographs(folder: Path, start: str = '', step: int = 1, corruption: str = '',
                severity: int = 3) -> PictureSet:
    """
    Every ``step``-th of the pictures in a folder whose names start so, by name.

    :raises ValueError: there are none.
    """
    files = [file for file in find_pictures([folder]) if file.name.startswith(start)][::step]
    if not files:
        raise ValueError(f'there are no pictures {start}* in {folder}')

    def images() -> Iterator[np.ndarray]:
        for index, file in enumerate(files):
            image = read_image(file)
            yield corrupt(image, corruption, severity, index) if corruption else image

    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return PictureSet(key=f'{folder.resolve()} {stamps} {corruption} {severity}', images=images)


class Signals:
    """
    What a model makes of sets of pictures, remembered in a folder.

    :param advance: called after each picture that is labelled.
    """

    def __init__(self, predict: Predictor, cache: Path,
                 advance: Callable[[], None] = lambda: None) -> None:
        self._look, self._cache = Looks(predict, advance), cache
        self._base = hashlib.sha256(predict.sha256.encode())
        sources = [Path(str(module.__file__)) for module in (
            appearance, domain, corruptions, weather)]
        for file in (*sources, *sorted(Path(str(streetworld.__file__)).parent.glob('*.py'))):
            self._base.update(file.read_bytes())

    def __call__(self, pictures: PictureSet) -> np.ndarray:
        """Return the features of a set, (N, D)."""
        name = self._base.copy()
        name.update(pictures.key.encode())
        path = self._cache / f'{name.hexdigest()[:32]}.npy'
        if path.is_file():
            return np.load(path, allow_pickle=False)
        found = np.stack([self._look(image) for image in pictures.images()])
        path.parent.mkdir(parents=True, exist_ok=True)
        with placing(path) as temporary, temporary.open('wb') as file:
            np.save(file, found, allow_pickle=False)
        return found


KINDS = CORRUPTIONS
