# SPDX-License-Identifier: Apache-2.0
"""
How well the domain verdict tells shifted pictures from normal ones of a place never seen.

Shape legend: N pictures, D length of a signature, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgtl_core.appearance import NAMES
from dgtl_core.domain import odds, WINDOW
from dgtl_core.domain_change import ChangeDetector, NOMINAL_S
from dgtl_core.domain_drives import Copies
from dgtl_core.domain_fit import fit
from dgtl_core.domain_model import DomainModel
import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Features (N, D) of what a domain is fitted on and of what it has to judge."""

    name: str
    drives: Mapping[str, np.ndarray]
    copies: Mapping[str, Copies]
    normal: Mapping[str, np.ndarray]                 # by what they are, never seen; first: judged
    shifted: Mapping[tuple[str, int], np.ndarray]    # by condition and severity

    def fitted(self, drives: int | None = None, columns: np.ndarray | None = None) -> DomainModel:
        """Fit on some of the drives (None: all), and some of the signals."""
        chosen = dict(list(self.drives.items())[:drives])
        if columns is None:
            return fit(chosen, self.copies)
        place = np.flatnonzero(columns).tolist()
        return fit({name: drive[:, columns] for name, drive in chosen.items()},
                   {name: Copies(*(part[:, columns] for part in pair))
                    for name, pair in self.copies.items()},
                   place.index(len(NAMES)) if len(NAMES) in place else None)


def auroc(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Return how often a positive is above a negative, halves for ties (Mann and Whitney)."""
    ranks = rankdata(np.concatenate((negatives, positives)))[len(negatives):]
    count = len(positives)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * len(negatives)))


def windows(values: np.ndarray) -> np.ndarray:
    """Return the mean over ten pictures in a row, from each picture on; the end joins the start"""
    rows = np.arange(len(values))[:, None] + np.arange(min(WINDOW, len(values)))
    return values[rows % len(values)].mean(axis=1)


def alarms(model: DomainModel, signatures: np.ndarray, held: int = 1) -> np.ndarray:
    """
    Return whether there is an alarm after each picture, (N,).

    :param held: how often each picture counts, as one that stands for the second about it.
    """
    detector, states = ChangeDetector(len(model.channels)), []
    for step in model.evidence(signatures):
        for _ in range(held):
            detector.add(step)
        states.append(detector.changed)
    return np.array(states)


def share_of_windows(model: DomainModel, signatures: np.ndarray) -> float:
    """Return the share of windows, one after the other, that end with an alarm."""
    states = alarms(model, signatures)
    return float(np.mean(states[WINDOW - 1::WINDOW] if len(states) >= WINDOW else states[-1:]))


def separation(experiment: Experiment, model: DomainModel) -> list[dict[str, Any]]:
    """Return AUROC of pictures and of windows, and the share found, by condition and severity."""
    clear = odds(model.evidence(next(iter(experiment.normal.values()))))
    rows = []
    for (condition, severity), signatures in sorted(experiment.shifted.items()):
        seen = odds(model.evidence(signatures))
        rows.append({
            'condition': condition, 'severity': severity, 'pictures': len(seen),
            'auroc_picture': auroc(clear, seen),
            'auroc_window': auroc(windows(clear), windows(seen)),
            'found': share_of_windows(model, signatures)})
    return rows


def false_alarms(experiment: Experiment, model: DomainModel) -> list[dict[str, Any]]:
    """Return the share of windows of normal pictures with an alarm, by what they are."""
    return [{'pictures_of': name, 'pictures': len(signatures),
             'false_windows': share_of_windows(model, signatures)}
            for name, signatures in experiment.normal.items()]


def per_hour(model: DomainModel, drives: Sequence[np.ndarray], fps: float) -> dict[str, float]:
    """
    Return how many alarms begin in an hour of normal drives, and how many there may be at most.

    Pictures that are further apart than 0.1 s count for all of the time up to the next one. The
    bound is the exact one of a Poisson process, one-sided, 95 %.
    """
    from scipy.stats import chi2

    held, begun, seconds = max(round(1 / fps / NOMINAL_S), 1), 0, 0.0
    for signatures in drives:
        states = alarms(model, signatures, held)
        begun += int(np.sum(states & ~np.r_[False, states[:-1]]))
        seconds += len(signatures) / fps
    return {'seconds': seconds, 'alarms': begun, 'per_hour': 3600 * begun / seconds,
            'at_most': 3600 * float(chi2.ppf(0.95, 2 * begun + 2)) / 2 / seconds}


def onset(model: DomainModel, signatures: np.ndarray, fps: float) -> float | None:
    """
    Return after how many seconds a change is noticed; None: never, or before it.

    :param signatures: of a drive in which the condition begins in the middle.
    """
    states, middle = alarms(model, signatures), len(signatures) // 2
    ramp = middle - round(fps)  # the condition comes up within less than a second
    if states[:max(ramp, 0)].any() or not states.any():
        return None
    return (int(states.argmax()) + 1 - middle) / fps


def signal_groups(experiment: Experiment, classes: int) -> dict[str, np.ndarray]:
    """Return which columns of the features each signal has, (D,) bool."""
    length = next(iter(experiment.drives.values())).shape[1]
    left = length - len(NAMES) - 1
    sizes = {'appearance of the picture': len(NAMES), 'mean confidence': 1}
    deep = (left - 2 - classes) // 2
    if deep > 0:
        sizes |= {'entropy and largest probability': 2, 'shares of the classes': classes,
                  'features, middle block': deep,
                  'features, last block': left - 2 - classes - deep}
    elif left:  # a signature of another kind
        sizes['signature'] = left
    groups, at = {}, 0
    for name, size in sizes.items():
        groups[name] = (np.arange(length) >= at) & (np.arange(length) < at + size)
        at += size
    return groups


def ablation(experiment: Experiment, classes: int, severity: int) -> list[dict[str, Any]]:
    """Return the least and the mean AUROC at a severity, of each signal alone and without it."""
    rows = []
    groups = signal_groups(experiment, classes)
    every = np.ones(len(next(iter(groups.values()))), bool)
    chosen = {'all': every, **{f'only {n}': g for n, g in groups.items()},
              **{f'without {n}': ~g for n, g in groups.items()}}
    for name, columns in chosen.items():
        part = Experiment(
            name=name, drives=experiment.drives, copies=experiment.copies,
            normal={n: s[:, columns] for n, s in experiment.normal.items()},
            shifted={key: s[:, columns] for key, s in experiment.shifted.items()
                     if key[1] == severity})
        model = experiment.fitted(columns=columns)
        found = separation(part, model)
        rows.append({
            'signals': name,
            **{f'{how}_{kind}': float(function([row[f'auroc_{kind}'] for row in found]))
               for kind in ('picture', 'window')
               for how, function in (('least', np.min), ('mean', np.mean))},
            'found': float(np.mean([row['found'] for row in found])),
            'false_windows': false_alarms(part, model)[0]['false_windows']})
    return rows


def by_drives(experiment: Experiment) -> list[dict[str, Any]]:
    """Return what fitting on more and more drives changes."""
    rows = []
    for count in range(1, len(experiment.drives) + 1):
        model = experiment.fitted(count)
        found = [row for row in separation(experiment, model) if row['severity'] == 3]
        rows.append({
            'drives': count, 'expected': model.false_alarms,
            'false_windows': false_alarms(experiment, model)[0]['false_windows'],
            'least_auroc_window': min(row['auroc_window'] for row in found),
            'found': float(np.mean([row['found'] for row in found]))})
    return rows
