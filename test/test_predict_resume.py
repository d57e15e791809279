# SPDX-License-Identifier: Apache-2.0
"""``dgtl predict``: where the results may go, and how a run goes on that was stopped."""

import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import cv2
from dgtl_core import progress
from dgtl_core.cli.main import main
from dgtl_core.pictures import write_image
from dgtl_core.predictor import Predictor
from dgtl_core.recorded import journal as journals
from dgtl_core.recorded import run
from dgtl_core.recorded.sheet import Sheet
from dgtl_core.recorded.storage import Storage
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('rosbags')
from bags import write_bag
from predicting import command_to, files, grey, journal, picture, read_bag, refused, write_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def predict(tiny_model, tmp_path):
    return command_to(tiny_model, tmp_path)


def test_results_are_refused_and_replaced_when_told(predict, folder, tmp_path, capsys):
    assert predict(folder) == 0
    for other in ((), ('--save', 'color')):
        assert 'finished: name another folder, or replace them with --force' in refused(
            capsys, predict, folder, *other)
    assert predict(folder / 'a/one.png', '--force') == 0
    assert [line['frame'] for line in journal(tmp_path / 'out') if 'frame' in line] == ['one']


def test_a_folder_of_somebody_else_is_not_touched(predict, folder, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/thesis.tex').touch()
    assert 'not empty' in refused(capsys, predict, folder)
    assert files(tmp_path / 'out') == ['thesis.tex']


@pytest.fixture
def count(monkeypatch):
    """Count what the network sees; stop at ``count.at``, as Ctrl-C does."""
    class Count:
        at, seen = 0, 0
    real = Predictor.timed_many

    def counted(self, images):
        Count.seen += len(images)
        if Count.at and Count.seen >= Count.at:
            raise KeyboardInterrupt
        return real(self, images)
    monkeypatch.setattr(Predictor, 'timed_many', counted)
    return Count


def test_a_stopped_run_goes_on_where_it_was(predict, folder, count, tmp_path, capsys):
    count.at = 3
    assert predict(folder) == 130
    before = [line['frame'] for line in journal(tmp_path / 'out') if 'frame' in line]
    count.at, count.seen = 0, 0
    with open(tmp_path / 'out/predict.jsonl', 'a') as file:
        file.write('{"frame": "b/o')  # killed while it wrote
    assert 'another save' in refused(capsys, predict, folder, '--save', 'color')
    assert predict(folder) == 0
    assert count.seen == 4 - len(before)
    assert 'frames      4' in capsys.readouterr().out
    lines = journal(tmp_path / 'out')
    assert sorted(line['frame'] for line in lines if 'frame' in line) == [
        'a/one', 'a/two', 'b/one', 'b/two']
    assert lines[-1]['summary']['frames_before'] == len(before)


@pytest.mark.parametrize('save', ['sheet', 'sheet,video'])
def test_a_run_that_was_killed_makes_the_same_sheet(predict, tmp_path, save):
    """In whatever state it was: a cell may be there of a frame that is not noted yet."""
    if 'video' in save:
        pytest.importorskip('av')
    for number in range(30):
        write_image(tmp_path / f'many/{number:02d}.png', picture(number))
    assert predict(tmp_path / 'many', '--save', save) == 0
    whole = (tmp_path / 'out/sheet.jpg').read_bytes()
    noted = (tmp_path / 'out/predict.jsonl').read_text().splitlines(keepends=True)
    shutil.rmtree(tmp_path / 'out')
    sheet = Sheet.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sheet, 'finish', lambda self: exec('raise KeyboardInterrupt'))
        assert predict(tmp_path / 'many', '--save', save) == 130
    assert Sheet.finish is sheet and not (tmp_path / 'out/sheet.jpg').exists()
    (tmp_path / 'out/predict.jsonl').write_text(''.join(noted[:27]))
    assert predict(tmp_path / 'many', '--save', save) == 0
    assert (tmp_path / 'out/sheet.jpg').read_bytes() == whole


