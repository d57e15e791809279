# SPDX-License-Identifier: Apache-2.0
"""``dgtl predict``: what it makes of pictures, and what it refuses."""

import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

from dgtl_core.classes import CITYSCAPES
from dgtl_core.cli.main import main
from dgtl_core.pictures import read_image, write_image
from dgtl_core.predictor import Predictor
from dgtl_core.processing import RESIZE_MODES
from dgtl_core.recorded import run
from dgtl_core.recorded.journal import Journal
from dgtl_core.visualize import colorize, overlay
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('rosbags')
from predicting import command_to, files, grey, journal, picture, refused, SIZE, write_folder
from tiny_onnx import write_tiny_onnx

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def predict(tiny_model, tmp_path):
    return command_to(tiny_model, tmp_path)


def test_every_kind_of_a_picture(predict, folder, tmp_path, capsys):
    kinds = ['labels', 'color', 'overlay', 'confidence', 'confidence16']
    assert predict(folder, '--save', ','.join(kinds), '--alpha', 0.25) == 0
    out = tmp_path / 'out'
    suffix = {'overlay': '.jpg'}
    names = ('a/one', 'a/two', 'b/one', 'b/two')
    assert files(out) == sorted(
        ['predict.jsonl'] + [f'{k}/{n}{suffix.get(k, ".png")}' for k in kinds for n in names])
    image = picture(0)
    labels, confidence = image[:, :, 0] // 8, image[:, :, 1]
    np.testing.assert_array_equal(grey(out / 'labels/a/one.png'), labels)
    np.testing.assert_array_equal(grey(out / 'confidence/a/one.png'), confidence)
    deep = grey(out / 'confidence16/a/one.png')
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep, confidence.astype(np.uint16) * 257)
    np.testing.assert_array_equal(
        read_image(out / 'color/a/one.png'), colorize(labels, CITYSCAPES))
    write_image(tmp_path / 'shown.jpg', overlay(image, labels, CITYSCAPES, 0.25))
    assert (out / 'overlay/a/one.jpg').read_bytes() == (tmp_path / 'shown.jpg').read_bytes()
    told = capsys.readouterr().out
    assert 'frames      4; broken 0' in told and 'frames/s' in told and 'road' in told


