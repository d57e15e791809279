# SPDX-License-Identifier: Apache-2.0
"""Whatever a YAML file holds, it is read or refused with one kind of error, soon."""

from dataclasses import dataclass
import time

from dgtl_core.classes import ClassSet
from dgtl_core.config import SegmenterConfig
from dgtl_core.strict import (
    closest,
    from_dict,
    load_yaml,
    MAX_BYTES,
    MAX_DEPTH,
    parse_yaml,
    read_yaml,
    suggestion,
)
import pytest

DAMAGED = {
    'lists in lists': '[' * 20_000,
    'mappings in mappings': '{a: ' * 20_000,
    'indented': '\n'.join(' ' * i + 'a:' for i in range(500)),
    'deep and whole': '[' * (MAX_DEPTH + 1) + ']' * (MAX_DEPTH + 1),
    'a billion laughs': 'a: &a [x, x]\n' + ''.join(
        f'{name}: &{name} [{", ".join([f"*{before}"] * 9)}]\n'
        for before, name in zip('abcdefgh', 'bcdefghi')),
    'a merge key': 'a: &a {b: 1}\nc: {<<: *a}',
    'a key twice': '{classes: [], classes: []}',
    'a long number': '{a: ' + '1' * 5000 + '}',
    'no date': '{a: 2020-99-99}',
    'a tag of no text': '{a: !!timestamp soon}',
    'a bool of no text': '{a: !!bool perhaps}',
    'an object': '{a: !!python/object/apply:os.system [ls]}',
    'a list as a key': '{[a, b]: 1}',
    'control characters': 'a: \x07',
    'a tab': 'a:\n\tb: 1',
    'two documents': 'a: 1\n---\nb: 1',
    'cut short': 'a: [1, 2',
}


@pytest.mark.parametrize('text', DAMAGED.values(), ids=DAMAGED)
def test_damaged_yaml_is_one_kind_of_error(tmp_path, text):
    path = tmp_path / 'classes.yaml'
    path.write_text(text)
    start = time.monotonic()
    for read in (read_yaml, ClassSet.from_yaml, lambda p: load_yaml(SegmenterConfig, p)):
        with pytest.raises(ValueError, match='classes.yaml is not valid YAML') as caught:
            read(path)
        assert len(str(caught.value)) < 1000
    assert time.monotonic() - start < 5


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_bytes(b'a: \xff\xfe')
    with pytest.raises(ValueError, match='a.yaml is not valid YAML'):
        read_yaml(path)


def test_a_long_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / 'a.yaml'
    with open(path, 'wb') as file:
        file.truncate(100 * MAX_BYTES)
    start = time.monotonic()
    with pytest.raises(ValueError, match=f'longer than {MAX_BYTES} bytes'):
        read_yaml(path)
    assert time.monotonic() - start < 1


def test_what_people_write_is_read():
    assert parse_yaml('') is None
    assert parse_yaml('a: 1e-4\nb: [1, 2]\nc: {d: off}\ne: 2026-01-31') is not None
    assert parse_yaml('[' * MAX_DEPTH + ']' * MAX_DEPTH) is not None


@dataclass(frozen=True, kw_only=True)
class Rates:
    rate: float = 1.0
    steps: tuple[int, ...] = ()


@pytest.mark.parametrize('data, message', [
    ({'rate': 10**400}, 'rate must be float, got 1000'),
    ({'rate': 'x' * 10_000}, "rate must be float, got 'xxx"),
    ({'rate': '1e999'}, 'rate must be a finite number'),
    ({'steps': [True]}, r'steps\[0\] must be int, got True'),
    ({'steps': {'a': 1} }, 'steps must be a list'),
    ({'rates': 1}, 'unknown key rates; did you mean rate\\?'),
    ({'x' * 10_000: 1}, 'unknown key xxx')])
def test_values_are_checked_and_shown_short(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_dict(Rates, data)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize('entry', [
    {'id': 10**400, 'name': 'a', 'color': [0, 0, 0]}, {'id': 0, 'name': 'a', 'color': [True] * 3},
    {'id': 0, 'name': 'a', 'color': [10**400, 0, 0]}, {'id': True, 'name': 'a', 'color': [0] * 3},
    {'id': 0, 'name': ['a'] * 10_000, 'color': [0, 0, 0]}])
def test_classes_of_impossible_values_are_refused(entry):
    with pytest.raises(ValueError) as caught:
        ClassSet.from_list('c', [entry])
    assert len(str(caught.value)) < 600


def test_the_nearest_name_is_suggested():
    assert suggestion('num_querys', ['num_queries', 'rank']) == '; did you mean num_queries?'
    assert suggestion('zzz', ['b', 'a']) == '; allowed are a, b'
    assert closest('zzz', ['b', 'a']) == ''
