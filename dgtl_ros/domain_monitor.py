# SPDX-License-Identifier: Apache-2.0
"""
Tell whether the camera still delivers something that the model can judge.

Cheap figures of each picture and of what the model made of it, averaged over a window: the robot
should know that it is night, that the lens is wet, or that the model has become unsure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading
import zlib

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_ros.settings import Settings
import numpy as np

_STEP = 4    # every fourth pixel of every fourth row is looked at
_BAND = 128  # rows in the middle of the picture in which sharpness is measured


@dataclass(frozen=True)
class Frame:
    """What is kept of one picture."""

    luma_mean: float
    luma_saturated_fraction: float
    blur: float
    mean_confidence: float
    entropy: float
    unlabeled_fraction: float
    histogram: np.ndarray


class DomainMonitor:
    """Looks at pictures and labels in one thread, reports in another."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._entropy = _entropy_table(num_classes)
        self._frames: deque[Frame] = deque(maxlen=600)
        self._first: list[np.ndarray] = []  # class histograms that later ones are compared with
        self._checksum: int | None = None
        self._frozen = 0
        self._lock = threading.Lock()

    def look(self, image: np.ndarray, labels: np.ndarray, confidence: np.ndarray) -> None:
        """
        Take in one picture and its labels.

        Shape: image (H, W, 3) uint8 RGB, labels and confidence (h, w) uint8 before thresholds.
        """
        small = np.ascontiguousarray(image[::_STEP, ::_STEP])
        checksum = zlib.adler32(small.data)
        luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        top = max((image.shape[0] - _BAND) // 2, 0)
        band = cv2.cvtColor(np.ascontiguousarray(image[top:top + _BAND]), cv2.COLOR_RGB2GRAY)
        labels, confidence = labels[::_STEP, ::_STEP], confidence[::_STEP, ::_STEP]
        # The network judged nothing about what a crop cut away, so it was not unsure there.
        judged = labels != IGNORE_INDEX
        sure = np.bincount(confidence[judged] if judged.any() else [0], minlength=256)
        sure = sure / sure.sum()
        counts = np.bincount(labels.ravel(), minlength=256)
        known = counts[:self._num_classes]
        frame = Frame(
            luma_mean=float(luma.mean()),
            luma_saturated_fraction=float(((luma <= 2) | (luma >= 253)).mean()),
            blur=float(cv2.Laplacian(band, cv2.CV_16S).astype(np.float32).var()),
            mean_confidence=float(sure @ np.arange(256)) / 255,
            entropy=float(sure @ self._entropy),
            unlabeled_fraction=1 - float(known.sum() / counts.sum()),
            histogram=known / max(known.sum(), 1))
        with self._lock:
            self._frozen = self._frozen + 1 if checksum == self._checksum else 0
            self._checksum = checksum
            self._frames.append(frame)
            if len(self._first) < 30:
                self._first.append(frame.histogram)

    def reset(self) -> None:
        """Forget everything, also what later pictures are compared with."""
        with self._lock:
            self._frames.clear()
            self._first.clear()
            self._checksum, self._frozen = None, 0

    def report(self, settings: Settings) -> tuple[dict[str, float], list[str]]:
        """
        Return the figures, averaged over the window, and what is wrong with them, if anything.

        ``class_hist_shift`` is the total variation distance (0..1) between the class frequencies
        in the window and in the first pictures; it is shown, not judged.
        """
        with self._lock:
            frames = list(self._frames)[-settings.domain_window:]
            first, frozen = list(self._first), self._frozen
        if not frames:
            return {}, []
        names = ('mean_confidence', 'entropy', 'unlabeled_fraction', 'luma_mean',
                 'luma_saturated_fraction', 'blur')
        values = {n: sum(getattr(f, n) for f in frames) / len(frames) for n in names}
        now = np.mean([f.histogram for f in frames], 0)
        values['class_hist_shift'] = float(np.abs(now - np.mean(first, 0)).sum() / 2)
        values['frozen_frames'] = frozen
        limits = (
            ('the picture is dark', values['luma_mean'], '<', settings.domain_dark_luma),
            ('the picture is overexposed', values['luma_mean'], '>', settings.domain_bright_luma),
            ('the picture is blurred', values['blur'], '<', settings.domain_blur_laplacian),
            ('the model is unsure: mean confidence', values['mean_confidence'], '<',
             settings.domain_min_mean_confidence),
            ('the model is unsure: entropy', values['entropy'], '>', settings.domain_max_entropy))
        faults = [f'{text} ({value:.3g} {sign} {limit:g})' for text, value, sign, limit in limits
                  if (value < limit if sign == '<' else value > limit)]
        if frozen >= settings.domain_window:
            faults.append(f'the camera repeats one picture ({frozen} times)')
        return values, faults


def _entropy_table(num_classes: int) -> np.ndarray:
    """
    Estimate the normalised entropy (0..1) of a pixel from its confidence 0..255.

    The model file gives the largest probability p alone. What is left, 1 - p, is taken as spread
    evenly over the other classes, which is the most entropy that p allows.
    """
    p = np.clip(np.arange(256) / 255, 1 / num_classes, 1)
    rest = 1 - p
    with np.errstate(divide='ignore', invalid='ignore'):
        entropy = -p * np.log(p) - np.where(rest > 0, rest * np.log(rest), 0)
    entropy += rest * np.log(max(num_classes - 1, 1))
    return entropy / np.log(max(num_classes, 2))