def test_the_summary_counts_pixels(predict, folder, capsys):
    assert predict(folder, '--json', '--limit', 2) == 0
    told = json.loads(capsys.readouterr().out)
    labels = np.stack([picture(n)[:, :, 0] // 8 for n in (0, 1)])
    assert told['frames'] == 2 and told['broken'] == 0 and told['model'] == 'tiny'
    assert told['shares']['car'] == pytest.approx((labels == 13).mean(), abs=1e-5)
    assert set(told['ms']) == {
        'read', 'preprocess', 'infer', 'postprocess', 'verdict', 'write'}


def test_the_next_frame_is_resized_while_the_network_is_at_work(predict, folder, monkeypatch):
    calls, second = [], threading.Event()
    prepare, timed_many = Predictor.prepare, Predictor.timed_many

    def counted(self, image):
        calls.append(image)
        if len(calls) == 2:
            second.set()
        return prepare(self, image)

    def late(self, images):
        assert second.wait(10), 'nothing was prepared ahead'
        return timed_many(self, images)

    monkeypatch.setattr(Predictor, 'prepare', counted)
    monkeypatch.setattr(Predictor, 'timed_many', late)
    assert predict(folder) == 0 and len(calls) == 4


def test_two_calls_of_the_network_go_on_at_once_and_keep_the_order(
        predict, tmp_path, monkeypatch):
    for number in range(9):
        write_image(tmp_path / f'drive/{number}.png', picture(number))
    both, timed_many = threading.Barrier(2), Predictor.timed_many
    lead = iter(range(8))  # all but the last one: nine are odd

    def together(self, images):
        if next(lead, None) is not None:
            assert both.wait(10) in (0, 1)
        return timed_many(self, images)

    monkeypatch.setattr('dgtl_core.cli.predict.CALLS', 2)
    monkeypatch.setattr(Predictor, 'timed_many', together)
    assert predict(tmp_path / 'drive') == 0
    told = [line['frame'] for line in journal(tmp_path / 'out') if 'frame' in line]
    assert told == [str(number) for number in range(9)]
    for number in range(9):
        np.testing.assert_array_equal(
            grey(tmp_path / f'out/labels/{number}.png'), picture(number)[:, :, 0] // 8)


@pytest.mark.parametrize('batch', [1, 4])
def test_of_large_pictures_fewer_are_held(predict, tmp_path, monkeypatch, batch):
    for number in range(30):
        write_image(tmp_path / f'many/{number:02d}.png', picture(number))
    held = most = 0
    real_prepare, real_add = Predictor.prepare, Journal.add

    def prepare(self, image):
        nonlocal held, most
        held += 1
        most = max(most, held)
        return real_prepare(self, image)

    def add(self, entry):
        nonlocal held
        held -= 'frame' in entry
        time.sleep(0.01)  # a slow consumer: everything before it fills up
        real_add(self, entry)
    monkeypatch.setattr(Predictor, 'prepare', prepare)
    monkeypatch.setattr(Journal, 'add', add)
    assert predict(tmp_path / 'many', '--batch', batch) == 0
    usual, held, most = most, 0, 0
    monkeypatch.setattr(run, '_LARGE', picture(0).nbytes // 20)
    assert predict(tmp_path / 'many', '--batch', batch, '--force') == 0
    assert held == 0 and most <= 6 < usual
    assert len(journal(tmp_path / 'out')) == 30 + 3


@pytest.mark.parametrize('count, options, calls', [
    (1, (), 1), (9, (), 3), (2, (), 2), (9, ('--batch', 5), 2), (9, ('--stride', 9), 1)])
def test_no_more_calls_at_once_than_there_is_work_for(
        predict, tmp_path, monkeypatch, count, options, calls):
    for number in range(count):
        write_image(tmp_path / f'drive/{number}.png', picture(number))
    load, asked = Predictor.load, []

    def loaded(*args, **kwargs):
        asked.append(kwargs['calls'])
        return load(*args, **kwargs)

    monkeypatch.setattr('dgtl_core.cli.predict.CALLS', 3)
    monkeypatch.setattr('dgtl_core.cli.predict.Predictor.load', loaded)
    assert predict(tmp_path / 'drive', *options) == 0
    assert asked == [calls]


@pytest.mark.parametrize('rules', [(), ('--threshold', '0.9', '--classes', 'sky')])
def test_each_frame_has_a_domain_verdict(predict, tiny_model, tmp_path, capsys, rules):
    from dgtl_core.domain import DomainLimits, DomainMonitor, WINDOW

    dark = np.zeros((*SIZE, 3), np.uint8)
    images = [picture(n) for n in range(8)] + [dark + n % 2 for n in range(24)]
    for number, image in enumerate(images):
        write_image(tmp_path / f'drive/{number:02d}.png', image)
    assert predict(tmp_path / 'drive', *rules) == 0
    model, monitor = Predictor.load(tiny_model), DomainMonitor(19)
    expected = []
    for image in images:
        monitor.look(image, model(image))
        expected.append(monitor.report(DomainLimits(window=WINDOW)).state)
    model.close()
    found = [line['domain'] for line in journal(tmp_path / 'out') if 'frame' in line]
    assert [verdict['state'] for verdict in found] == expected and 'unusable' in expected
    told = capsys.readouterr().out
    share = expected.count('unusable') / len(expected)
    assert f'{share:.1%} unusable (' in told and 'the picture is dark' in told
    domain = journal(tmp_path / 'out')[-1]['summary']['domain']
    assert domain['unusable'] == pytest.approx(share, abs=1e-3)
    assert domain['causes']['the picture is dark'] == sum(
        any('dark' in cause for cause in verdict['causes']) for verdict in found)


def test_the_embedded_model_is_the_default(folder, tmp_path):
    assert main(['predict', str(folder / 'a/one.png'), '--out', str(tmp_path / 'out')]) == 0
    model = Predictor.load()
    np.testing.assert_array_equal(grey(tmp_path / 'out/labels/one.png'), model(picture(0)).labels)
    model.close()


def test_a_broken_picture_is_named_counted_and_passed_over(predict, folder, tmp_path, capsys):
    (folder / 'a/two.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
    assert predict(folder) == 1
    told = capsys.readouterr()
    assert 'a/two left out' in told.err and '1 of 4' in told.err
    assert 'frames      3; broken 1' in told.out
    assert len(files(tmp_path / 'out/labels')) == 3


def test_the_size_that_the_model_has_is_accepted(predict, folder):
    assert predict(folder / 'a/one.png', '--size', *SIZE) == 0


@pytest.mark.parametrize('arguments, said', [
    (['--save', 'label'], 'knows labels, color'),
    (['--alpha', '2'], 'must be a number in 0..1'),
    (['--threshold', 'cra=0.5'], 'did you mean car'),
    (['--classes', 'raod'], 'did you mean road'),
    (['--size', '64', '64'], 'export it at another size'),
    (['--topic', '/image'], 'there is no bag'),
    (['--save', 'bag'], 'none of the sources is one'),
    (['--out', 'nowhere://x'], 'cannot write to nowhere://x'),
    (['--out', 'memory://x', '--save', 'sheet'], 'leave out "sheet"'),
    (['--stride', '0'], 'must be a whole number of at least 1'),
    (['nowhere.png'], 'there is no'),
])
def test_wrong_use_is_said_before_anything_is_written(
        predict, folder, tmp_path, capsys, arguments, said):
    assert said in refused(capsys, predict, folder, *arguments)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('sources, out, said', [
    ([''], 'out', 'a source without a name'), (['streetworld', ' '], 'out', 'without a name'),
    (['streetworld'], '', 'must name a folder, got nothing'),
    (['streetworld'], 'file', 'file is a file: results go to a folder')])
def test_what_a_script_leaves_empty_is_not_this_folder(
        tiny_model, tmp_path, monkeypatch, capsys, sources, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('mine')
    write_image(tmp_path / 'here.png', picture(0))
    assert said in refused(capsys, main, ['predict', *sources, '--out', out, '--model',
                                          str(tiny_model), '--limit', '1'])
    assert files(tmp_path) == ['file', 'here.png']
    assert (tmp_path / 'file').read_text() == 'mine'


def test_the_name_of_weights_that_are_not_here_says_how_to_get_them(folder, tmp_path, capsys):
    assert main(['predict', str(folder), '--model', 'rein-gtav-l', '--out',
                 str(tmp_path / 'out')]) == 1
    assert 'dgtl fetch rein-gtav-l' in capsys.readouterr().err


def test_groups_thresholds_rotation_and_mask_equal_what_is_done_by_hand(
        predict, folder, tmp_path):
    (tmp_path / 'groups.yaml').write_text('flat: [road, sidewalk]\nthings: [car, truck, bus]\n')
    mask = np.zeros(SIZE, np.uint8)
    mask[20:] = 255
    write_image(tmp_path / 'ego.png', mask)
    assert predict(folder / 'a/one.png', '--group', tmp_path / 'groups.yaml', '--threshold',
                   '0.2,things=0.4', '--ego-mask', tmp_path / 'ego.png', '--rotation', 180,
                   '--save', 'labels,confidence') == 0
    image = picture(0)
    labels, confidence = image[:, :, 0] // 8, image[:, :, 1].copy()
    expected = np.full(SIZE, 255, np.uint8)
    expected[(labels <= 1) & (confidence >= 51)] = 0
    expected[(labels >= 13) & (labels <= 15) & (confidence >= 102)] = 1
    expected[20:] = 255
    confidence[20:] = 0
    np.testing.assert_array_equal(grey(tmp_path / 'out/labels/one.png'), expected)
    np.testing.assert_array_equal(grey(tmp_path / 'out/confidence/one.png'), confidence)


def test_classes_and_palette(predict, folder, tmp_path):
    (tmp_path / 'palette.yaml').write_text('car: [1, 2, 3]\n')
    assert predict(folder / 'a/one.png', '--classes', 'car, road', '--palette',
                   tmp_path / 'palette.yaml', '--save', 'labels,color') == 0
    labels = picture(0)[:, :, 0] // 8
    np.testing.assert_array_equal(
        grey(tmp_path / 'out/labels/one.png'), np.where(np.isin(labels, (0, 13)), labels, 255))
    assert (read_image(tmp_path / 'out/color/one.png')[labels == 13] == (1, 2, 3)).all()


@pytest.mark.parametrize('mode', RESIZE_MODES)
def test_pictures_are_brought_to_the_network_as_asked(predict, tiny_model, tmp_path, mode):
    seen = picture(3, (48, 64))  # the network's is 32 x 64
    write_image(tmp_path / 'tall.png', seen)
    assert predict(tmp_path / 'tall.png', '--resize-mode', mode) == 0
    labels = grey(tmp_path / 'out/labels/tall.png')
    np.testing.assert_array_equal(
        labels, Predictor.load(tiny_model, resize_mode=mode)(seen).labels)
    assert (labels == 255).any() == (mode == 'crop')


def test_batches_change_nothing(folder, tmp_path):
    model = write_tiny_onnx(tmp_path / 'many.onnx', SIZE, batch='n')
    for batch in (1, 3):
        assert main(['predict', str(folder), '--model', str(model), '--batch', str(batch),
                     '--out', str(tmp_path / str(batch)), '--quiet']) == 0
    for name in files(tmp_path / '1/labels'):
        np.testing.assert_array_equal(
            grey(tmp_path / '1/labels' / name), grey(tmp_path / '3/labels' / name))


def test_quiet_says_nothing_and_a_pipe_gets_lines(predict, folder, capsys, monkeypatch):
    assert predict(folder, '--quiet') == 0
    told = capsys.readouterr()
    assert told.out == '' and told.err == ''
    monkeypatch.setattr('dgtl_core.progress._EVERY', 0.0)
    assert predict(folder, '--force') == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith('4 of 4 frames, ') and lines[-1].endswith('0 s left')


def test_a_terminal_gets_a_bar(folder, tiny_model, tmp_path):
    pty = pytest.importorskip('pty')
    reader, writer = pty.openpty()
    done = subprocess.run(
        [sys.executable, '-m', 'dgtl_core.cli', 'predict', str(folder), '--model', str(tiny_model),
         '--out', str(tmp_path / 'out')], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer,
        check=False)
    told = os.read(reader, 10_000).decode()
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0 and ' 0/4 [' in told and 'frame/s' in told
