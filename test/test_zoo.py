# SPDX-License-Identifier: Apache-2.0
"""Published weights by name: the list, ``dgtl fetch``, and names where a model file is wanted."""

import hashlib
import json
import os
from pathlib import Path

from dgtl_core.cli.fetch import main, weights_table
from dgtl_core.cli.main import main as dgtl
from dgtl_core.files import shipped
from dgtl_core.model_file import ModelError
from dgtl_core.predictor import find_model, onnx_metadata, Predictor
from dgtl_core.zoo import convert, download, entries
from dgtl_core.zoo import fetch as fetching
from dgtl_core.zoo.cache import fetched_file, made_file, read_record, weights_folder
from dgtl_core.zoo.entries import Entry, read_entries
from file_server import FileServer
import numpy as np
import pytest
import yaml

BASE = {'name': 'base', 'kind': 'backbone', 'backbone': 'dinov2', 'trained_on': 'x',
        'licence': 'Apache-2.0'}
MODEL = {'name': 'tiny-soma', 'kind': 'model', 'backbone': 'dinov2', 'trained_on': 'y',
         'licence': 'MIT', 'method': 'soma', 'image_size': 64, 'needs': 'base'}


@pytest.fixture
def server():
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def zoo(server, tmp_path, monkeypatch):
    """A list of weights of our own, an empty cache folder, and no way to convert anything."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(download.time, 'sleep', lambda seconds: None)
    converted = []

    def to_checkpoint(entry, files, out, source):
        converted.append((entry.name, dict(files), source))
        out.write_bytes(b'checkpoint')

    def to_model_file(checkpoint, out, size=None):
        out.write_bytes(b'model %r' % (size,))
        return 'all equal'

    monkeypatch.setattr(convert, 'to_checkpoint', to_checkpoint)
    monkeypatch.setattr(convert, 'to_model_file', to_model_file)
    server.files.update({'/base.pth': b'base' * 1000, '/soma.pth': b'soma' * 1000})

    def offer(*changes):
        listed = [{**BASE, 'url': f'{server.url}/base.pth'},
                  {**MODEL, 'url': f'{server.url}/soma.pth'}]
        for index, change in enumerate(changes):
            listed[index] = {key: value for key, value in {**listed[index], **change}.items()
                             if value is not None}
        path = tmp_path / 'zoo.yaml'
        path.write_text(yaml.safe_dump({'entries': listed}))
        monkeypatch.setattr(entries, 'shipped', lambda name: path)
        entries.published.cache_clear()
        return converted

    yield offer
    entries.published.cache_clear()


def test_the_list_that_is_shipped():
    listed = read_entries(shipped('zoo.yaml'))
    assert {'rein-gtav-l', 'soma-gtav-l', 'dinov2-l14', 'vltseg-gtav', 'dgtl-l', 'clip-rn50',
            'eva02-clip-l', 'eomt-cityscapes-l-1024', 'dinov3-l16'} <= listed.keys()
    for entry in listed.values():
        assert not entry.url or entry.url.startswith('https://')
        free = entry.licence in ('Apache-2.0', 'GPL-3.0', 'MIT')
        assert entry.accept != free, entry.name
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


def test_one_command_from_a_name_to_a_model(zoo, server, capsys):
    converted = zoo()
    assert dgtl(['fetch', 'tiny-soma']) == 0
    out = capsys.readouterr().out
    assert out.index('tiny-soma: licence MIT') < out.index('fetching')
    folder = weights_folder()
    assert (folder / 'base' / 'base.pth').read_bytes() == server.files['/base.pth']
    record = read_record('tiny-soma')
    assert record.sha256 == hashlib.sha256(server.files['/soma.pth']).hexdigest()
    assert record.source == f'{server.url}/soma.pth'
    name, files, source = converted[0]
    assert files == {'base': folder / 'base' / 'base.pth',
                     'tiny-soma': folder / 'tiny-soma' / 'soma.pth'}
    assert record.sha256 in source and f'{server.url}/base.pth' in source and 'MIT' in source
    assert find_model('tiny-soma') == made_file('tiny-soma') == folder / 'tiny-soma' / \
        'tiny-soma.onnx'
    server.requests.clear()
    assert dgtl(['fetch', 'tiny-soma']) == 0  # it is here
    assert not server.requests and len(converted) == 1
    assert dgtl(['fetch', 'tiny-soma', '--size', '32', '64']) == 0
    assert made_file('tiny-soma').read_bytes() == b'model (32, 64)' and not server.requests


def test_a_licence_has_to_be_accepted(zoo, server, capsys):
    zoo({}, {'licence': 'CC-BY-NC-4.0', 'accept': True, 'note': 'Ask its owners.'})
    assert main(['tiny-soma']) == 2
    said = capsys.readouterr()
    assert 'CC-BY-NC-4.0. Ask its owners.' in said.out and '--accept-license' in said.err
    assert not server.requests and not weights_folder().exists()
    assert main(['tiny-soma', '--accept-license']) == 0


def test_a_file_that_only_a_person_gets_is_asked_for_before_anything_is_fetched(
        zoo, server, tmp_path, capsys):
    zoo({}, {'url': None, 'page': 'https://drive.example/folder'})
    assert dgtl(['fetch', 'tiny-soma']) == 1
    assert 'Open https://drive.example/folder in a browser' in capsys.readouterr().err
    assert not server.requests
    (tmp_path / 'what.pth').write_bytes(b'mine')
    assert main(['tiny-soma', '--from', str(tmp_path / 'what.pth')]) == 0
    assert read_record('tiny-soma').source == 'a file of the user'
    assert [path for path, _ in server.requests] == ['/base.pth']


def test_without_a_network_both_files_are_given(zoo, server, tmp_path):
    converted = zoo()
    for name in ('base.pth', 'iter_40000.pth'):
        (tmp_path / name).write_bytes(name.encode())
    assert main(['tiny-soma', '--from', str(tmp_path / 'iter_40000.pth'),
                 str(tmp_path / 'base.pth')]) == 0
    assert not server.requests
    assert converted[0][1]['base'].read_bytes() == b'base.pth'
    assert converted[0][1]['tiny-soma'].read_bytes() == b'iter_40000.pth'
    assert (tmp_path / 'base.pth').exists()  # the user's files stay


def test_files_that_cannot_be_told_apart_are_not_guessed(zoo, server, tmp_path):
    zoo()
    for name in ('one', 'two'):
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(ValueError, match='it is not clear which file one, two is; tiny-soma takes '
                                         'base.pth, soma.pth'):
        main(['tiny-soma', '--from', str(tmp_path / 'one'), str(tmp_path / 'two')])
    with pytest.raises(FileNotFoundError, match='there is no file'):
        main(['tiny-soma', '--from', str(tmp_path / 'three')])
    assert not server.requests


def test_a_given_file_is_checked_as_a_download_is(zoo, server, tmp_path):
    zoo({'sha256': hashlib.sha256(server.files['/base.pth']).hexdigest(), 'size': 4000})
    (tmp_path / 'base.pth').write_bytes(b'x' * 4000)
    with pytest.raises(ValueError, match='is not base.pth: its sha256 is'):
        main(['base', '--from', str(tmp_path / 'base.pth')])
    (tmp_path / 'base.pth').write_bytes(b'x')
    with pytest.raises(ValueError, match='has 1 bytes, and base.pth has 4000'):
        main(['base', '--from', str(tmp_path / 'base.pth')])
    assert fetched_file('base') is None
    (tmp_path / 'base.pth').write_bytes(server.files['/base.pth'])
    assert main(['base', '--from', str(tmp_path / 'base.pth')]) == 0


def test_a_hash_is_recorded_on_first_use_and_holds_from_then_on(zoo, server, capsys):
    zoo()
    assert main(['base']) == 0
    fetched_file('base').unlink()
    server.files['/base.pth'] = b'evil' * 1000
    assert dgtl(['fetch', 'base']) == 1
    assert 'is another file than expected' in capsys.readouterr().err
    assert fetched_file('base') is None


def test_zenodo_tells_size_and_md5(zoo, server, capsys):
    listing = {'listing': f'{server.url}/record'}
    zoo(listing)
    server.files['/record'] = json.dumps({'files': [
        {'key': 'base.pth', 'size': 4000, 'checksum': 'md5:' + '0' * 32}]}).encode()
    assert dgtl(['fetch', 'base']) == 1
    assert 'its md5 is' in capsys.readouterr().err
    server.files['/record'] = json.dumps({'files': [
        {'key': 'base.pth', 'size': 4000,
         'checksum': 'md5:' + hashlib.md5(server.files['/base.pth']).hexdigest()}]}).encode()
    assert dgtl(['fetch', 'base']) == 0
    fetched_file('base').unlink()
    (weights_folder() / 'base' / 'record.json').unlink()
    server.files['/record'] = b'{"files": [{"key": "base.pth"}]}'
    assert dgtl(['fetch', 'base']) == 1
    assert 'tells no size and hash of base.pth' in capsys.readouterr().err


def test_a_stopped_download_goes_on(zoo, server, capsys):
    zoo()
    server.cuts['/base.pth'] = [1000, 0, 0, 0, 0]
    assert dgtl(['fetch', 'base']) == 1
    assert 'the same command goes on from there' in capsys.readouterr().err
    server.cuts.clear()
    assert dgtl(['fetch', 'base']) == 0
    assert server.requests[-1] == ('/base.pth', 'bytes=1000-')


def test_a_machine_that_cannot_convert_downloads_nothing(zoo, server, monkeypatch, capsys):
    zoo()
    monkeypatch.setattr(convert, 'find_spec', lambda name: None)
    assert dgtl(['fetch', 'tiny-soma']) == 1
    assert 'pip install "dgtl_ros[export]"' in capsys.readouterr().err
    assert not server.requests
    assert dgtl(['fetch', 'base']) == 0  # nothing to convert


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


def openai_clip(path):
    """A CLIP as OpenAI publishes it, small: a TorchScript archive; return its text tensors."""
    from test_text import clip_shapes
    import torch

    state = {key.removeprefix('backbone.reins.clip_model.'): torch.randn(shape) * 0.05
             for key, shape in clip_shapes(64, 1, 49408, 32).items()}
    whole = torch.nn.Module()
    for key, value in {**state, 'visual.conv1.weight': torch.zeros(1)}.items():
        *parents, name = key.split('.')
        module = whole
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_parameter(name, torch.nn.Parameter(value.half()))
    torch.jit.save(torch.jit.script(whole), path)
    return {key: value.half().float() for key, value in state.items()}


def test_a_clip_gives_the_texts_of_classes(zoo, server, tmp_path, capsys):
    torch = pytest.importorskip('torch')
    open_clip = pytest.importorskip('open_clip')
    from dgtl_core.model.text import encode_clip_text, load_texts

    state = openai_clip(tmp_path / 'x.pt')
    server.files['/RN50.pt'] = (tmp_path / 'x.pt').read_bytes()
    text = {'kind': 'text', 'backbone': 'RN50', 'url': f'{server.url}/RN50.pt',
            'sha256': hashlib.sha256(server.files['/RN50.pt']).hexdigest()}
    zoo(text, {'kind': 'backbone', 'needs': None, 'method': None})
    (tmp_path / 'mine.yaml').write_text(
        'classes: [{id: 0, name: way, color: [0, 0, 0], prompts: [road, street]}]')
    assert main(['base', '--classes', str(tmp_path / 'mine.yaml')]) == 0
    path = weights_folder() / 'base' / 'mine.npz'
    assert f'--set model.text.file={path}' in capsys.readouterr().out
    found = load_texts(path, ['way'])
    assert found.embeddings.shape == (1, 32) and text['sha256'] in found.provenance
    one = encode_clip_text(state, open_clip.tokenize(['a photo of a street.']))[0]
    assert torch.cosine_similarity(one, found.embeddings[0], dim=0) > 0.5
    assert abs(float(found.embeddings.norm()) - 1) < 1e-5
    assert main(['base']) == 0  # it is here
    assert len(load_texts(path.with_name('cityscapes.npz')).classes) == 19
    clip = fetched_file('base')
    clip.write_bytes(clip.read_bytes()[:-1] + b'x')
    with pytest.raises(ValueError, match='is not the published RN50.pt'):
        main(['base'])


def test_classes_are_for_a_clip(zoo):
    zoo()
    with pytest.raises(SystemExit) as ended:
        main(['tiny-soma', '--classes', 'x.yaml'])
    assert ended.value.code == 2


def test_published_files_become_a_model_that_runs(server, tmp_path, monkeypatch):
    """The whole way with small weights: two .pth files, checkpoint, .onnx, Predictor by name."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxscript')
    from test_import_weights import facebook
    from test_lora import soma_file

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name, state in (('base', facebook()), ('soma', {'state_dict': soma_file()})):
        torch.save(state, tmp_path / 'x.pth')
        server.files[f'/{name}.pth'] = (tmp_path / 'x.pth').read_bytes()
    base = Entry(**BASE, url=f'{server.url}/base.pth')
    model = Entry(**MODEL, url=f'{server.url}/soma.pth')
    plan = fetching.Plan(entry=model, parts=(base, model))
    path = fetching.fetch(plan)
    said = onnx_metadata(path)
    assert (said.name, said.method, said.input_size) == ('tiny-soma', 'mask2former', (64, 64))
    assert hashlib.sha256(server.files['/soma.pth']).hexdigest() in said.source
    predict = Predictor.load('tiny-soma')
    labels = predict(np.zeros((48, 80, 3), np.uint8)).labels
    assert labels.shape == (48, 80) and labels.max() < 5
    assert sorted(os.listdir(path.parent)) == [
        'record.json', 'soma.pth', 'tiny-soma.onnx', 'tiny-soma.safetensors']


def test_an_eomt_of_its_authors_becomes_a_model_that_runs(server, tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxscript')
    pytest.importorskip('transformers')
    from test_eomt import as_its_authors_store_it, untrained

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    torch.save(as_its_authors_store_it(untrained().state_dict()), tmp_path / 'x.bin')
    server.files['/pytorch_model.bin'] = (tmp_path / 'x.bin').read_bytes()
    entry = Entry(name='tiny-eomt', kind='model', method='eomt', backbone='dinov2-reg',
                  trained_on='y', licence='MIT', image_size=1024,
                  url=f'{server.url}/pytorch_model.bin')
    path = fetching.fetch(fetching.Plan(entry=entry, parts=(entry,)))
    said = onnx_metadata(path)
    assert (said.name, said.method, said.input_size) == ('tiny-eomt', 'eomt', (96, 96))
    assert Predictor.load('tiny-eomt')(np.zeros((48, 80, 3), np.uint8)).labels.max() < 5
