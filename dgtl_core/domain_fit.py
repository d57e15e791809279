# SPDX-License-Identifier: Apache-2.0
"""
Fit the statistics of a domain on signatures of normal drives and of corrupted copies of them.

A place never seen moves signatures as far as fog does, but elsewhere. Corrupted copies show where
shifts move them: picture by picture the scene is the same, so the differences hold no scenes. What
counts as a shift lies in the middle between drives that were left out and the corrupted copies.
Shape legend: T pictures of a drive, C channels, D length of a signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dgtl_core.appearance import NAMES
from dgtl_core.domain_change import ChangeDetector
from dgtl_core.domain_drives import checked_copies, checked_drives, Copies, WINDOW
from dgtl_core.domain_model import Axes, DomainModel, Drive, UNFAMILIAR, UNSURE
import numpy as np

_RANK = 60        # directions of variation that a discriminant avoids
_STORED = 24      # directions of normal variation that are stored, for the distance
_SHRINKAGE = 0.1  # share of a unit matrix in the covariances (Ledoit and Wolf's form)
LEAST_DRIVES = 2  # from which on a whole drive is left out in turn, below it stretches of time
_SEGMENTS = 4     # of each drive
_WEAK = 0.25      # quantile of the corrupted copies that counts as shifted
_FAR = 2.0        # times the distance of drives that were left out: unfamiliar
_LESS_SURE = 7.0  # deviations from drives that were left out: unsure
_LEAST_SPREAD = 0.05
_LEAST_GAP = 1.0  # deviations between normal and shifted; below it a channel is left out
_LEAST_SCALE = 1e-4
_LEAST_VARIANCE = 1e-6  # of pictures that are nearly the same


def fit(drives: Mapping[str, np.ndarray], copies: Mapping[str, Copies],
        confidence: int | None = len(NAMES)) -> DomainModel:
    """
    Fit the domain.

    :param drives: by name, the signatures (T, D) of each in the order of time.
    :param copies: by the name of the corruption.
    :param confidence: where the mean confidence stands in a signature; None: nowhere.
    :raises DomainError: drives or copies that it cannot be fitted on; the message says what was
        got, what is needed and what to do.
    """
    drives = checked_drives(drives)
    copies = checked_copies(copies, next(iter(drives.values())).shape[1])
    names = list(copies)
    parts = list(drives.values())
    by_drive = len(parts) >= LEAST_DRIVES
    # What is left out: a drive, or a stretch of each.
    cuts = [np.array_split(part, _SEGMENTS) for part in parts]
    left_out = []
    for fold in range(len(parts) if by_drive else _SEGMENTS):
        if by_drive:
            out, rest = [parts[fold]], [*parts[:fold], *parts[fold + 1:]]
        else:
            out = [cut[fold] for cut in cuts]
            rest = [np.concatenate([*cut[:fold], *cut[fold + 1:]]) for cut in cuts]
        axes = _axes(rest, copies, confidence)
        left_out += [axes.positions(part) for part in out]
    # Directions that were learned from one half of the copies are tried on the other.
    halves = [{n: Copies(c.clean[i::2], c.corrupted[i::2]) for n, c in copies.items()}
              for i in (0, 1)]
    models = [_axes(parts, half, confidence) for half in halves]
    shifted_positions = [
        np.concatenate([model.positions(half[name].corrupted)[:, column]
                        for model, half in zip(models, halves[::-1])])
        for column, name in enumerate(names)]
    means = np.stack([positions.mean(0) for positions in left_out])
    normal = means.mean(0) + means.std(0)  # of a drive that is rather unlike the others
    within = np.sqrt(np.mean([p.var(0) for p in left_out], axis=0))
    spread = np.maximum(within, _LEAST_SPREAD)
    shifted = np.array([np.quantile(p, _WEAK) for p in shifted_positions]
                       + [normal[-2] + _LESS_SURE * spread[-2]] * (confidence is not None)
                       + [_FAR * normal[-1]])
    # A channel that separates nothing would only raise alarms.
    keep = shifted > normal + _LEAST_GAP * spread
    keep[-1] = True
    axes = _axes(parts, copies, confidence)
    names += [UNSURE] * (confidence is not None) + [UNFAMILIAR]
    model = DomainModel(
        drives=tuple(Drive(name=n, pictures=len(d)) for n, d in drives.items()),
        channels=tuple(name for name, kept in zip(names, keep) if kept),
        axes=replace(axes, directions=axes.directions[keep[:-1]]),
        normal=normal[keep], shifted=shifted[keep], spread=spread[keep],
        false_alarms=0.0, alarmed=0, cross_validated='drive' if by_drive else 'segment')
    alarms = [_alarms(model.weigh(positions[:, keep])) for positions in left_out]
    return replace(model, false_alarms=float(np.mean(np.concatenate(alarms))),
                   alarmed=sum(map(any, alarms)))


def _alarms(evidence: np.ndarray) -> list[bool]:
    """Whether there is an alarm after each window of a drive. Shape: (T, C)."""
    detector, states = ChangeDetector(evidence.shape[1]), []
    for step in evidence:
        detector.add(step)
        states.append(detector.changed)
    return states[WINDOW - 1::WINDOW] or states[-1:]


def _axes(drives: Sequence[np.ndarray], copies: Mapping[str, Copies],
          confidence: int | None) -> Axes:
    """
    Fit the axes: what is normal, Fisher's discriminant towards each corruption, and confidence.

    Fisher's direction is (within)^-1 shift, with the scatter around the drives' own means, that of
    these means, and that of the shifts from picture to picture.
    """
    pictures = np.concatenate(drives)
    mean = pictures.mean(0)
    # What hardly varies on these drives may vary on the next, but a shift moves it by much more.
    moved = [((pair.corrupted - pair.clean) ** 2).mean(0) for pair in copies.values()]
    scale = np.sqrt(pictures.var(0) + np.mean(moved, axis=0)) + _LEAST_SCALE
    centred = [(drive - drive.mean(0)) / scale for drive in drives]
    means = (np.stack([drive.mean(0) for drive in drives]) - mean) / scale
    normal = [part / np.sqrt(len(pictures)) for part in centred]
    basis, variances, rest = _low_rank([*normal, means / np.sqrt(len(means))], _STORED)
    shifts = [(pair.corrupted - pair.clean) / scale for pair in copies.values()]
    own = [(s - s.mean(0)) / np.sqrt(len(s) * len(shifts)) for s in shifts]
    inner = _low_rank([*normal, means / np.sqrt(len(means)), *own], _RANK)
    rows = []
    for shift in shifts:
        inside = inner[0] @ shift.mean(0)
        row = inner[0].T @ (inside / inner[1]) + (shift.mean(0) - inner[0].T @ inside) / inner[2]
        rows.append(row)
    if confidence is not None:
        rows.append(-np.eye(len(mean))[confidence])
    directions = np.stack(rows)
    along = np.sqrt(((np.concatenate(centred) @ directions.T) ** 2).mean(0))
    return Axes(mean=mean, scale=scale, basis=basis, variances=variances, rest=rest,
                directions=directions / np.where(along > _LEAST_SPREAD, along, 1)[:, None])


def _low_rank(parts: Sequence[np.ndarray],
              rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """
    Return basis (R, D), variances (R,) and the variance of all else of a scatter matrix.

    The matrix is the sum of x^T x over the parts, with a share of its mean variance as shrinkage.
    """
    rows = np.concatenate(parts)
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    variances, length = values ** 2, rows.shape[1]
    kept = min(rank, len(variances))
    average = max(variances.sum() / length, _LEAST_VARIANCE)
    rest = (1 - _SHRINKAGE) * variances[kept:].sum() / max(length - kept, 1)
    return (basis[:kept], (1 - _SHRINKAGE) * variances[:kept] + _SHRINKAGE * average,
            float(rest + _SHRINKAGE * average))
