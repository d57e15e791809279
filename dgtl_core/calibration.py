# SPDX-License-Identifier: Apache-2.0
"""Fit the domain of a model file on normal drives, and try it on recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
import time

import cv2
from dgtl_core.data.corruptions import corrupt
from dgtl_core.domain import DomainLimits, DomainMonitor, features, Verdict, WINDOW
from dgtl_core.domain_drives import checked_drives, Copies
from dgtl_core.domain_fit import fit
from dgtl_core.domain_model import DomainError, DomainModel
from dgtl_core.files import placing
from dgtl_core.model_file import KEY, onnx_metadata
from dgtl_core.predictor import Predictor
import numpy as np

# What a shift looks like is learned from these; others are found by what they share with them.
CORRUPTIONS = ('contrast', 'defocus_blur', 'fog', 'gaussian_noise', 'glare', 'night', 'rain',
               'snow', 'snowfall')
_SEVERITY = 3
_COPIED = 72  # pictures at most that are corrupted, and half of them at least
_SIDE = 480   # pixels of the shorter side of a copied picture


class Looks:
    """
    Pictures as the features that a domain is fitted on, and what they cost beyond the network.

    :param advance: called after each picture.
    :param ignored: (H, W) bool, pixels that show the robot itself.
    """

    def __init__(self, predict: Predictor, advance: Callable[[], None] = lambda: None,
                 ignored: np.ndarray | None = None) -> None:
        self._predict, self._advance, self._ignored = predict, advance, ignored
        self.pictures, self.seconds = 0, 0.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Shape: (H, W, 3) uint8 RGB -> (D,)."""
        result = self._predict(image)
        start = time.perf_counter()
        ignored = self._ignored
        if ignored is not None and ignored.shape != image.shape[:2]:
            ignored = _resized(ignored.astype(np.uint8), image.shape[:2]).astype(bool)
        found = features(image, result, ignored)
        self.seconds += time.perf_counter() - start
        self.pictures += 1
        self._advance()
        return found


def calibrate(predict: Predictor, drives: Mapping[str, Iterable[np.ndarray]],
              look: Looks | None = None) -> DomainModel:
    """
    Label the pictures of normal drives, and corrupted copies of some, and fit the domain.

    :param drives: by name, the pictures (H, W, 3) uint8 RGB of each in the order of time.
    :param look: counts the pictures and the time of everything but reading and the network.
    :raises DomainError: a drive is too short or broken, or two are one; nothing is written yet.
    """
    look = look or Looks(predict)
    found: dict[str, np.ndarray] = {}
    spread = _Spread(_COPIED)  # over all drives, each by its length
    for name, pictures in drives.items():
        found[name] = np.array([look(image) for image in spread.passed(pictures)])
    drives_seen = checked_drives(found)  # before the copies, which take the longer time
    chosen = spread.kept
    clean = np.array([look(image) for image in chosen])
    corrupted: dict[str, list[np.ndarray]] = {kind: [] for kind in CORRUPTIONS}
    for kind, rows in corrupted.items():
        for seed, image in enumerate(chosen):
            start = time.perf_counter()
            copy = corrupt(image, kind, _SEVERITY, seed)
            look.seconds += time.perf_counter() - start
            rows.append(look(copy))
    start = time.perf_counter()
    model = fit(drives_seen,
                {kind: Copies(clean, np.array(rows)) for kind, rows in corrupted.items()})
    look.seconds += time.perf_counter() - start
    return model


class _Spread:
    """Keeps some of the pictures that pass, evenly spread, however many there will be."""

    def __init__(self, most: int) -> None:
        self.kept: list[np.ndarray] = []
        self._most, self._stride, self._passed = most, 1, 0

    def passed(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Give the pictures on."""
        for image in pictures:
            if self._passed % self._stride == 0:
                if len(self.kept) == self._most:
                    self.kept = self.kept[::2]
                    self._stride *= 2
                if self._passed % self._stride == 0:
                    self.kept.append(_small(image))
            self._passed += 1
            yield image


def _small(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(_SIDE / min(height, width), 1)
    return _resized(image, (round(height * factor), round(width * factor)))


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if size == image.shape[:2]:
        return image.copy()
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def window_verdicts(
        predict: Predictor, model: DomainModel | None, pictures: Iterable[np.ndarray],
        ignored: np.ndarray | None = None) -> Iterator[Verdict]:
    """
    Give the verdict after each ten pictures, and after the rest if that is half of it.

    :param ignored: (H, W) bool, pixels that show the robot itself.
    """
    monitor = DomainMonitor(len(predict.classes), model)
    limits = DomainLimits(window=WINDOW)
    number = 0
    for number, image in enumerate(pictures, 1):
        monitor.look(image, predict(image), ignored=ignored)
        if number % WINDOW == 0:
            yield monitor.report(limits)
    if number % WINDOW >= WINDOW / 2:
        yield monitor.report(limits)


def state_shares(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return how many windows there are and which share of them has which state."""
    states = Counter(verdict.state for verdict in verdicts)
    total = sum(states.values())
    return {'windows': total, **{
        state: states[state] / total if total else 0.0
        for state in ('familiar', 'shifted', 'unusable')}}


def require_onnx(source: Path) -> None:
    """
    Find out now whether a domain can be written into a model file, before a long run.

    :raises DomainError: it is no ``.onnx`` file, or ``onnx`` is not installed.
    """
    if source.suffix != '.onnx':
        raise DomainError(
            f'a domain is stored in .onnx files, got {source}; "python -m training.export" makes '
            'one of a checkpoint, and an engine is built anew from the file with the domain')
    if find_spec('onnx') is None:
        raise DomainError('writing a model file needs onnx: pip install "dgtl_ros[export]"')


def write_domain(source: Path, out: Path, model: DomainModel) -> None:
    """
    Write a copy of an ``.onnx`` model file with another domain.

    :raises DomainError: it is no ``.onnx`` file, or ``onnx`` is not installed.
    """
    require_onnx(source)
    import onnx

    metadata = replace(onnx_metadata(source), domain=model.to_dict())
    proto = onnx.load(str(source))
    onnx.helper.set_model_props(proto, {
        **{entry.key: entry.value for entry in proto.metadata_props}, KEY: metadata.to_json()})
    with placing(out) as temporary:
        temporary.write_bytes(proto.SerializeToString())
