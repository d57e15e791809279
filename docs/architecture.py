# SPDX-License-Identifier: Apache-2.0
"""
Draw the rooms of the repository and who imports whom, from the imports themselves.

    python docs/architecture.py            # print the Mermaid graph
    python docs/architecture.py --write    # bring docs/design.md up to date

A room is a folder, or a module that stands alone in dgtl_core. An arrow that follows from two
others is left out. test/test_architecture.py fails where design.md shows another graph.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'design.md'
BEGIN, END = '<!-- architecture: begin -->\n', '<!-- architecture: end -->\n'
PACKAGES = ('dgtl_core', 'dgtl_ros', 'training')
COLORS = dict(zip(PACKAGES, ('#3f77d0', '#2f9e5b', '#c77c1d')))


def room_of(module: str) -> str:
    """Return the room of a module: ``dgtl_core.engine`` of ``dgtl_core.engine.cache``."""
    parts = module.split('.')
    if parts[0] == 'dgtl_core':
        return '.'.join(parts[:2])
    is_folder = len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir()
    return '.'.join(parts[:2]) if is_folder else parts[0]


def imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, also inside of its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                place = ROOT / inner.replace('.', '/')
                is_module = place.with_suffix('.py').is_file() or place.is_dir()
                found.add(inner if is_module else node.module)
    return {name for name in found if name.split('.')[0] in PACKAGES}


def arrows() -> dict[str, set[str]]:
    """Return for each room the rooms that it imports."""
    result: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py')):
            parts = path.relative_to(ROOT).with_suffix('').parts
            module = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
            if module in PACKAGES:
                continue
            room = room_of(module)
            result[room] |= {room_of(name) for name in imports(path)} - {room} - set(PACKAGES[:1])
    return {room: {t for t in targets if t in result} for room, targets in result.items()}


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each arrow whose end is reached by another way too."""
    def reach(room: str, seen: set[str]) -> set[str]:
        for target in graph[room] - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    below = {room: reach(room, set()) for room in graph}
    return {room: {t for t in targets
                   if not any(t in below[other] and other not in below[t]  # no circle with either
                              and room not in below[other] for other in targets - {t})}
            for room, targets in graph.items()}


def mermaid() -> str:
    """Return the graph as Mermaid text, the same for the same imports."""
    graph = reduced(arrows())
    lines = ['```mermaid', 'flowchart TD']
    for package in PACKAGES:
        lines.append(f'  subgraph {package}')
        lines += [f'    {room.replace(".", "_")}["{room.removeprefix(package + ".")}"]'
                  for room in sorted(graph) if room.split('.')[0] == package]
        lines.append('  end')
    lines += [f'  {room.replace(".", "_")} --> {target.replace(".", "_")}'
              for room in sorted(graph) for target in sorted(graph[room])]
    return '\n'.join([*lines, '```', ''])


def svg() -> str:
    """Return the graph as a drawing for the site, which loads nothing from elsewhere."""
    from layered import draw  # beside this file

    graph = reduced(arrows())
    short = {room: room.removeprefix('dgtl_core.') for room in graph}
    return draw({short[room]: {short[t] for t in targets} for room, targets in graph.items()},
                {short[room]: COLORS[room.split('.')[0]] for room in graph})


def current() -> str:
    """Return the page as it should be."""
    head, _, rest = PAGE.read_text(encoding='utf-8').partition(BEGIN)
    return head + BEGIN + mermaid() + END + rest.partition(END)[2]


def main(arguments: list[str] | None = None) -> int:
    """Print the graph, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--write', action='store_true', help='bring docs/design.md up to date')
    if parser.parse_args(arguments).write:
        PAGE.write_text(current(), encoding='utf-8')
    else:
        print(mermaid(), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
