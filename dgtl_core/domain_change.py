# SPDX-License-Identifier: Apache-2.0
"""
Tell a lasting change from a flare, by evidence that comes picture by picture.

Page's cumulative sum (Continuous inspection schemes, 1954), one for each channel. Where the
evidence of a channel is the logarithm of a likelihood ratio and pictures are independent, its
false alarms at the height h are at least e^h pictures apart in the mean (Lorden, Procedures for
reacting to a change in distribution, 1971), and those of any of C channels e^h / C.
"""

from __future__ import annotations

import math

import numpy as np

NOMINAL_S = 0.1  # pictures that come faster count for less: they show the same
MEAN_PICTURES = 1.2e6  # between two false alarms, 33 hours of a picture each NOMINAL_S
MOST = 3.5  # that one picture says: so at least five are needed


class ChangeDetector:
    """Sums evidence up, of ``channels`` at once; remembers an alarm until it is taken back."""

    def __init__(self, channels: int, mean_pictures: float = MEAN_PICTURES) -> None:
        """
        Start with no evidence.

        :param mean_pictures: that lie between two false alarms in the mean, at least.
        """
        self._height = math.log(mean_pictures * max(channels, 1))
        self._sums = np.zeros(channels)
        self.changed = False

    def add(self, evidence: np.ndarray, seconds: float = NOMINAL_S) -> None:
        """
        Take in the evidence (C,) of one picture.

        :param seconds: since the picture before it.
        """
        share = min(max(seconds, 0.0) / NOMINAL_S, 1.0)
        self._sums = np.clip(
            self._sums + share * np.clip(evidence, -MOST, MOST), 0, self._height + MOST)
        highest = self._sums.max(initial=0.0)
        self.changed = bool(highest >= self._height or (self.changed and highest > 0))
