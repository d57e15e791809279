# SPDX-License-Identifier: Apache-2.0
"""Small line plots as SVG text, coloured by the style sheet of the page that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
import math

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 28, 32  # room for the numbers around the plot
_POINTS = 600  # at most so many are drawn of each line

STYLE = """
svg { display: block; width: 100%; font-family: system-ui, sans-serif; }
svg text { fill: var(--soft, #60646c); font-size: 12px; } svg .title { fill: var(--ink, #1c2024); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--line, #d9d9e0); } polyline { fill: none; stroke-width: 1.6; }
.line0 { stroke: var(--one, #0b68cb); } .line1 { stroke: var(--two, #c2560c); }
svg .key0 { fill: var(--one, #0b68cb); } svg .key1 { fill: var(--two, #c2560c); }
"""

Line = tuple[str, Sequence[tuple[float, float]]]  # its name, and (x, y) in rising order of x


def line_plot(title: str, x_label: str, lines: Sequence[Line]) -> str:
    """Return an ``<svg>`` with one polyline (class ``line0``, ``line1``, ...) for each line."""
    points = [p for _, line in lines for p in line]
    right = max((x for x, _ in points), default=0.0) or 1.0
    step = _step(max((y for _, y in points), default=0.0) or 1.0)
    top = step * math.ceil(max((y for _, y in points), default=1.0) / step) or step

    def place(x: float, y: float) -> tuple[float, float]:
        return (_LEFT + x / right * (_WIDTH - _LEFT - _RIGHT),
                _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM))

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
             f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']
    for i in range(round(top / step) + 1):
        y = place(0, i * step)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/><text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">'
                     f'{i * step:g}</text>')
    step = _step(right)
    for i in range(int(right / step) + 1):
        parts.append(f'<text class="middle" x="{place(i * step, 0)[0]:.1f}" '
                     f'y="{_HEIGHT - 14}">{i * step:g}</text>')
    parts.append(f'<text class="end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}">'
                 f'{escape(x_label)}</text>')
    for number, (name, line) in enumerate(lines):
        thin = line[::max(math.ceil(len(line) / _POINTS), 1)]
        path = ' '.join('{:.1f},{:.1f}'.format(*place(x, y)) for x, y in thin)
        parts.append(f'<polyline class="line{number}" points="{path}"/>')
        parts.append(f'<text class="end key{number}" x="{_WIDTH - _RIGHT - 90 * number}" y="16">'
                     f'{escape(name)}</text>')
    return ''.join([*parts, '</svg>'])


def _step(span: float) -> float:
    """Return a round distance of marks, of which 3 to 8 fit into the span."""
    power: float = 10.0 ** math.floor(math.log10(span))
    return next(power * part for part in (0.2, 0.5, 1, 2) if span / (power * part) <= 8)