def test_what_is_one_file_of_a_source_is_counted_from_its_beginning(
        predict, folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip('av')
    monkeypatch.setattr(progress, '_EVERY', 0)
    assert predict(folder, '--save', 'video') == 0
    noted = tmp_path / 'out/predict.jsonl'
    noted.write_text(''.join(noted.read_text().splitlines(keepends=True)[:3]))  # it was killed
    capsys.readouterr()
    assert predict(folder, '--save', 'video') == 0
    said = capsys.readouterr().err
    assert 'going on with' in said and '0 frames are finished' in said
    assert [line[:6] for line in said.splitlines() if ' frames, ' in line] == [
        f'{done} of 4' for done in (1, 2, 3, 4)]


@pytest.mark.parametrize('source', ['.', '../in', None])
def test_a_run_below_its_own_pictures_does_not_label_its_results(
        tiny_model, folder, count, monkeypatch, source, capsys):
    monkeypatch.chdir(folder)
    command = ['predict', source or str(folder), '--model', str(tiny_model), '--out', 'a/out',
               '--save', 'labels,overlay']
    count.at = 3
    assert main(command) == 130 and (folder / 'a/out/predict.jsonl').exists()
    write_image(folder / 'a/out/labels/a/left_over.png', picture(9))
    count.at = 0
    assert main(command) == 0
    told = journal(folder / 'a/out')
    assert sorted(line['frame'] for line in told if 'frame' in line) == [
        'a/one', 'a/two', 'b/one', 'b/two']
    (folder / 'c').mkdir()
    shutil.move(folder / 'a/out', folder / 'c/out')
    capsys.readouterr()
    assert '/c holds no picture' in refused(
        capsys, main, ['predict', 'c', '--out', 'c/out', '--force', '--model', str(tiny_model)])
    assert main(['predict', 'c/out/overlay', '--out', 'd', '--model', str(tiny_model)]) == 0


def test_a_killed_run_leaves_nothing_half_written(folder, tmp_path):
    for number in range(12):
        write_image(folder / f'c/{number:02d}.png', picture(number))
    command = [sys.executable, '-m', 'dgtl_core.cli', 'predict', str(folder), '--out',
               str(tmp_path / 'out'), '--save', 'labels,overlay']
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
            (tmp_path / 'out/predict.jsonl').exists() and len(journal(tmp_path / 'out')) > 2):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = [line['frame'] for line in journal(tmp_path / 'out') if 'frame' in line]
    assert 0 < len(done) < 16
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    frames = [line['frame'] for line in journal(tmp_path / 'out') if 'frame' in line]
    assert len(frames) == len(set(frames)) == 16
    for frame in frames:
        assert grey(tmp_path / f'out/labels/{frame}.png') is not None


@pytest.fixture
def storage():
    fsspec = pytest.importorskip('fsspec')
    files = fsspec.filesystem('memory')
    yield files
    files.rm('/bucket', recursive=True)


