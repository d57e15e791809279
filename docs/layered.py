# SPDX-License-Identifier: Apache-2.0
"""
Draw a graph as SVG: in layers, arrows downwards, few crossings.

Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(1981): longest paths make the layers, long arrows get a place in each layer that they pass, and
every layer is ordered by the mean place of its neighbours, up and down again.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_ROW, _HEIGHT, _LETTER, _GAP, _EDGE = 62, 26, 7.6, 14, 8  # pixels; letters of 12 px
_SWEEPS = 24
_Node = str | tuple[str, str, int]  # a box, or the place of an arrow in a layer


def draw(graph: Mapping[str, set[str]], groups: Mapping[str, str]) -> str:
    """
    Return the graph as an ``<svg>`` for a page; colours are those of the page.

    :param graph: {name: names that it points to}; in a circle one arrow points upwards.
    :param groups: {name: CSS colour of its frame}.
    """
    layers, arrows = _layered(_downwards(graph))
    _order(layers, arrows)
    centre, width = _places(layers)
    parts = []
    for start, end in arrows:
        (x, y), (to_x, to_y) = centre[start], centre[end]
        top = start if isinstance(start, str) else start[0]
        bottom = end if isinstance(end, str) else end[1]
        down = isinstance(end, str) and bottom in graph[top]
        up = isinstance(start, str) and top in graph[bottom]
        y += (_HEIGHT / 2 + 4 * up) if isinstance(start, str) else 0
        to_y -= (_HEIGHT / 2 + 4 * down) if isinstance(end, str) else 0
        middle = (y + to_y) / 2
        head = ' marker-end="url(#head)"' * down + ' marker-start="url(#head)"' * up
        parts.append(f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} '
                     f'{to_x:.0f} {to_y:.0f}"{head}/>')
    for name in sorted(graph):
        x, y = centre[name]
        half = _width(name) / 2
        parts.append(
            f'<rect x="{x - half:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{2 * half:.0f}" '
            f'height="{_HEIGHT}" rx="5" stroke="{groups[name]}"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}">{escape(name)}</text>')
    return (
        f'<svg class="layered" viewBox="0 0 {width:.0f} {_ROW * len(layers):.0f}" role="img" '
        'xmlns="http://www.w3.org/2000/svg"><defs><marker id="head" orient="auto-start-reverse" '
        'markerWidth="6" markerHeight="6" refX="3" refY="3"><path d="M0 0L6 3L0 6z" '
        'style="fill:currentColor;stroke:none"/></marker></defs>' + ''.join(parts) + '</svg>')


def _downwards(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Turn the arrows that close a circle."""
    result: dict[str, set[str]] = {name: set() for name in graph}
    path: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        path.append(name)
        for other in sorted(graph[name]):
            if other in path:
                result[other].add(name)
            else:
                result[name].add(other)
                if other not in done:
                    visit(other)
        done.add(path.pop())

    for name in sorted(graph):
        if name not in done:
            visit(name)
    return result


def _layered(graph: Mapping[str, set[str]]) -> tuple[list[list[_Node]], list[tuple[_Node, _Node]]]:
    depth: dict[str, int] = {}

    def sink(name: str) -> int:  # how many layers are below it
        if name not in depth:
            depth[name] = max((sink(other) + 1 for other in graph[name]), default=0)
        return depth[name]

    layers: list[list[_Node]] = [[] for _ in range(max(map(sink, graph), default=-1) + 1)]
    arrows: list[tuple[_Node, _Node]] = []
    for name in sorted(graph):
        layers[-1 - depth[name]].append(name)
        for other in sorted(graph[name]):
            way: list[_Node] = [name]
            for level in range(depth[name] - 1, depth[other], -1):
                way.append((name, other, level))
                layers[-1 - level].append(way[-1])
            arrows += zip(way, [*way[1:], other])
    return layers, arrows


def _order(layers: list[list[_Node]], arrows: list[tuple[_Node, _Node]]) -> None:
    near: dict[_Node, tuple[list[_Node], list[_Node]]] = {
        node: ([], []) for layer in layers for node in layer}
    for start, end in arrows:
        near[start][1].append(end)
        near[end][0].append(start)
    place = {node: i / max(len(layer), 1) for layer in layers for i, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        side = sweep % 2
        for layer in layers if side == 0 else layers[::-1]:
            mean = {node: sum(place[n] for n in near[node][side]) / len(near[node][side])
                    if near[node][side] else place[node] for node in layer}
            layer.sort(key=lambda node: mean[node])
            place.update({node: (i + 0.5) / len(layer) for i, node in enumerate(layer)})


def _places(layers: list[list[_Node]]) -> tuple[dict[_Node, tuple[float, float]], float]:
    rows = [sum(_width(node) + _GAP for node in layer) for layer in layers]
    width = max(rows, default=0.0)
    centre: dict[_Node, tuple[float, float]] = {}
    for number, (layer, row) in enumerate(zip(layers, rows)):
        free = (width - row) / max(len(layer), 1)  # spread over the whole width
        x = 0.0
        for node in layer:
            step = _width(node) + _GAP + free
            centre[node] = (x + step / 2, (number + 0.5) * _ROW)
            x += step
    return centre, width


def _width(node: _Node) -> float:
    return len(node) * _LETTER + 16 if isinstance(node, str) else _EDGE
