# SPDX-License-Identifier: Apache-2.0
"""Each fault on the page about reliability has tests, and they exist."""

import ast
from pathlib import Path
import re

import pytest

TEST = Path(__file__).resolve().parent
PAGE = (TEST.parent / 'docs' / 'reference' / 'reliability.md').read_text(encoding='utf-8')
NAME = re.compile(r'`(test_\w+\.py)::(test_\w+)`')
ROWS = [cells for line in PAGE.splitlines()
        if len(cells := line.strip('|').split(' | ')) == 3 and '`test_' in line]


def test_the_page_has_its_tables():
    tables = PAGE.count('| fault | what happens | test |\n|---|---|---|\n')
    assert tables >= 5 and len(ROWS) > 50
    assert len(ROWS) == sum(
        line.startswith('| ') and 'what happens' not in line
        for table in PAGE.split('| fault |')[1:]
        for line in table.partition('\n\n')[0].splitlines()), 'a row without a test'


@pytest.mark.parametrize('file, name', sorted(set(NAME.findall(PAGE))))
def test_a_test_that_the_page_names_exists(file, name):
    path = TEST / file
    assert path.is_file(), f'there is no {file}'
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
