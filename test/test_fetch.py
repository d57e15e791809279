# SPDX-License-Identifier: Apache-2.0
"""``dgtl fetch``: from a name to a file that is checked, kept and used."""

import hashlib
import json

from dgtl_core.cli.fetch import main
from dgtl_core.cli.main import main as dgtl
from dgtl_core.predictor import find_model
from dgtl_core.zoo import convert
from dgtl_core.zoo.cache import fetched_file, made_file, read_record, weights_folder
import pytest
from small_zoo import offering


@pytest.fixture
def zoo(server, tmp_path, monkeypatch):
    yield from offering(server, tmp_path, monkeypatch)


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


def test_a_wrong_file_of_the_user_does_not_replace_the_good_one(
        zoo, server, tmp_path, monkeypatch, capsys):
    zoo()
    assert main(['tiny-soma']) == 0
    record = read_record('tiny-soma')

    def refuse(entry, files, out, source):
        assert files['tiny-soma'] == tmp_path / 'wrong.pth' and 'a file of the user' in source
        raise ValueError('it is another network')
    monkeypatch.setattr(convert, 'to_checkpoint', refuse)
    (tmp_path / 'wrong.pth').write_bytes(b'wrong')
    assert dgtl(['fetch', 'tiny-soma', '--from', str(tmp_path / 'wrong.pth')]) == 1
    assert 'dgtl fetch: it is another network\n' in capsys.readouterr().err
    assert read_record('tiny-soma') == record
    assert fetched_file('tiny-soma').read_bytes() == server.files['/soma.pth']
    assert made_file('tiny-soma').is_file()


def test_a_fetched_file_that_is_none_says_how_to_fetch_it_again(zoo, monkeypatch, capsys):
    zoo()

    def refuse(*_):
        raise ValueError('it holds no weights')
    monkeypatch.setattr(convert, 'to_checkpoint', refuse)
    assert dgtl(['fetch', 'tiny-soma']) == 1
    folder = weights_folder()
    assert (f'it holds no weights. If it is the wrong file, remove {folder / "base"} or '
            f'{folder / "tiny-soma"} and fetch it again') in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(zoo, server, tmp_path, monkeypatch, capsys):
    zoo()
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert dgtl(['fetch', 'base']) == 1
    assert 'cannot be made (Not a directory); set XDG_CACHE_HOME to a' in capsys.readouterr().err
    assert not server.requests


@pytest.mark.parametrize('words, said', [
    (['tiny-soma', '--size', '100000', '128'], "must be in 1..4096 pixels, got '100000'"),
    (['tiny-soma', '--size', '0', '128'], "must be in 1..4096 pixels, got '0'"),
    (['base', '--size', '64', '64'], '--size is for models, and base is a backbone')])
def test_wrong_sizes_are_said_before_anything_is_fetched(zoo, server, capsys, words, said):
    zoo()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err and not server.requests


def test_classes_that_cannot_be_read_are_said_before_anything_is_fetched(zoo, server, capsys):
    zoo({'kind': 'text', 'sha256': hashlib.sha256(server.files['/base.pth']).hexdigest()},
        {'needs': None})
    assert dgtl(['fetch', 'base', '--classes', 'nowhere.yaml']) == 1
    assert 'nowhere.yaml' in capsys.readouterr().err and not server.requests


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
