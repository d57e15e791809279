# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix and intersection over union, per class."""

from __future__ import annotations

from dgtl_core.classes import IGNORE_INDEX
import numpy as np


class ConfusionMatrix:
    """
    Counts of (truth, prediction) pairs over any number of pictures.

    A pixel whose truth is 255 is not counted. A pixel that the model left unlabelled (255) where
    there is a truth counts as a miss of the true class.

    Shape: ``counts`` is (K, K + 1); the last column holds the pixels left unlabelled.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE_INDEX:
            raise ValueError(f'num_classes must be in 1..{IGNORE_INDEX}, got {num_classes}')
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, labels: np.ndarray, truth: np.ndarray) -> None:
        """
        Add one picture or a batch; ``labels`` and ``truth`` are integer arrays of one shape.

        :raises ValueError: the shapes differ, or an id is neither a class nor 255.
        """
        if labels.shape != truth.shape:
            raise ValueError(
                f'labels {labels.shape} and truth {truth.shape} must have the same shape')
        known = truth != IGNORE_INDEX
        rows, columns = truth[known].astype(np.int64), labels[known].astype(np.int64)
        unlabelled = columns == IGNORE_INDEX
        for what, ids in (('truth', rows), ('labels', columns[~unlabelled])):
            wrong = ids[(ids < 0) | (ids >= self.num_classes)]
            if wrong.size:
                raise ValueError(
                    f'{what} holds id {wrong[0]}; allowed are 0..{self.num_classes - 1} and '
                    f'{IGNORE_INDEX}')
        columns[unlabelled] = self.num_classes
        width = self.num_classes + 1
        self.counts += np.bincount(
            rows * width + columns, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> np.ndarray:
        """Return TP / (TP + FP + FN) as (K,) float64; nan for a class that never occurs."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits
        return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """
        Return the mean IoU over the classes that occur in the truth; nan where none does.

        A class that is predicted but absent from the truth lowers the IoU of the others
        through their misses; it is not averaged as a zero of its own.
        """
        present = self.counts.sum(1) > 0
        return float(self.iou()[present].mean()) if present.any() else float('nan')

    def accuracy(self) -> float:
        """Return the fraction of counted pixels that are right; nan where none is counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float('nan')
