# SPDX-License-Identifier: Apache-2.0
"""A frame with its labels, and what a user wants of them beside what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
from dgtl_core.classes import ClassSet, IGNORE_INDEX
from dgtl_core.groups import class_id, ClassGroups, confident
from dgtl_core.processing import as_mounted, mask_out, upright
from dgtl_core.recorded.frame import Frame
import numpy as np


class Labelled(NamedTuple):
    """A frame and what was made of it. Shape of both maps: (H, W) uint8, the frame's size."""

    frame: Frame
    labels: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What happens to labels between the model and whoever reads them, in this order."""

    classes: ClassSet  # that are published: the groups, where there are some; in their colours
    rotation: int = 0  # of the camera, see :func:`dgtl_core.processing.upright`
    groups: ClassGroups | None = None
    keep: np.ndarray | None = None   # (256,) uint8: the label that becomes of each
    least: np.ndarray | None = None  # (256,) uint8: the least confidence of each label
    ego_mask: np.ndarray | None = None  # (H, W) bool: never judged

    def before(self, image: np.ndarray) -> np.ndarray:
        """Return the picture as the model is to see it."""
        return upright(image, self.rotation)

    def after(self, frame: Frame, labels: np.ndarray, confidence: np.ndarray) -> Labelled:
        """
        Return the labels as they are to be.

        :raises ValueError: the ego mask is not of the frame's size.
        """
        labels, confidence = as_mounted(labels, self.rotation), as_mounted(
            confidence, self.rotation)
        if self.groups is not None:
            labels = self.groups(labels)
        if self.least is not None:
            labels = confident(labels, confidence, self.least)
        if self.keep is not None:
            labels = cv2.LUT(labels, self.keep)
        if self.ego_mask is not None:
            labels, confidence = mask_out(labels, confidence, self.ego_mask)
        return Labelled(frame, labels, confidence)


def only(names: Sequence[str], classes: ClassSet) -> np.ndarray:
    """
    Return the table that keeps the named classes and makes 255 of all others.

    Shape: (256,) uint8.

    :raises ValueError: a class is unknown.
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for name in names:
        index = class_id(name, classes, 'classes to keep')
        table[index] = index
    return table
