# SPDX-License-Identifier: Apache-2.0
"""The demonstration: what it records, and the whole of it as a process."""

from html.parser import HTMLParser
import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.engine.child import tied
from dgtl_core.pictures import read_image
from dgtl_ros.show.demo import main
from dgtl_ros.show.recorder import Recorder
from dgtl_ros.show.results import write_results
import numpy as np
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
SIZE = (24, 32)


def picture(value=100):
    return np.full((*SIZE, 3), value, np.uint8)


def labels(value=0):
    return np.full(SIZE, value, np.uint8)


def played(conditions=('clear', 'fog'), frames=10, keep=lambda i: True):
    """Play pictures at 10 Hz; labels come 50 ms later for the ones that ``keep`` names."""
    recorder = Recorder(spacing=0.2)
    recorder.classes = CITYSCAPES
    for i in range(frames * len(conditions)):
        condition = conditions[i // frames]
        recorder.add_input(i + 1, picture(i), condition, i / 10)
        recorder.add_truth(i + 1, labels(3))
        if keep(i):
            recorder.add_output(i + 1, labels(3 if condition == 'clear' else 4), 50.0 + i,
                                i / 10 + 0.05)
    return recorder


def test_rates_latencies_and_conditions():
    report = played().report()
    assert report['inputs'] == report['outputs'] == 20 and report['dropped'] == 0
    assert report['input_rate_hz'] == report['output_rate_hz'] == pytest.approx(10)
    assert report['latency_ms'] == {'p50': 59.5, 'p95': 68.05, 'max': 69.0}
    clear, fog = report['conditions']['clear'], report['conditions']['fog']
    assert list(report['conditions']) == ['clear', 'fog']
    assert (clear['inputs'], clear['outputs'], clear['latency_ms_p50']) == (10, 10, 54.5)
    assert (clear['mean_iou'], fog['mean_iou']) == (1.0, 0.0)


def test_a_picture_is_dropped_when_a_newer_one_has_labels():
    recorder = played(keep=lambda i: i % 2 == 0)
    assert recorder.dropped() == 9  # the last one may still come
    assert recorder.report()['conditions']['clear']['outputs'] == 5


def test_labels_whose_picture_was_not_seen_count_as_output_alone():
    recorder = Recorder(1.0)
    recorder.add_output(5, labels(), 20.0, 0.1)
    assert recorder.report()['outputs'] == 1 and recorder.report()['conditions'] == {}


def test_samples_are_spaced_and_few():
    recorder = played(frames=20)
    for condition in recorder.conditions.values():
        values = [int(image[0, 0, 0]) for image, _ in condition.samples]
        assert len(values) == 4 and np.diff(values).min() >= 2


def test_memory_does_not_grow_with_pictures_that_get_no_labels():
    recorder = Recorder(1.0)
    for i in range(500):
        recorder.add_input(i, picture(), '', i / 10)
        recorder.add_truth(i, labels())
    assert len(recorder._waiting) < 100 and len(recorder._truth) < 100


def test_truth_of_other_classes_is_not_compared():
    recorder = Recorder(1.0)
    recorder.classes = type(CITYSCAPES)('few', CITYSCAPES.entries[:4])
    recorder.add_input(1, picture(), '', 0)
    recorder.add_truth(1, labels(9))
    recorder.add_output(1, labels(2), 10.0, 0.1)
    assert recorder.report()['conditions']['input']['mean_iou'] is None


def test_live_line():
    line = played(frames=30).line(5.96)
    assert 'fog' in line and 'in 10.0 Hz' in line and 'dropped 0' in line
    assert 'nan' in Recorder(1.0).line(1.0), 'nothing seen yet is no reason to stop'


def test_files(tmp_path):
    files = write_results(played(), tmp_path / 'deep' / 'out')
    names = {f.name for f in files}
    assert {'contact_sheet.jpg', 'report.json', 'index.html', 'clear_0.jpg', 'fog_3.jpg',
            'fog.mp4'} <= names
    assert names == {p.name for p in (tmp_path / 'deep' / 'out').iterdir()}
    assert read_image(tmp_path / 'deep' / 'out' / 'clear_0.jpg').shape == (*SIZE, 3)
    sheet = read_image(tmp_path / 'deep' / 'out' / 'contact_sheet.jpg')
    assert sheet.shape[1] == 2 * 512 and sheet.shape[0] > 2 * 384
    assert json.loads((tmp_path / 'deep' / 'out' / 'report.json').read_text())['outputs'] == 20


def test_the_line_and_the_report_say_what_limits_the_rate():
    assert 'limit: the camera |' in played(frames=30).line(5.96)
    slow = played(frames=30, keep=lambda i: i % 2)
    assert 'limit: the node |' in slow.line(5.96) and slow.report()['limit'] == 'the node'
    slow.diagnostics['inference'] = {'latency_ms_p50': '171.4'}
    assert 'limit: the node, 171 ms a picture |' in slow.line(5.96)


def test_clips_are_short_and_small():
    recorder = Recorder(1.0)
    for i in range(100):
        recorder.add_input(i, np.zeros((300, 1000, 3), np.uint8), '', i / 10)
        recorder.add_output(i, np.zeros((300, 1000), np.uint8), 1.0, i / 10)
    clip = recorder.conditions['input'].clip
    assert len(clip) < 60 and clip[0][0].shape == (154, 512, 3) and clip[0][1].shape == (154, 512)


class Links(HTMLParser):
    """Every address in a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ('src', 'href', 'data')]


def test_the_page_needs_no_other_file(tmp_path):
    write_results(played(), tmp_path)
    page = (tmp_path / 'index.html').read_text()
    links = Links(page).found
    assert sum(link.startswith('data:video/mp4;base64,') for link in links) == 2
    assert all(link.startswith('data:') for link in links) and 'url(' not in page
    assert page.count('<polyline') == 3 and 'mIoU' in page and 'make demo INPUT=' in page
    for name in CITYSCAPES.names:
        assert f'>{name}</li>' in page.replace('</i>', '>')


def test_the_page_shows_names_as_they_are_and_stands_without_videos(tmp_path, monkeypatch):
    def no_encoder(*_):
        raise ImportError('no encoder')

    monkeypatch.setattr('dgtl_ros.show.results.WebVideo', no_encoder)
    recorder = played(('a<b>$c',))
    recorder.diagnostics['model'] = {'name': '<script>', 'message': '$one & two'}
    write_results(recorder, tmp_path)
    page = (tmp_path / 'index.html').read_text()
    assert 'a&lt;b&gt;$c' in page and '$one &amp; two' in page and '<script>' not in page
    assert '<video' not in page and page.count('data:image/jpeg;base64,') == 2
    write_results(Recorder(1.0), tmp_path / 'nothing')


@pytest.mark.parametrize('arguments', [['--duration', '0'], ['--duration', 'x'], ['--fast']])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_an_output_that_is_no_folder_is_refused_at_once(tmp_path, capsys):
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    (tmp_path / 'file').touch()
    for out in ('file', 'file/deeper'):
        with pytest.raises(SystemExit) as left:
            main(['--out', str(tmp_path / out)])
        assert left.value.code == 2 and 'no folder' in capsys.readouterr().err


def test_without_rclpy_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert main([]) == 2 and 'pip install' in capsys.readouterr().err


# --- as a process --------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Start the demonstration with a tiny model on a folder of pictures."""
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    pytest.importorskip('onnx')
    from tiny_onnx import write_tiny_onnx
    (tmp_path / 'in').mkdir()
    for i in range(5):
        image = np.zeros((90, 160, 3), np.uint8)
        image[:, :, 2] = 20 * i  # red
        cv2.imwrite(str(tmp_path / 'in' / f'{i}.png'), image)
    model = write_tiny_onnx(tmp_path / 'tiny.onnx')
    running = []

    def start(*arguments):
        environment = {**os.environ, 'ROS_LOG_DIR': str(tmp_path / 'log')}
        running.append(subprocess.Popen(
            [*tied(), sys.executable, '-m', 'dgtl_ros.show.demo', '--model', model,
             '--out', tmp_path / 'out', *arguments], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.mark.ros
def test_the_users_own_pictures(start, tmp_path):
    process = start('--input', tmp_path / 'in', '--duration', '6')
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 0, text
    assert 'Hz | out' in text and 'latency p50' in text and 'Traceback' not in text
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['outputs'] >= 3 and report['conditions']['input']['outputs'] >= 3
    assert 0 < report['latency_ms']['p50'] <= report['latency_ms']['p95']
    assert report['node']['model']['name'] == 'tiny'
    assert (tmp_path / 'out' / 'contact_sheet.jpg').is_file()
    samples = sorted((tmp_path / 'out').glob('input_*.jpg'))
    assert len(samples) >= 2
    assert cv2.imread(str(samples[0])).shape == (90, 160, 3), 'as large as they are'
    assert (tmp_path / 'out' / 'index.html').is_file() and 'index.html in a browser' in text


def until_it_runs(process):
    """Wait for the first line of figures; return what was said until then."""
    seen = ''
    while 'Hz | out' not in seen:
        line = process.stdout.readline()
        assert line, f'ended too early:\n{seen}'
        seen += line
    return seen


@pytest.mark.ros
def test_ctrl_c_still_writes_the_report(start, tmp_path):
    process = start('--input', tmp_path / 'in', '--duration', '600')
    seen = until_it_runs(process)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and 'Traceback' not in text, seen + text
    assert json.loads((tmp_path / 'out' / 'report.json').read_text())['outputs'] > 0


@pytest.mark.ros
@pytest.mark.parametrize('arguments, message', [
    (['--model', 'missing.onnx'], "no model file at 'missing.onnx'"),
    (['--input', 'missing.mp4'], "there is no file or folder 'missing.mp4'"),
])
def test_what_cannot_start_says_why(start, tmp_path, arguments, message):
    process = start(*arguments)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and message in text and 'Traceback' not in text, text
    assert 'ended with exit code' in text and not (tmp_path / 'out').exists()


@pytest.mark.ros
def test_a_node_that_dies_is_no_success(start, tmp_path):
    process = start('--input', tmp_path / 'in', '--duration', '600')
    seen = until_it_runs(process)
    for child in psutil.Process(process.pid).children(recursive=True):
        if 'dgtl_ros.segment_node' in child.cmdline():
            child.kill()
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and 'segment_node ended with exit code' in text, seen + text
    assert json.loads((tmp_path / 'out' / 'report.json').read_text())['outputs'] > 0
