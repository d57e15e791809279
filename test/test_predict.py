# SPDX-License-Identifier: Apache-2.0
"""``dgtl predict``: what it writes, what it refuses, how it goes on, how it ends."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.cli.main import main
from dgtl_core.pictures import read_image, write_image
from dgtl_core.predictor import Predictor
from dgtl_core.recorded.video_sink import VideoSink
from dgtl_core.visualize import colorize, overlay
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('rosbags')
from bags import SECOND, write_bag
from test_sources import write_video
from tiny_onnx import write_tiny_onnx

ROOT = Path(__file__).resolve().parent.parent
SIZE = (32, 64)  # of the tiny model: nothing is resized, so a pixel's label is its red // 8


def picture(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 19 * 8, (*size, 3), np.uint8)


@pytest.fixture
def model(tmp_path):
    return write_tiny_onnx(tmp_path / 'tiny.onnx', SIZE)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(('a/one.png', 'a/two.png', 'b/one.png', 'b/two.png')):
        write_image(tmp_path / 'in' / name, picture(number))
    return tmp_path / 'in'


@pytest.fixture
def predict(model, tmp_path):
    """Return the command as a function; the results go to ``out``."""
    def run(*arguments):
        return main(['predict', '--model', str(model), '--out', str(tmp_path / 'out'),
                     *map(str, arguments)])
    return run


def refused(capsys, run, *arguments):
    """Return what is said of wrong use."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def grey(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def journal(folder):
    return [json.loads(line) for line in (folder / 'predict.jsonl').read_text().splitlines()]


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


@pytest.mark.parametrize('rules', [(), ('--threshold', '0.9', '--classes', 'sky')])
def test_each_frame_has_a_domain_verdict(predict, tmp_path, capsys, rules):
    from dgtl_core.domain import DomainLimits, DomainMonitor, WINDOW

    dark = np.zeros((*SIZE, 3), np.uint8)
    images = [picture(n) for n in range(8)] + [dark + n % 2 for n in range(24)]
    for number, image in enumerate(images):
        write_image(tmp_path / f'drive/{number:02d}.png', image)
    assert predict(tmp_path / 'drive', *rules) == 0
    model, monitor = Predictor.load(tmp_path / 'tiny.onnx'), DomainMonitor(19)
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


def test_the_cameras_of_a_bag_are_judged_apart(predict, tmp_path):
    dark = np.zeros((*SIZE, 3), np.uint8)
    source = write_bag(tmp_path / 'drive', {
        '/day': [picture(n) for n in range(12)], '/night': [dark] * 12})
    assert predict(source, '--topic', '/day', '--topic', '/night') == 0
    states = {line['frame']: line['domain']['causes'] for line in journal(tmp_path / 'out')
              if 'frame' in line}
    for name, causes in states.items():
        assert any('is dark' in cause for cause in causes) == ('/night/' in name), name


def test_the_embedded_model_is_the_default(folder, tmp_path):
    assert main(['predict', str(folder / 'a/one.png'), '--out', str(tmp_path / 'out')]) == 0
    model = Predictor.load()
    np.testing.assert_array_equal(grey(tmp_path / 'out/labels/one.png'), model(picture(0)).labels)
    model.close()


def test_results_are_refused_and_replaced_when_told(predict, folder, tmp_path, capsys):
    assert predict(folder) == 0
    assert 'finished: name another folder, or replace them with --force' in refused(
        capsys, predict, folder)
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
        model, folder, storage, count, capsys):
    run = ['predict', str(folder), '--model', str(model), '--out', 'memory://bucket/run',
           '--save', 'labels,overlay', '--quiet']
    count.at = 3
    assert main(run) == 130
    noted = storage.cat('/bucket/run/predict.jsonl').decode().splitlines()
    before = {json.loads(line)['frame'] for line in noted if '"frame"' in line}
    count.at, count.seen = 0, 0
    assert main(run) == 0 and count.seen == 4 - len(before)
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
        main(run)
    assert 'memory://bucket/run holds the results of a run that is finished' in (
        capsys.readouterr().err)


