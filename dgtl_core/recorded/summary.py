# SPDX-License-Identifier: Apache-2.0
"""What came of a run, as figures and as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from dgtl_core.classes import ClassSet
from dgtl_core.domain import State
import numpy as np

STATES = get_args(State)
_CAUSES = 3  # that people are told; the most frequent ones
STAGES = ('read', 'preprocess', 'infer', 'postprocess', 'verdict', 'write')


def summarize(frames: Sequence[Mapping[str, Any]], new: int, broken: Sequence[Mapping[str, Any]],
              seconds: float, classes: ClassSet, calls: int = 1) -> dict[str, Any]:
    """
    Return the figures of a run, ready for JSON.

    :param frames: the records of all frames, those of a run that this one went on with too.
    :param new: how many of them are of this run, the last ones; times are of these.
    :param seconds: that this run took.
    :param calls: of the network, that one process made at once.

    ``model_fps`` is what one process would reach if everything but the network cost no time.
    """
    now = frames[len(frames) - new:]
    pixels = np.array([frame['pixels'] for frame in frames]).reshape(-1, len(classes) + 1).sum(0)
    total = max(int(pixels.sum()), 1)
    ms = {stage: round(sum(f['ms'][stage] for f in now) / new, 3)
          for stage in (STAGES if new else ())}
    means = [frame['confidence'] for frame in frames if frame['confidence'] is not None]
    return {
        'frames': len(frames), 'frames_before': len(frames) - new, 'broken': len(broken),
        'faults': {entry['broken']: entry['fault'] for entry in broken},
        'seconds': round(seconds, 3), 'fps': round(new / seconds, 3) if seconds else 0.0,
        'model_fps': round(1e3 * calls / ms['infer'], 3) if ms.get('infer') else 0.0, 'ms': ms,
        'shares': {name: round(int(count) / total, 5) for name, count in zip(
            [*classes.names, 'unlabelled'], pixels)},
        'confidence': round(float(np.mean(means)), 4) if means else None,
        'domain': _domain([frame['domain'] for frame in frames])}


def _domain(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share of frames in each state, and how many frames each cause is of."""
    states = Counter(verdict['state'] for verdict in verdicts)
    causes = Counter(cause.partition(' (')[0] for verdict in verdicts
                     for cause in verdict['causes'])  # in brackets are the figures of one moment
    return {**{state: round(states[state] / max(len(verdicts), 1), 4) for state in STATES},
            'causes': dict(causes.most_common())}


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the figures for people; classes by share, without those that would show as 0.0 %."""
    before = f', {summary["frames_before"]} of them before' if summary['frames_before'] else ''
    lines = [f'frames      {summary["frames"]}{before}; broken {summary["broken"]}',
             f'rate        {summary["fps"]:.1f} frames/s in {summary["seconds"]:.1f} s; one '
             f'process with the network alone: {summary["model_fps"]:.1f}']
    if summary['ms']:
        lines.append('per frame   ' + ', '.join(
            f'{stage} {ms:.1f}' for stage, ms in summary['ms'].items())
            + ' ms (stages overlap)')
    if summary['confidence'] is not None:
        lines.append(f'confidence  {summary["confidence"]:.2f} on average')
    if summary['frames']:
        lines.append(f'domain      {_domain_words(summary["domain"])}')
    shares = sorted(((s, n) for n, s in summary['shares'].items() if s >= 5e-4), reverse=True)
    for share, name in shares:
        lines.append(f'  {name:<20} {share:>6.1%} {"#" * round(40 * share)}')
    return '\n'.join(lines)


def _domain_words(domain: Mapping[str, Any]) -> str:
    told = [f'{domain[state]:.1%} {state}' for state in STATES if domain[state]]
    causes = list(domain['causes'])[:_CAUSES]
    return ', '.join(told) + (f' ({", ".join(causes)})' if causes else '')
