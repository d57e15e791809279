# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation: one HTML file with everything in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
import io
from pathlib import Path
from typing import Any

from dgtl_core.classes import ClassSet
from dgtl_core.evaluation.score import FIGURES, Worst
from dgtl_core.files import write_atomically
from dgtl_core.reliability import BINS
from dgtl_core.visualize import overlay, sheet
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

_STYLE = ('body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}'
          'img{max-width:100%}td,th{padding:.15em .7em;text-align:right}'
          'td:first-child{text-align:left}')


def write_report(path: Path, results: dict[str, Any],
                 worst: Sequence[tuple[ClassSet, Sequence[Worst]]]) -> None:
    """
    Write the results of ``training.evaluate`` as a page with plots and the worst pictures.

    :raises OSError: the file cannot be written.
    """
    name = escape(str(results['model']))
    parts = [
        f'<!doctype html><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>',
        f'<h1>{name}</h1><p>Runs on {escape(results["runs_on"])}. Protocol '
        f'<b>{escape(results["protocol"])}</b>. Mean over data sets: '
        f'<b>{100 * results["mean_miou"]:.1f} %</b> mIoU.</p>', _numbers(results),
        '<h2>Data sets</h2>', _figure(_bars(results)), '<h2>Classes</h2>', _map(results),
        '<h2>Confidence</h2>', _confidence(results), _figure(_diagrams(results))]
    if results['corrupted']:
        parts += ['<h2>Corruptions</h2>', _figure(_curves(results))]
    parts.append('<h2>Worst pictures, by their mean IoU</h2>')
    for domain, (classes, pictures) in zip(results['domains'], worst):
        rows = [[p.image, overlay(p.image, p.labels, classes), overlay(p.image, labels, classes)]
                for _, p, labels in pictures]
        titles = [f'{p.name}: {100 * miou:.1f} %' for miou, p, _ in pictures]
        if rows:
            parts += [f'<h3>{escape(domain["name"])}</h3>',
                      _picture(sheet(rows, ('picture', 'truth', 'model'), titles)),
                      _legend(classes)]
    # a file name need not be valid text
    write_atomically(path, '\n'.join(parts).encode('utf-8', 'backslashreplace'))


def _numbers(results: dict[str, Any]) -> str:
    rows = ''.join(
        f'<tr><td>{escape(d["name"])}<td>{d["pictures"]}<td>{100 * d["miou"]:.1f}'
        f'<td>{100 * d["accuracy"]:.1f}<td>{d["pictures_per_s"]}' for d in results['domains'])
    return ('<table><tr><th>data set<th>pictures<th>mIoU, %<th>pixels right, %<th>pictures/s'
            f'{rows}</table>')


def _bars(results: dict[str, Any]) -> Figure:
    domains = results['domains']
    figure = Figure(figsize=(9, 1 + 0.4 * len(domains)), layout='constrained')
    axes = figure.add_subplot()
    bars = axes.barh([_verbatim(d['name']) for d in domains], [100 * d['miou'] for d in domains])
    axes.bar_label(bars, fmt='%.1f', padding=3)
    axes.set(xlim=(0, 100), xlabel='mIoU, %')
    axes.invert_yaxis()
    return figure


def _map(results: dict[str, Any]) -> str:
    """Return a row for each class and a cell for each data set; HTML writes in any language."""
    def cell(value: float | None) -> str:
        if value is None:
            return '<td>-'
        paint, ink = to_hex(colormaps['viridis'](value)), 'black' if value > 0.6 else 'white'
        return f'<td style="background:{paint};color:{ink}">{100 * value:.1f}'

    domains = results['domains']
    rows = ''.join(
        f'<tr><td>{escape(name)}' + ''.join(cell(domain['iou'][i]) for domain in domains)
        for i, name in enumerate(results['classes']))
    head = ''.join(f'<th>{escape(domain["name"])}' for domain in domains)
    return f'<table><tr><th>IoU, %{head}{rows}</table>'