def test_a_bag_goes_to_a_storage_as_a_folder(model, tmp_path, storage, capsys):
    source = write_bag(tmp_path / 'drive', {'/image': [picture(n) for n in range(3)]})
    assert main(['predict', str(source), '--model', str(model), '--save', 'bag', '--json',
                 '--out', 'memory://bucket/bags']) == 0
    assert json.loads(capsys.readouterr().out)['files'] == ['memory://bucket/bags/bag/drive']
    storage.get('/bucket/bags/bag/drive', str(tmp_path / 'back'), recursive=True)
    assert len(read_bag(tmp_path / 'back')['/segmentation']) == 3


def test_a_storage_of_somebody_else_is_not_touched(model, folder, storage, capsys):
    storage.pipe('/bucket/other/thesis.tex', b'.')
    run = ['predict', str(folder), '--model', str(model), '--out', 'memory://bucket/other']
    assert 'memory://bucket/other is not empty' in refused(capsys, main, run)
    assert storage.find('/bucket/other') == ['/bucket/other/thesis.tex']


def test_a_storage_that_breaks_ends_in_one_line(model, folder, storage, monkeypatch, capsys):
    def denied(*_, **__):
        raise RuntimeError('access denied')
    monkeypatch.setattr(type(storage), 'put_file', denied)
    assert main(['predict', str(folder), '--model', str(model), '--out',
                 'memory://bucket/denied', '--quiet']) == 1
    assert capsys.readouterr().err == (
        'dgtl predict: memory://bucket/denied: RuntimeError: access denied\n')


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
    (['--stride', '0'], 'must be a whole number of 1 or more'),
    (['nowhere.png'], 'there is no'),
])
def test_wrong_use_is_said_before_anything_is_written(
        predict, folder, tmp_path, capsys, arguments, said):
    assert said in refused(capsys, predict, folder, *arguments)
    assert not (tmp_path / 'out').exists()


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


def test_batches_change_nothing(folder, tmp_path):
    model = write_tiny_onnx(tmp_path / 'many.onnx', SIZE, batch='n')
    for batch in (1, 3):
        assert main(['predict', str(folder), '--model', str(model), '--batch', str(batch),
                     '--out', str(tmp_path / str(batch)), '--quiet']) == 0
    for name in files(tmp_path / '1/labels'):
        np.testing.assert_array_equal(
            grey(tmp_path / '1/labels' / name), grey(tmp_path / '3/labels' / name))


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


def test_a_sheet_shows_a_spread_of_the_frames(predict, tmp_path):
    for number in range(60):
        write_image(tmp_path / f'many/{number:02d}.png', picture(number))
    assert predict(tmp_path / 'many', '--save', 'sheet') == 0
    assert files(tmp_path / 'out') == ['predict.jsonl', 'sheet.jpg']
    sheet = read_image(tmp_path / 'out/sheet.jpg')
    assert sheet.shape[1] == 4 * 320 and sheet.shape[0] > 8 * 160  # 60 frames -> each 4th, 15


@pytest.mark.parametrize('size', [(2000, 1), (1, 2000), (1, 1)])
def test_a_sheet_has_room_for_a_picture_of_any_shape(predict, tmp_path, size):
    write_image(tmp_path / 'in/a.png', picture(0, size))
    write_image(tmp_path / 'in/b.png', picture(1))
    assert predict(tmp_path / 'in', '--save', 'sheet') == 0
    assert read_image(tmp_path / 'out/sheet.jpg').shape[0] < 700


@pytest.mark.skipif(cv2.__version__ < '4.6', reason='OpenCV 4.5 misreads times of frames')
@pytest.mark.parametrize('size, rotation, shown', [
    ((47, 63), 0, (48, 64)), ((48, 64), 90, (64, 48))])
