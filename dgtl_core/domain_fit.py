# SPDX-License-Identifier: Apache-2.0
"""
Fit the statistics of a domain on signatures of normal drives and of corrupted copies of them.

A place never seen moves signatures as far as fog does, but elsewhere. Corrupted copies show where
shifts move them: picture by picture the scene is the same, so the differences hold no scenes. What
counts as a shift lies in the middle between drives that were left out and the corrupted copies.
Shape legend: T pictures of a drive, n copied ones, D length of a signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dgtl_core.domain_model import DomainError, DomainModel, Drive, UNFAMILIAR
import numpy as np

LEAST_PICTURES = 20
WINDOW = 10       # pictures over which false alarms are counted
_RANK = 24        # directions of normal variation that are kept
_SHRINKAGE = 0.1  # share of a unit matrix in the covariances (Ledoit and Wolf's form)
_SEGMENTS = 4     # of a drive that is alone
_WEAK = 0.1       # quantile of the corrupted copies that counts as shifted
_FAR = 2.0        # times the distance of drives that were left out: unfamiliar
_LEAST_SPREAD = 1e-3


class Copies(NamedTuple):
    """Signatures of the same pictures before and after a corruption, (n, D) each."""

    clean: np.ndarray
    corrupted: np.ndarray


class _Normal(NamedTuple):
    """Second moments of normal variation after standardisation."""

    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    variances: np.ndarray
    rest: float


def fit(drives: Mapping[str, np.ndarray], copies: Mapping[str, Copies]) -> DomainModel:
    """
    Fit the domain.

    :param drives: by name, the signatures (T, D) of each in the order of time.
    :param copies: by the name of the corruption.
    :raises DomainError: too few pictures; the message says how many are needed.
    """
    total = sum(map(len, drives.values()))
    if total < LEAST_PICTURES:
        raise DomainError(
            f'{total} pictures are too few to know what is normal; give at least '
            f'{LEAST_PICTURES}, better some hundred from three or more drives')
    names = sorted(copies)
    parts = [np.asarray(drive, np.float64) for drive in drives.values()]
    alone = len(parts) == 1
    folds = np.array_split(parts[0], _SEGMENTS) if alone else parts
    left_out = [_axes([*folds[:i], *folds[i + 1:]], copies, names).positions(fold)
                for i, fold in enumerate(folds)]
    # Directions that were learned from one half of the copies are tried on the other.
    halves = [{n: Copies(c.clean[i::2], c.corrupted[i::2]) for n, c in copies.items()}
              for i in (0, 1)]
    models = [_axes(folds, half, names) for half in halves]
    shifted_positions = [
        np.concatenate([model.positions(half[name].corrupted)[:, column]
                        for model, half in zip(models, halves[::-1])])
        for column, name in enumerate(names)]
    normal = np.max([p.mean(0) for p in left_out], axis=0)  # the drive that is least like others
    within = np.sqrt(np.mean([p.var(0) for p in left_out], axis=0))
    shifted = np.array([np.quantile(p, _WEAK) for p in shifted_positions]
                       + [_FAR * normal[-1]])
    spread = np.maximum(within, _LEAST_SPREAD)
    keep = shifted > normal + 2 * spread  # a channel that separates nothing would only raise alarms
    keep[-1] = True
    axes = _axes(folds, copies, names)
    model = DomainModel(
        drives=tuple(Drive(name=n, pictures=len(d)) for n, d in drives.items()),
        mean=axes.mean, scale=axes.scale, channels=tuple(np.array([*names, UNFAMILIAR])[keep]),
        directions=axes.directions[keep[:-1]], basis=axes.basis, variances=axes.variances,
        rest=axes.rest, normal=normal[keep], shifted=shifted[keep], spread=spread[keep],
        false_alarms=0.0, cross_validated='segment' if alone else 'drive')
    return model
