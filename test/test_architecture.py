# SPDX-License-Identifier: Apache-2.0
"""docs/design.md shows the imports as they are, and holds every fact that a comment cites."""

import importlib.util
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def architecture():
    spec = importlib.util.spec_from_file_location('architecture', ROOT / 'docs/architecture.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_architecture_is_current(architecture):
    shown = architecture.PAGE.read_text(encoding='utf-8')
    assert shown == architecture.current(), 'run: python docs/architecture.py --write'


def test_an_arrow_that_follows_from_two_others_is_left_out(architecture):
    graph = {'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}
    assert architecture.reduced(graph) == {'a': {'b'}, 'b': {'c'}, 'c': set()}


def test_rooms_that_import_each_other_lose_no_arrow(architecture):
    graph = {'a': {'b', 'c'}, 'b': {'c'}, 'c': {'b'}, 'd': {'e', 'b'}, 'e': {'d', 'b'}}
    assert architecture.reduced(graph) == graph


def test_every_fact_that_a_comment_cites_is_in_the_list():
    page = (ROOT / 'docs' / 'design.md').read_text(encoding='utf-8')
    known = set(re.findall(r'^\| (V?\d+) \|', page, re.M))
    assert {'1', '39', 'V1', 'V23'} <= known
    cited = {}
    for package in ('dgtl_core', 'training'):
        for path in (ROOT / package).rglob('*.py'):
            text = path.read_text(encoding='utf-8')
            assert not re.search(r'\bitems? \d', text), f'{path}: say "fact N" (docs/design.md)'
            for numbers in re.findall(r'\bfacts? (V?\d+(?:(?:, | and |-)V?\d+)*)', text):
                cited.update(dict.fromkeys(re.findall(r'V?\d+', numbers), path))
    assert len(cited) > 15
    assert not {n: p for n, p in cited.items() if n not in known}
