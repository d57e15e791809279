# SPDX-License-Identifier: Apache-2.0
"""The results of training.experiment as numbers, a table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dgtl_core.files import placing, write_atomically
from matplotlib.figure import Figure
import numpy as np

UNSEEN = 'mean of the unseen'


def write_results(out: Path, results: dict[str, Any]) -> str:
    """
    Write ``out/results.json``, ``.md`` and ``.png``; return the text of the table.

    :param results: ``{source: {method: {seed: {domain: mIoU}}}}``, the source's own domain first.
    """
    text = '\n\n'.join(_markdown(source, methods) for source, methods in results.items())
    write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    write_atomically(out / 'results.md', text + '\n')
    with placing(out / 'results.png') as temporary:
        _plot(results).savefig(temporary, dpi=110)
    return text


def statistics(methods: dict[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return ``{method: {domain: (mean, deviation over the seeds)}}`` in percent, with UNSEEN."""
    found = {}
    for method, seeds in methods.items():
        domains = list(next(iter(seeds.values())))
        values = 100 * np.array([[scores[name] for name in domains] for scores in seeds.values()])
        values = np.column_stack([values, values[:, 1:].mean(1)])
        deviation = values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
        found[method] = dict(zip([*domains, UNSEEN], zip(values.mean(0), deviation)))
    return found


def _markdown(source: str, methods: dict[str, Any]) -> str:
    found = statistics(methods)
    names = list(next(iter(found.values())))
    seeds = len(next(iter(methods.values())))
    over = f', mean ± deviation over {seeds} seeds' if seeds > 1 else ' of one seed'
    lines = [f'Source {source}: mIoU in %{over}', '',
             '| method | ' + ' | '.join(f'{names[0]} (source)' if i == 0 else name
                                        for i, name in enumerate(names)) + ' |',
             '|---' * (len(names) + 1) + '|']
    for method, scores in found.items():
        cells = [f'{mean:.1f}' + (f' ± {deviation:.1f}' if seeds > 1 else '')
                 for mean, deviation in scores.values()]
        lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 3.6 * len(results)), layout='constrained')
    for axes, (source, methods) in zip(
            figure.subplots(len(results), squeeze=False).flat, results.items()):
        found = statistics(methods)
        width = 0.8 / len(found)
        for number, (method, scores) in enumerate(found.items()):
            means, deviations = np.array(list(scores.values())).T
            axes.bar(np.arange(len(means)) + (number - (len(found) - 1) / 2) * width, means, width,
                     yerr=deviations, capsize=2, label=method)
        names = list(next(iter(found.values())))
        labels = [name.replace(' (', '\n(').replace(' of ', '\nof ') for name in names[1:]]
        axes.set_xticks(range(len(names)), [f'{names[0]}\n(source)', *labels], fontsize=8)
        axes.set_ylabel('mIoU, %')
        axes.set_title(f'learned from {source}')
        axes.grid(axis='y', alpha=0.3)
    axes.legend(ncols=len(found), fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.14))
    return figure
