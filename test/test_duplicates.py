# SPDX-License-Identifier: Apache-2.0
"""No piece of code stands in two places."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = 8  # lines of code, without imports, comments and blank ones


def code_lines(path):
    """Return (number, text) of the lines that count."""
    text = path.read_text(encoding='utf-8')
    imports = {number for node in ast.walk(ast.parse(text))
               if isinstance(node, ast.Import | ast.ImportFrom)
               for number in range(node.lineno, node.end_lineno + 1)}
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped
            if line.strip('()[]{},') and not line.startswith('#') and number not in imports]


def repeated(paths):
    """Return where runs of equal lines stand, for each run that stands more than once."""
    places = defaultdict(list)
    for path in paths:
        lines = code_lines(path)
        for first in range(len(lines) - RUN + 1):
            run = lines[first:first + RUN]
            places[tuple(text for _, text in run)].append(f'{path.name}:{run[0][0]}')
    return [found for found in places.values() if len(found) > 1]


def test_repeated_lines_are_seen(tmp_path):
    block = ''.join(f'x{i} = {i}\n' for i in range(RUN))
    (tmp_path / 'a.py').write_text(f'import os\n{block}')
    (tmp_path / 'b.py').write_text('def f():\n    pass\n' + block.replace('x3', '\n# why\nx3'))
    (tmp_path / 'c.py').write_text(block.replace('x3', 'y3'))
    assert repeated(sorted(tmp_path.iterdir())) == [['a.py:2', 'b.py:3']]


def test_no_code_stands_twice():
    paths = [path for room in ('dgtl_core', 'dgtl_ros', 'training', 'launch')
             for path in sorted((ROOT / room).rglob('*.py'))]
    assert len(paths) > 100
    assert not repeated(paths)
