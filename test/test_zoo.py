# SPDX-License-Identifier: Apache-2.0
"""Published weights by name: the list, and names where a model file is wanted."""

import json
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.cli.fetch import main, weights_table
from dgtl_core.files import shipped
from dgtl_core.model_file import ModelError
from dgtl_core.predictor import find_model, Predictor
from dgtl_core.zoo import entries
from dgtl_core.zoo.cache import fetched_file, read_record, weights_folder
from dgtl_core.zoo.entries import read_entries
import pytest
from small_zoo import offering


@pytest.fixture
def zoo(server, tmp_path, monkeypatch):
    yield from offering(server, tmp_path, monkeypatch)


def test_the_list_that_is_shipped():
    listed = read_entries(shipped('zoo.yaml'))
    assert {'rein-gtav-l', 'soma-gtav-l', 'dinov2-l14', 'vltseg-gtav', 'dgtl-l', 'clip-rn50',
            'eva02-clip-l', 'eomt-cityscapes-l-1024', 'dinov3-l16'} <= listed.keys()
    for entry in listed.values():
        assert not entry.url or entry.url.startswith('https://')
        free = entry.licence in ('Apache-2.0', 'GPL-3.0', 'MIT')
        assert entry.accept != free, entry.name
        if entry.classes:
            ClassSet.from_yaml(shipped(f'{entry.classes}.yaml', 'config/classes'))
    text = weights_table(listed.values())
    assert text.count('\n') == len(listed) and 'not checked' in text
    published = [entry for entry in listed.values() if entry.method == 'rein' and entry.url]
    assert len({entry.file for entry in published}) < len(published)  # so folders are by name


@pytest.mark.parametrize('change, message', [
    ({'name': '../../etc'}, 'a name must be at most 64'),
    ({'nmae': 'x'}, 'unknown key nmae; did you mean name'),
    ({'kind': 'engine'}, 'kind must be one of'),
    ({'url': None}, 'needs a url or a page'),
    ({'url': 'https://a/b/..'}, 'ends in no file name'),
    ({'url': 'https://a/b/%2e%2e%2fc'}, 'ends in no file name'),
    ({'size': -1}, r'size of tiny-soma must be in 0\.\.'),
    ({'size': True}, 'size must be int'),
    ({'sha256': 'ab'}, 'must be 64 digits'),
    ({'needs': 'tiny-soma'}, "needs 'tiny-soma', which is no backbone"),
    ({'image_size': 0}, 'needs method and image_size'),
    ({'classes': '../../x'}, 'must name a file of config/classes'),
    ({'name': 'base'}, 'two entries have the same name'),
    ({'kind': 'text'}, 'is a CLIP and needs its sha256'),
])
def test_a_wrong_list_is_refused(zoo, change, message):
    zoo({}, change)
    with pytest.raises(ValueError, match=message):
        entries.published()


@pytest.mark.parametrize('text', ['[' * 5000, 'entries: 3', '- a', '\x00', 'a: &a [*a]'])
def test_what_is_no_list_is_refused(tmp_path, text):
    path = tmp_path / 'zoo.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match='zoo.yaml'):
        read_entries(path)
    path.write_bytes(b'#' * (1 << 20))
    with pytest.raises(ValueError, match='is longer than'):
        read_entries(path)


def test_a_damaged_record_is_no_record(zoo):
    zoo()
    assert main(['base']) == 0
    path = weights_folder() / 'base' / 'record.json'
    good = json.loads(path.read_text())
    for bad in ('', '[' * 10_000, '{}', json.dumps({**good, 'file': '../../x'}),
                json.dumps({**good, 'size': True}), json.dumps({**good, 'sha256': 'x'})):
        path.write_text(bad)
        assert read_record('base') is None and fetched_file('base') is None


@pytest.mark.parametrize('name, message', [
    ('tiny-soma', 'run "dgtl fetch tiny-soma" first'), ('tiny-sona', 'did you mean tiny-soma'),
    ('base', 'is a backbone, not a model')])
def test_a_name_that_is_not_here_says_what_to_do(zoo, name, message):
    zoo()
    with pytest.raises(ModelError, match=message):
        Predictor.load(name)


def test_files_go_before_names(zoo, tmp_path, monkeypatch):
    zoo()
    monkeypatch.chdir(tmp_path)
    Path('tiny-soma').touch()
    assert find_model('tiny-soma') == Path('tiny-soma')
    with pytest.raises(ModelError, match='is a backbone'):
        find_model(Path('base'))  # as a command line gives it
    assert find_model('~/x.onnx') == Path.home() / 'x.onnx'
    assert find_model('x' * 5000) == Path('x' * 5000)


def test_the_cache_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert weights_folder() == Path('/somewhere/dgtl_ros/weights')
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # not valid, says the XDG rule
    assert weights_folder() == Path.home() / '.cache/dgtl_ros/weights'


def test_classes_are_for_a_clip(zoo):
    zoo()
    with pytest.raises(SystemExit) as ended:
        main(['tiny-soma', '--classes', 'x.yaml'])
    assert ended.value.code == 2