def _confidence(results: dict[str, Any]) -> str:
    rows = ''.join(
        f'<tr><td>{escape(domain["name"])}' + ''.join(
            '<td>-' if value is None else f'<td>{100 * value:.1f}'
            for value in (domain['confidence'][figure] for figure in FIGURES))
        for domain in results['domains'])
    head = ''.join(f'<th>{title}' for title in FIGURES.values())
    return (
        f'<table><tr><th>%{head}{rows}</table><p>ECE: by how much the confidence is off. AUROC, '
        'FPR95, AUPR: how well it tells right pixels from wrong ones, as in the BRAVO challenge. '
        'AURC: share of wrong pixels, averaged over the shares of pixels that are kept.')


def _diagrams(results: dict[str, Any]) -> Figure:
    """Return a reliability diagram for each data set, and their risks by coverage."""
    domains = results['domains']
    columns = 3
    figure = Figure(figsize=(11, 3.7 * (len(domains) // columns + 1)), layout='constrained')
    panels = figure.subplots(len(domains) // columns + 1, columns, squeeze=False).ravel()
    for axes, domain in zip(panels, domains):
        found = domain['confidence']
        bins = [b for b in found['bins'] if b['pixels']]
        pixels = [b['pixels'] for b in found['bins']]
        axes.bar([(i + 0.5) / BINS for i in range(BINS)],
                 [count / max(*pixels, 1) for count in pixels], width=1 / BINS, color='0.85')
        axes.plot([0, 1], [0, 1], color='0.5', linestyle=':')
        axes.plot([b['confidence'] for b in bins], [b['right'] for b in bins], marker='o')
        ece = '-' if found['ece'] is None else f'{100 * found["ece"]:.1f} %'
        axes.set_title(f'{_verbatim(domain["name"])}, ECE {ece}', fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1.05),
                 xlabel='confidence (grey: pixels)', ylabel='share of right pixels')
    axes = panels[len(domains)]
    for domain in domains:
        axes.plot(*zip(*domain['confidence']['risk_coverage'] or [(0, 0)]),
                  label=_verbatim(domain['name']))
    axes.set(title='risk by coverage', xlabel='share of pixels kept, the surest first',
             ylabel='share of wrong pixels among them', xlim=(0, 1))
    axes.legend(fontsize=8)
    for axes in panels[len(domains) + 1:]:
        axes.remove()
    return figure


def _legend(classes: ClassSet) -> str:
    return '<p>' + ' '.join(
        f'<span style="color:rgb{entry.color}">&#9632;</span> {escape(entry.name)}'
        for entry in classes)


def _curves(results: dict[str, Any]) -> Figure:
    """Return a panel for each data set with a line for each corruption."""
    entries, clean = results['corrupted'], {d['name']: d['miou'] for d in results['domains']}
    corruptions = list(dict.fromkeys(e['corruption'] for e in entries))
    colors = colormaps['tab20'](np.arange(len(corruptions)) % 20)
    figure = Figure(figsize=(11, 4.2 * len(clean)), layout='constrained')
    panels = figure.subplots(len(clean), 1, sharey=True, squeeze=False)[:, 0]
    for axes, domain in zip(panels, clean):
        for corruption, color in zip(corruptions, colors):
            points = [(0, clean[domain]), *sorted(
                (e['severity'], e['miou']) for e in entries
                if (e['domain'], e['corruption']) == (domain, corruption))]
            axes.plot([x for x, _ in points], [100 * y for _, y in points], marker='o',
                      color=color, label=corruption)
        axes.set(title=_verbatim(domain), xlabel='severity (0: as it is)', ylabel='mIoU, %',
                 xticks=range(6))
    panels[0].set_ylim(bottom=0)  # once all lines are there; the panels share it
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc='outside right upper', fontsize=8)
    return figure


def _verbatim(text: str) -> str:
    """Return what shows as ``text``: matplotlib takes what is between dollars for a formula."""
    return text.encode('utf-8', 'backslashreplace').decode().replace('$', r'\$')


def _figure(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg')
    return _tag(buffer.getvalue(), 'svg+xml')


def _picture(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=85)
    return _tag(buffer.getvalue(), 'jpeg')


def _tag(data: bytes, kind: str) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