def test_results_go_to_a_storage_and_a_stopped_run_goes_on(
        tiny_model, folder, storage, count, capsys):
    command = ['predict', str(folder), '--model', str(tiny_model), '--out', 'memory://bucket/run',
           '--save', 'labels,overlay', '--quiet']
    count.at = 3
    assert main(command) == 130
    noted = storage.cat('/bucket/run/predict.jsonl').decode().splitlines()
    before = {json.loads(line)['frame'] for line in noted if '"frame"' in line}
    count.at, count.seen = 0, 0
    assert main(command) == 0 and count.seen == 4 - len(before)
    assert sorted(storage.find('/bucket/run')) == sorted(
        ['/bucket/run/predict.jsonl'] + [
            f'/bucket/run/{kind}/{name}' for kind, suffix in (('labels', 'png'), (
                'overlay', 'jpg'))
            for name in (f'{of}.{suffix}' for of in ('a/one', 'a/two', 'b/one', 'b/two'))])
    data = np.frombuffer(storage.cat('/bucket/run/labels/a/one.png'), np.uint8)
    np.testing.assert_array_equal(
        cv2.imdecode(data, cv2.IMREAD_UNCHANGED), picture(0)[:, :, 0] // 8)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(command)
    assert 'memory://bucket/run holds the results of a run that is finished' in (
        capsys.readouterr().err)


def test_a_bag_goes_to_a_storage_as_a_folder(tiny_model, tmp_path, storage, capsys):
    source = write_bag(tmp_path / 'drive', {'/image': [picture(n) for n in range(3)]})
    assert main(['predict', str(source), '--model', str(tiny_model), '--save', 'bag', '--json',
                 '--out', 'memory://bucket/bags']) == 0
    assert json.loads(capsys.readouterr().out)['files'] == ['memory://bucket/bags/bag/drive']
    storage.get('/bucket/bags/bag/drive', str(tmp_path / 'back'), recursive=True)
    assert len(read_bag(tmp_path / 'back')['/segmentation']) == 3


def test_a_storage_of_somebody_else_is_not_touched(tiny_model, folder, storage, capsys):
    storage.pipe('/bucket/other/thesis.tex', b'.')
    command = ['predict', str(folder), '--model', str(tiny_model), '--out', 'memory://bucket/other']
    assert 'memory://bucket/other is not empty' in refused(capsys, main, command)
    assert storage.find('/bucket/other') == ['/bucket/other/thesis.tex']


@pytest.fixture
def buckets():
    """A storage with buckets, as S3 has: what is asked to make folders makes a bucket too."""
    fsspec = pytest.importorskip('fsspec')
    from fsspec.implementations.memory import MemoryFileSystem

    class Buckets(MemoryFileSystem):
        protocol, cachable = ('buckets', 's3'), False
        store, pseudo_dirs = {}, ['', 'mine']

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix('buckets://').strip('/')

    fsspec.register_implementation('buckets', Buckets, clobber=True)
    return Buckets


def test_a_bucket_that_is_not_there_is_not_made(tiny_model, folder, buckets, capsys):
    command = ['predict', str(folder), '--model', str(tiny_model), '--quiet', '--out']
    for force in ([], ['--force']):
        assert main([*command, 'buckets://mien/run', *force]) == 1
        assert capsys.readouterr().err == (
            'dgtl predict: buckets://mien/run: there is no bucket mien, or your keys may not see '
            'it; make it, or correct the address\n')
    assert not buckets.store and buckets.pseudo_dirs == ['', 'mine']
    assert main([*command, 'buckets://mine/run']) == 0
    assert len([name for name in buckets.store if name.startswith('mine/run/labels/')]) == 4


@pytest.mark.parametrize('address', ['memory://', 'memory:///', '://x'])
def test_an_address_of_nothing_is_no_place(tiny_model, folder, address, tmp_path, monkeypatch,
                                           capsys):
    pytest.importorskip('fsspec')
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    command = ['predict', str(folder), '--model', str(tiny_model), '--out', address]
    assert 'expected an address such as s3://bucket/run' in refused(capsys, main, command)
    assert files(tmp_path) == before


def test_copies_of_a_long_journal_become_rare(storage, monkeypatch, tmp_path):
    """They take a small share of the time, however long the journal and slow the storage."""
    now = [0.0]
    monkeypatch.setattr(journals.time, 'monotonic', lambda: now[0])
    out, copies = Storage('memory://bucket/long'), []
    write = out.write
    monkeypatch.setattr(out, 'write', lambda name, content: (
        copies.append(now[0]), now.__setitem__(0, now[0] + 5), write(name, content)))
    noted = journals.Journal(out, {})
    for frame in range(400):
        now[0] += 1
        noted.add({'frame': str(frame)})
    assert 2 <= len(copies) <= 6
    noted.close()
    assert storage.cat('/bucket/long/predict.jsonl').count(b'frame') == 400


def test_a_storage_that_breaks_ends_in_one_line(tiny_model, folder, storage, monkeypatch, capsys):
    def denied(*_, **__):
        raise RuntimeError('access denied')
    monkeypatch.setattr(type(storage), 'put_file', denied)
    assert main(['predict', str(folder), '--model', str(tiny_model), '--out',
                 'memory://bucket/denied', '--quiet']) == 1
    assert capsys.readouterr().err == (
        'dgtl predict: memory://bucket/denied: RuntimeError: access denied\n')


def test_a_storage_that_is_away_is_not_tried_for_every_file(
        tiny_model, tmp_path, storage, monkeypatch, capsys):
    tried = []

    def away(*_, **__):
        tried.append(time.sleep(0.3))
        raise ConnectionError('no route')
    monkeypatch.setattr(type(storage), 'put_file', away)
    monkeypatch.setattr(run, '_WRITERS', 1)
    for number in range(12):
        write_image(tmp_path / f'many/{number:02d}.png', picture(number))
    assert main(['predict', str(tmp_path / 'many'), '--model', str(tiny_model), '--out',
                 'memory://bucket/away', '--quiet']) == 1
    assert 'memory://bucket/away: ConnectionError: no route' in capsys.readouterr().err
    assert len(tried) <= 2  # while that of the first came to light, the second may have begun


@pytest.mark.parametrize('content', [
    b'{"text": "my own"}\n', b'5\n', b'[1]\n', b'\xff\xfe\n', b'{"settings": 3}\n', b'my own'])
def test_a_file_that_is_not_of_a_run_is_left_alone(predict, folder, tmp_path, capsys, content):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/predict.jsonl').write_bytes(content)
    assert 'is not of a run' in refused(capsys, predict, folder)
    assert (tmp_path / 'out/predict.jsonl').read_bytes() == content
    assert predict(folder, '--force') == 0


@pytest.mark.parametrize('cut', [0, 5, 40])
def test_a_run_that_was_killed_in_the_first_line_goes_on(predict, folder, tmp_path, cut):
    assert predict(folder) == 0
    line = (tmp_path / 'out/predict.jsonl').read_bytes().splitlines()[0]
    (tmp_path / 'out/predict.jsonl').write_bytes(line[:cut])
    assert predict(folder) == 0
    assert 'summary' in journal(tmp_path / 'out')[-1]


def test_two_runs_do_not_share_a_folder(predict, folder, tmp_path, capsys):
    from dgtl_core.recorded.journal import Journal

    other = Journal(tmp_path / 'out', {})
    assert 'another run is writing' in refused(capsys, predict, folder)
    other.close()
