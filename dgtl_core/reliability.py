# SPDX-License-Identifier: Apache-2.0
"""
Is a pixel right as often as its confidence says, and are the wrong ones the unsure ones?

All figures come from one histogram over the 256 levels of confidence that a model file knows, so
they are exact for it and take no memory. Definitions are those of the BRAVO challenge (Vu et al.,
2024, bravo_toolkit/eval): a pixel with a right label is a positive, its confidence is the score.
"""

from __future__ import annotations

from dgtl_core.classes import IGNORE_INDEX
import numpy as np

LEVELS = 256
BINS = 15  # of equal width, 17 levels each; the highest holds 1.0 too


class Reliability:
    """
    Counts of wrong and right pixels by their confidence, over any number of pictures.

    A pixel whose truth is 255 is not counted; one that the model left unlabelled is wrong. Figures
    are nan where they are not defined, as AUROC is without a wrong pixel.

    Shape: ``counts`` is (256, 2), wrong and right.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((LEVELS, 2), np.int64)

    def update(self, labels: np.ndarray, confidence: np.ndarray, truth: np.ndarray) -> None:
        """
        Add one picture or a batch; arrays of one shape, integer ids and uint8 confidence.

        :raises ValueError: the shapes differ, or the confidence is not uint8.
        """
        if not labels.shape == confidence.shape == truth.shape or confidence.dtype != np.uint8:
            raise ValueError(
                f'labels {labels.shape}, confidence {confidence.shape} {confidence.dtype} and '
                f'truth {truth.shape} must have one shape, and confidence must be uint8')
        known = truth != IGNORE_INDEX
        keys = confidence.astype(np.uint16) * 2 + (labels == truth)
        self.counts += np.bincount(keys[known], minlength=2 * LEVELS).reshape(LEVELS, 2)

    def bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean confidence, share of right pixels (nan without one), pixels; (15,) each."""
        levels = np.arange(LEVELS)
        place = np.minimum(levels * BINS // (LEVELS - 1), BINS - 1)
        pixels = np.bincount(place, self.counts.sum(1), BINS)
        sure = np.bincount(place, self.counts.sum(1) * levels / (LEVELS - 1), BINS)
        right = np.bincount(place, self.counts[:, 1], BINS)
        with np.errstate(invalid='ignore'):
            return sure / pixels, right / pixels, pixels.astype(np.int64)

    def ece(self) -> float:
        """Return the mean of ``|confidence - share of right pixels|`` of bins, over pixels."""
        confidence, right, pixels = self.bins()
        return _ratio(float(np.nansum(pixels * np.abs(confidence - right))), pixels.sum())

    def auroc(self) -> float:
        """Return the chance that a right pixel is surer than a wrong one; equal counts half."""
        false, true = (np.concatenate(([0], up)) for up in self._from_the_surest())
        area = float((np.diff(false) * (true[1:] + true[:-1])).sum()) / 2
        return _ratio(area, float(false[-1]) * float(true[-1]))

    def fpr95(self) -> float:
        """Return the share of wrong pixels among the surest that hold 95 % of the right ones."""
        false, true = self._from_the_surest()
        first = int(np.searchsorted(true, 0.95 * true[-1])) if true[-1] else 0
        return _ratio(float(false[first]), false[-1]) if true[-1] else float('nan')

    def aupr_success(self) -> float:
        """Return the average precision (a step function) of finding right pixels by confidence."""
        return _average_precision(self.counts[::-1, 1], self.counts[::-1, 0])

    def aupr_error(self) -> float:
        """Return the average precision of finding wrong pixels by the lack of confidence."""
        return _average_precision(self.counts[:, 0], self.counts[:, 1])

    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Return which share of the pixels is kept, and of these wrong, by least confidence.

        Shape: (n,) each, for the n levels that occur, the surest first (El-Yaniv and Wiener, On
        the foundations of noise-free selective classification, 2010).
        """
        wrong, right = self._from_the_surest()
        kept = np.flatnonzero(self.counts.sum(1)[::-1])
        pixels = (wrong + right)[kept]
        return pixels / max(int(pixels[-1:].sum()), 1), wrong[kept] / pixels

    def aurc(self) -> float:
        """
        Return the mean risk over all coverages (Geifman et al., Bias-reduced uncertainty, 2019).

        Pixels of one level come in no order, so their errors are spread evenly over them: where N
        pixels with E errors are kept and m with e errors follow, the integral of
        (E + e x / m) / (N + x) over x from 0 to m is e + (E - e N / m) log((N + m) / N).
        """
        pixels, wrong = self.counts.sum(1)[::-1], self.counts[::-1, 0].astype(np.float64)
        occur = pixels > 0
        m, e = pixels[occur].astype(np.float64), wrong[occur]
        before, errors = np.cumsum(m) - m, np.cumsum(e) - e
        area = e.copy()
        area[1:] += (errors - e * before / m)[1:] * np.log1p(m[1:] / before[1:])
        return _ratio(float(area.sum()), float(m.sum()))

    def _from_the_surest(self) -> tuple[np.ndarray, np.ndarray]:
        """How many wrong and right pixels are at least so sure, from level 255 down."""
        wrong, right = np.cumsum(self.counts[::-1], axis=0).T
        return wrong, right


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float('nan')


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Sum precision times the growth of recall, level by level, the best first."""
    true, false = np.cumsum(positives), np.cumsum(negatives)
    return _ratio(float((positives * true / np.maximum(true + false, 1)).sum()), float(true[-1]))
