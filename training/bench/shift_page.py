# SPDX-License-Identifier: Apache-2.0
"""The figures of training.shift_report as Markdown, and as a page with plots as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
import io
from typing import Any

from matplotlib.figure import Figure

_STYLE = ('body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}'
          'svg{max-width:100%;height:auto}td,th{padding:.15em .7em;text-align:right}'
          'td:first-child{text-align:left}')
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables as text."""
    lines = [f'# The domain verdict, measured\n\n{_about(results)}']
    for title, (head, rows) in _tables(results):
        lines += [f'\n## {title}\n', '| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head),
                  *('| ' + ' | '.join(row) + ' |' for row in rows)]
    return '\n'.join(lines) + '\n'


def page(results: Mapping[str, Any]) -> str:
    """Return one HTML page with everything in it."""
    parts = ['<!doctype html><meta charset="utf-8"><title>The domain verdict</title>'
             f'<style>{_STYLE}</style><h1>The domain verdict, measured</h1>'
             f'<p>{escape(_about(results))}</p>']
    parts += [_svg(_curves(experiment)) for experiment in results['experiments']]
    for title, (head, rows) in _tables(results):
        parts.append(f'<h2>{escape(title)}</h2><table><tr>'
                     + ''.join(f'<th>{escape(cell)}' for cell in head)
                     + ''.join('<tr>' + ''.join(f'<td>{escape(cell)}' for cell in row)
                               for row in rows) + '</table>')
    return '\n'.join(parts) + '\n'


def _about(results: Mapping[str, Any]) -> str:
    return (f'{results["model"]} ({results["sha256"]}) on {results["runs_on"]}.'
            + ' Few small pictures: these numbers mean nothing.' * results['quick'])


def _tables(results: Mapping[str, Any]) -> Iterable[tuple[str, Table]]:
    for experiment in results['experiments']:
        name = experiment['name']
        yield name, (('condition', 'severity', 'AUROC, one picture', 'AUROC, ten pictures',
                      'windows found'), [
            (row['condition'], str(row['severity']), f'{row["auroc_picture"]:.3f}',
             f'{row["auroc_window"]:.3f}', f'{row["found"]:.0%}')
            for row in experiment['separation']])
        yield f'False alarms: {name}', (('pictures of', 'pictures', 'false windows'), [
            (row['pictures_of'], str(row['pictures']), f'{row["false_windows"]:.1%}')
            for row in experiment['false_alarms']])
        yield f'By the drives fitted on: {name}', ((
            'drives', 'expected false windows', 'false windows', 'least AUROC, ten pictures',
            'windows found at severity 3'), [
            (str(row['drives']), f'{row["expected"]:.1%}', f'{row["false_windows"]:.1%}',
             f'{row["least_auroc_window"]:.3f}', f'{row["found"]:.0%}')
            for row in experiment['by_drives']])
        yield f'What each signal brings, at severity 3: {name}', ((
            'signals', 'AUROC, one picture: least', 'mean', 'ten pictures: least', 'mean',
            'windows found', 'false windows'), [
            (row['signals'], *(f'{row[key]:.3f}' for key in (
                'least_picture', 'mean_picture', 'least_window', 'mean_window')),
             f'{row["found"]:.0%}', f'{row["false_windows"]:.1%}')
            for row in experiment['signals']])
    streams, cost = results['streams'], results['cost']
    yield 'Seconds until a change is noticed, from half its strength on', ((
        'condition', 'drives'), [
        (condition, ', '.join('not' if s is None else f'{s:.1f}' for s in seconds))
        for condition, seconds in streams['onset_s'].items()])
    alarms = streams['false_alarms']
    yield 'False alarms on clear drives', (('seconds', 'alarms', 'an hour', 'at most (95 %)'), [
        (f'{alarms["seconds"]:.0f}', str(alarms['alarms']), f'{alarms["per_hour"]:.0f}',
         f'{alarms["at_most"]:.0f}')])
    yield 'Cost', ((
        'inference, ms', 'verdict, ms', 'at 1080x1920', 'allowed, ms', 'statistics, KiB'), [
        (f'{cost["inference_ms"]:.1f}', f'{cost["verdict_ms"]:.2f}',
         f'{cost["verdict_full_hd_ms"]:.2f}', f'{cost["allowed_ms"]:.2f}',
         f'{cost["statistics_kib"]:.0f}')])


def _curves(experiment: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    rows = experiment['separation']
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, title in zip(panels, ('picture', 'window'), ('one picture', 'ten pictures')):
        for condition in dict.fromkeys(row['condition'] for row in rows):
            points = [(row['severity'], row[f'auroc_{kind}']) for row in rows
                      if row['condition'] == condition]
            axes.plot([x for x, _ in points], [y for _, y in points], marker='o', label=condition)
        axes.set(title=title, xlabel='severity', xticks=range(1, 6))
    panels[0].set(ylabel='AUROC')
    panels[1].legend(fontsize=8)
    figure.suptitle(experiment['name'], fontsize=10)
    return figure


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue()
    return text[text.index('<svg'):]