def test_a_video_plays_anywhere_and_keeps_its_times(predict, tmp_path, size, rotation, shown):
    av = pytest.importorskip('av')
    times = [0, 40, 50, 500, 1000]
    source = write_video(tmp_path / 'drive.mp4', (size, times), rotation)
    assert predict(source, '--save', 'video,labels') == 0
    made = tmp_path / 'out/video/drive.mp4'
    data = made.read_bytes()
    assert data.index(b'moov') < data.index(b'mdat')  # plays before all of it is there
    with av.open(str(made)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ('h264', 'yuv420p')
    assert [round(float(f.pts * f.time_base) * 1000) for f in frames] == times
    assert (frames[0].height, frames[0].width) == shown
    upright = size if not rotation else size[::-1]
    assert grey(tmp_path / 'out/labels/drive/000004.png').shape == upright


def test_a_fault_while_writing_leaves_no_piece_behind(predict, tmp_path, monkeypatch, capsys):
    pytest.importorskip('av')
    source = write_video(tmp_path / 'drive.mp4', (SIZE, range(0, 400, 40)))
    real = VideoSink.add

    def full(self, labelled):
        if labelled.frame.name.endswith('5'):
            raise OSError(28, 'No space left on device')
        real(self, labelled)
    monkeypatch.setattr(VideoSink, 'add', full)
    assert predict(source, '--save', 'video') == 1
    assert 'No space left' in capsys.readouterr().err
    assert files(tmp_path / 'out') == ['predict.jsonl']
    monkeypatch.undo()
    assert predict(source, '--save', 'video') == 0  # from the start: half a video is none
    assert files(tmp_path / 'out') == ['predict.jsonl', 'video/drive.mp4']


def read_bag(path):
    """Return {topic: [(time, message)]} of a bag, with the types that lie in it."""
    from rosbags.highlevel import AnyReader

    found = {}
    with AnyReader([path]) as reader:
        for connection, when, data in reader.messages():
            found.setdefault(connection.topic, []).append(
                (when, reader.deserialize(data, connection.msgtype)))
    return found


@pytest.mark.parametrize('plugin, ros1, suffix', [
    ('MCAP', False, '.mcap'), ('SQLITE3', False, '.db3'), ('', True, '.mcap')])
def test_a_bag_comes_back_with_labels(predict, tmp_path, plugin, ros1, suffix):
    source = write_bag(tmp_path / ('drive.bag' if ros1 else 'drive'),
                       {'/image': [picture(n) for n in range(3)]}, plugin, ros1=ros1)
    assert predict(source, '--save', 'bag') == 0
    made = tmp_path / 'out/bag/drive'
    assert files(made) == [f'drive{suffix}', 'metadata.yaml']
    found = read_bag(made)
    assert sorted(found) == [
        '/image', '/segmentation', '/segmentation/class_map', '/segmentation/confidence']
    assert json.loads(found['/segmentation/class_map'][0][1].data) == CITYSCAPES.to_list()
    for number in range(3):
        (when, image), (at, labels), (_, confidence) = (
            found[topic][number]
            for topic in ('/image', '/segmentation', '/segmentation/confidence'))
        assert when == at == (200 + number) * SECOND
        assert labels.header == image.header and labels.header.frame_id == 'camera/image'
        assert labels.header.stamp.sec == 100 + number and labels.header.stamp.nanosec == 7
        assert (labels.encoding, labels.step, image.encoding) == ('mono8', 64, 'rgb8')
        truth = picture(number)
        np.testing.assert_array_equal(image.data, truth.reshape(-1))
        np.testing.assert_array_equal(labels.data.reshape(SIZE), truth[:, :, 0] // 8)
        np.testing.assert_array_equal(confidence.data.reshape(SIZE), truth[:, :, 1])


def test_several_topics_of_a_bag_and_a_broken_message(predict, tmp_path, capsys):
    source = write_bag(tmp_path / 'drive', {
        '/front/image_raw': [picture(n) for n in range(3)],
        '/rear/image/compressed': [picture(n) for n in range(3)]}, broken=(1,))
    assert predict(source, '--save', 'bag,video', '--topic', '/front/image_raw', '--topic',
                   '/rear/image/compressed') == 1
    assert 'drive/front/image_raw/000001 left out: image is truncated' in capsys.readouterr().err
    found = read_bag(tmp_path / 'out/bag/drive')
    assert {topic: len(messages) for topic, messages in found.items()} == {
        '/front/image_raw': 2, '/front/image_raw/segmentation': 2,
        '/front/image_raw/segmentation/confidence': 2,
        '/front/image_raw/segmentation/class_map': 1, '/rear/image/compressed': 2,
        '/rear/image/compressed/segmentation': 2,
        '/rear/image/compressed/segmentation/confidence': 2,
        '/rear/image/compressed/segmentation/class_map': 1}
    assert files(tmp_path / 'out/video') == [
        'drive/front_image_raw.mp4', 'drive/rear_image_compressed.mp4']


@pytest.mark.ros
def test_messages_of_rclpy_go_in_and_out(predict, tmp_path):
    serialization = pytest.importorskip('rclpy.serialization', exc_type=ImportError)
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores
    from sensor_msgs.msg import Image

    image = picture(3)
    message = Image(height=SIZE[0], width=SIZE[1], encoding='rgb8', step=SIZE[1] * 3)
    message.data.frombytes(image.tobytes())
    message.header.frame_id = 'front'
    message.header.stamp.sec = 5
    with Writer(tmp_path / 'drive', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            '/image', 'sensor_msgs/msg/Image', typestore=get_typestore(Stores.ROS2_JAZZY))
        writer.write(connection, 7, serialization.serialize_message(message))
    assert predict(tmp_path / 'drive', '--save', 'bag') == 0
    from rosbags.rosbag2 import Reader

    with Reader(tmp_path / 'out/bag/drive') as reader:
        found = {c.topic: bytes(data) for c, _, data in reader.messages()}
    labels = serialization.deserialize_message(found['/segmentation'], Image)
    assert labels.header == message.header and labels.encoding == 'mono8'
    np.testing.assert_array_equal(
        np.frombuffer(labels.data, np.uint8).reshape(SIZE), image[:, :, 0] // 8)
    assert serialization.deserialize_message(found['/image'], Image) == message


def test_a_rerun_recording_has_labels_with_names(predict, folder, tmp_path):
    pytest.importorskip('rerun')
    server = pytest.importorskip('rerun.server')
    pytest.importorskip('datafusion')
    assert predict(folder, '--save', 'rrd') == 0
    made = tmp_path / 'out/rrd/in.rrd'
    with server.Server(datasets={'run': [str(made)]}) as running:
        client = running.client()
        data = client.get_dataset('run')
        table, still = (data.reader(index=index).to_arrow_table() for index in ('frame', None))
    assert table.num_rows == 4
    labels = table['/camera/labels:SegmentationImage:buffer'][0].as_py()[0]
    np.testing.assert_array_equal(
        np.array(labels, np.uint8).reshape(SIZE), picture(0)[:, :, 0] // 8)
    told = still['/:AnnotationContext:context'][0].as_py()[0]
    shown = {entry['class_description']['info']['id']: (
        entry['class_description']['info']['label'],
        entry['class_description']['info']['color']) for entry in told}
    assert shown.pop(255)[0] == 'unlabelled'
    assert shown == {entry.id: (entry.name, int(bytes((*entry.color, 255)).hex(), 16))
                     for entry in CITYSCAPES}


def test_quiet_says_nothing_and_a_pipe_gets_lines(predict, folder, capsys, monkeypatch):
    assert predict(folder, '--quiet') == 0
    told = capsys.readouterr()
    assert told.out == '' and told.err == ''
    monkeypatch.setattr('dgtl_core.progress._EVERY', 0.0)
    assert predict(folder, '--force') == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith('4 of 4 frames, ') and lines[-1].endswith('0 s left')


def test_a_terminal_gets_a_bar(folder, model, tmp_path):
    pty = pytest.importorskip('pty')
    reader, writer = pty.openpty()
    done = subprocess.run(
        [sys.executable, '-m', 'dgtl_core.cli', 'predict', str(folder), '--model', str(model),
         '--out', str(tmp_path / 'out')], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer,
        check=False)
    told = os.read(reader, 10_000).decode()
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0 and ' 0/4 [' in told and 'frame/s' in told


def test_two_runs_do_not_share_a_folder(predict, folder, tmp_path, capsys):
    from dgtl_core.recorded.journal import Journal

    other = Journal(tmp_path / 'out', {})
    assert 'another run is writing' in refused(capsys, predict, folder)
    other.close()
