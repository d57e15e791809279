# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from dgtl_core.classes import CITYSCAPES, ClassSet, SegmentationClass
import pytest

CONFIG = Path(__file__).parent.parent / 'config' / 'classes'


def test_cityscapes_has_the_official_order_and_colours():
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.names[0] == 'road'
    assert CITYSCAPES.names[18] == 'bicycle'
    assert CITYSCAPES[10].name == 'sky' and CITYSCAPES[10].color == (70, 130, 180)
    assert [entry.id for entry in CITYSCAPES] == list(range(19))


def test_palette_is_black_where_there_is_no_class():
    palette = CITYSCAPES.palette()
    assert len(palette) == 256
    assert palette[13] == (0, 0, 142)
    assert palette[19] == palette[255] == (0, 0, 0)


def test_shipped_yaml_says_the_same_as_the_code():
    assert ClassSet.from_yaml(CONFIG / 'cityscapes.yaml') == CITYSCAPES


@pytest.mark.parametrize('path', sorted(CONFIG.glob('*.yaml')), ids=lambda p: p.name)
def test_shipped_yaml_loads(path):
    assert ClassSet.from_yaml(path).name == path.stem


def test_list_round_trip():
    assert ClassSet.from_list('cityscapes', CITYSCAPES.to_list()) == CITYSCAPES


@pytest.mark.parametrize('entries, message', [
    ([{'id': 0, 'name': 'a', 'colour': [0, 0, 0]}],
     r'unknown key colour \(did you mean color\?\), missing keys .*color'),
    ([{'id': 1, 'name': 'a', 'color': [0, 0, 0]}], 'without a gap'),
    ([{'id': 0, 'name': 'a', 'color': [0, 0, 300]}], r'each 0\.\.255'),
    ([{'id': 0, 'name': ' ', 'color': [0, 0, 0]}], 'needs a name'),
    ([{'id': 255, 'name': 'a', 'color': [0, 0, 0]}], r'0\.\.254'),
    ([{'id': i, 'name': 'a', 'color': [0, 0, 0]} for i in (0, 1)], 'must differ'),
    ([], 'without a gap'),
    ([{'id': 0, 'name': 'a', 'color': 5}], r'must be \[r, g, b\]'),
    ([{'id': False, 'name': 'a', 'color': [0, 0, 0]}], 'must be an integer'),
    ([{'id': 0, 'name': 'a', 'color': [0, 0, 0], 'prompts': 'road'}], 'must be a list of words'),
    ([{'id': 0, 'name': 'a', 'color': [0, 0, 0], 'prompts': [3]}], 'must be a list of words'),
    ([{'id': 0, 'name': 'a', 'color': [0, 0, 0], 'prompts': None}], 'must be a list of words'),
    (['road'], 'must be a mapping'),
])
def test_bad_entries_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        ClassSet.from_list('mine', entries)


@pytest.mark.parametrize('text, message', [
    ('classes: {', 'not valid YAML'), ('[1, 2]', 'must hold'), ('name: x', 'must hold')])
def test_bad_yaml_is_refused(tmp_path, text, message):
    path = tmp_path / 'classes.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        ClassSet.from_yaml(path)


def test_a_class_is_frozen():
    entry = SegmentationClass(id=0, name='a', color=(1, 2, 3))
    with pytest.raises(AttributeError):
        entry.id = 1


@pytest.mark.parametrize('text, message', [
    (b'nmae: a\nclasses: [{id: 0, name: a, color: [0, 0, 0]}]',
     r'unknown key nmae \(did you mean name'),
    (b'classes: [{id: 0, name: a, color: [0, 0, 0]}]\nignore: 255', 'unknown key ignore, allowed'),
    (b'name: caf\xe9', 'c.yaml is not valid YAML')])
def test_a_class_file_with_other_keys_is_refused(tmp_path, text, message):
    (tmp_path / 'c.yaml').write_bytes(text)
    with pytest.raises(ValueError, match=message):
        ClassSet.from_yaml(tmp_path / 'c.yaml')
