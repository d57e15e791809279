# SPDX-License-Identifier: Apache-2.0
import errno
from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys

from dgtl_core.files import destination, placing, placing_all, put, workshop, write_atomically
import pytest


def test_a_file_is_written_as_a_whole_or_not(tmp_path):
    path = tmp_path / 'cache'
    write_atomically(path, b'one')
    with pytest.raises(TypeError):
        write_atomically(path, None)
    assert path.read_bytes() == b'one' and list(tmp_path.iterdir()) == [path]
    write_atomically(path, memoryview(b'two'))
    assert path.read_bytes() == b'two'


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / 'plot.png'
    with placing(path) as temporary:
        assert temporary.suffix == '.png'  # many writers go by it
        temporary.write_text('one')
    umask = os.umask(0o022)
    try:
        with placing(path) as temporary:
            temporary.unlink()
            temporary.touch(0o600)  # as safetensors does
            temporary.write_text('one')
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(OSError, match='disk'), placing(path) as temporary:
        temporary.write_text('tw')
        raise OSError('the disk is full')
    assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    destination(tmp_path / 'new' / 'model.onnx', '.onnx')
    assert (tmp_path / 'new').is_dir() and not list((tmp_path / 'new').iterdir())
    (tmp_path / 'folder.onnx').mkdir()
    for name in ('model', 'model.pth', 'folder.onnx'):
        with pytest.raises(ValueError, match='must be a file that ends in .onnx'):
            destination(tmp_path / name, '.onnx')
    (tmp_path / 'file').touch()
    with pytest.raises(OSError):
        destination(tmp_path / 'file' / 'model.onnx', '.onnx')


@pytest.mark.parametrize('number, before, code', [
    (signal.SIGTERM, signal.SIG_DFL, 143), (signal.SIGHUP, signal.SIG_DFL, 129),
    (signal.SIGHUP, signal.SIG_IGN, 0)])  # under nohup
def test_a_signal_lets_a_program_tidy_up(tmp_path, number, before, code):
    script = """
import os, sys
from pathlib import Path
from dgtl_core.files import placing, tidy_on_signals
tidy_on_signals()
with placing(Path(sys.argv[1])) as temporary:
    temporary.touch()
    os.kill(os.getpid(), int(sys.argv[2]))
"""
    path = tmp_path / 'model'
    done = subprocess.run(
        [sys.executable, '-c', script, str(path), str(int(number))], timeout=60,
        cwd=Path(__file__).resolve().parents[1],
        preexec_fn=partial(signal.signal, number, before), stderr=subprocess.PIPE, text=True)
    assert done.stderr == (f'\nstopped by {number.name}\n' if code else '')
    assert done.returncode == code and [p.name for p in tmp_path.iterdir()] == ['model'][code:]


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from dgtl_core.files import placing
with placing(Path(sys.argv[1])) as temporary:
    temporary.write_text('half')
    (temporary.parent / '.tmpA1b2').write_text('what a library writes beside it')
    if len(sys.argv) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    print('ready', flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, '-c', script, str(tmp_path / 'model.safetensors')]
    root = Path(__file__).resolve().parents[1]
    subprocess.run(command, cwd=root, check=False, timeout=60)
    killed, = tmp_path.iterdir()
    with subprocess.Popen([*command, 'live'], cwd=root, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'ready\n'
        live, = set(tmp_path.iterdir()) - {killed}
        (tmp_path / '.dgtl-mine.txt').touch()
        write_atomically(tmp_path / 'a', b'a')
        assert not killed.exists() and live.exists()
        other.communicate('\n', timeout=60)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        '.dgtl-mine.txt', 'a', 'model.safetensors']


def test_files_that_belong_together_are_all_written_before_one_has_its_name(tmp_path):
    paths = [tmp_path / 'm.engine', tmp_path / 'm.engine.json']
    with pytest.raises(OSError, match='full'), placing_all(paths) as [first, second]:
        first.write_text('engine')
        second.write_text('{')
        raise OSError('the disk is full')
    assert not list(tmp_path.iterdir())
    with placing_all(paths) as [first, second]:
        first.write_text('engine')
        second.write_text('{}')
        assert not paths[0].exists()
    assert [path.read_text() for path in paths] == ['engine', '{}']
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_put_in_place_as_a_whole(tmp_path):
    place = tmp_path / 'cache'
    with pytest.raises(OSError, match='full'), workshop(tmp_path) as temporary:
        (temporary / 'part').mkdir()
        raise OSError('the disk is full')
    assert not list(tmp_path.iterdir())
    with workshop(tmp_path) as temporary:
        (temporary / 'part').mkdir()
        (temporary / 'part' / 'a').write_text('a')
        put({temporary / 'part': place})
    assert [*tmp_path.rglob('*')] == [place, place / 'a']


def test_a_folder_that_there_is_not_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/none'"):
        write_atomically(tmp_path / 'none' / 'a', b'')


@pytest.mark.parametrize('content', [b'two', 'two'])
def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path, monkeypatch, content):
    path = tmp_path / 'numbers.json'
    path.write_text('one')
    monkeypatch.setattr('pathlib.Path.write_bytes', full_disk)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, content)
    assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


def full_disk(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_threads_write_at_once(tmp_path):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_atomically(tmp_path / f'{i % 3}', bytes(i)), range(60)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['0', '1', '2']
