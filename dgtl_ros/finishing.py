# SPDX-License-Identifier: Apache-2.0
"""A model's labels before they are published: mounting, groups, thresholds, ego mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
from dgtl_core.classes import ClassSet, IGNORE_INDEX
from dgtl_core.groups import ClassGroups, confident, least_confidence
from dgtl_core.predictor import Segmentation
from dgtl_core.processing import as_mounted, mask_out, read_mask, upright
from dgtl_ros.parameters import expanded, ParameterError
from dgtl_ros.settings import Settings
import numpy as np

T = TypeVar('T')


class Finishing:
    """
    Of one camera: turns its pictures upright, and finishes their labels.

    :param classes: those of the model; what is published may be groups of them.
    :param camera: its name, which replaces ``{camera}`` in the path of the mask.
    :raises ParameterError: a file is missing or wrong, or names a class that the model lacks.
    """

    def __init__(self, classes: ClassSet, settings: Settings, camera: str = '') -> None:
        self._rotation = settings.rotation
        self._groups = None
        self.model_classes = classes
        self.classes = classes  # the published ones
        if settings.class_groups:
            path = _file('class_groups', settings.class_groups)
            self._groups = _read('class_groups', lambda: ClassGroups.from_yaml(
                path, classes))
            self.classes = self._groups.classes
        self._mask: np.ndarray | None = None
        if settings.ego_mask:
            path = _file('ego_mask', settings.ego_mask.replace('{camera}', camera))
            self._mask = _read('ego_mask', lambda: read_mask(path))
        self._small = self._mask  # at the size of the latest labels that were smaller
        self._least = self._thresholds(settings)

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Turn a picture of the camera as the model wants it. Shape: (H, W, 3) uint8."""
        return upright(image, self._rotation)

    def as_mounted(self, pixels: np.ndarray) -> np.ndarray:
        """Turn what belongs to an upright picture back into the camera's frame."""
        return as_mounted(pixels, self._rotation)

    def __call__(self, result: Segmentation, settings: Settings) -> Segmentation:
        """
        Return labels and confidence in the camera's own frame, as they are published.

        Shape: (h, w) uint8 each; the arguments stay as they are.
        """
        labels, confidence = result
        if self._rotation:
            labels, confidence = self.as_mounted(labels), self.as_mounted(confidence)
        if self._groups is not None:
            labels = self._groups(labels)
        if self._least[0] != _key(settings):
            self._least = self._thresholds(settings)
        labels = confident(labels, confidence, self._least[1])
        if self._mask is not None:
            labels, confidence = mask_out(labels, confidence, self._mask_of(labels.shape))
        if settings.unlabeled_id != IGNORE_INDEX:
            labels = np.where(labels == IGNORE_INDEX, np.uint8(settings.unlabeled_id), labels)
        return Segmentation(labels, confidence)

    def ignored(self, size: tuple[int, ...]) -> np.ndarray | None:
        """
        Return the pixels of an upright picture that show the robot itself; None: there are none.

        :param size: (height, width) of the picture as the camera gives it.
        """
        if self._mask is None:
            return None
        mask = self._mask_of(size)
        return self.upright(mask.astype(np.uint8)).astype(bool) if self._rotation else mask

    def _mask_of(self, size: tuple[int, ...]) -> np.ndarray:
        """Return the mask at the size of labels that are smaller than the picture."""
        assert self._mask is not None and self._small is not None
        height, width = self._mask.shape
        if not (size[0] < height and size[1] < width):
            return self._mask
        if self._small.shape != size:
            self._small = cv2.resize(self._mask.astype(np.uint8), (size[1], size[0]),
                                     interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
        return self._small

    def _thresholds(self, settings: Settings) -> tuple[tuple[object, ...], np.ndarray]:
        single: dict[str, float] = {}
        for entry in filter(None, settings.class_thresholds):
            name, _, number = entry.rpartition(':')
            try:
                single[name] = float(number)
            except ValueError:
                raise ParameterError(
                    'parameter class_thresholds must list entries such as "road:0.7", got '
                    f'{entry!r}') from None
        try:
            least = least_confidence(settings.confidence_threshold, single, self.classes)
        except ValueError as error:
            raise ParameterError(f'parameter class_thresholds: {error}') from None
        return _key(settings), least


def _key(settings: Settings) -> tuple[object, ...]:
    return settings.confidence_threshold, settings.class_thresholds


def _file(name: str, path: str) -> Path:
    found = expanded(name, path)
    if not found.is_file():
        raise ParameterError(f'parameter {name}: there is no file {str(found)!r}')
    return found


def _read(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise ParameterError(f'parameter {name}: {error}') from None
