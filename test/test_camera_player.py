# SPDX-License-Identifier: Apache-2.0
"""The player as a process, its sources and its command line."""

import io
import itertools
import json
import signal
import threading
import time

import cv2
import numpy as np
import psutil
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.recorded.ahead import ReadAhead
from dgtl_ros.image_codec import to_rgb
from dgtl_ros.parameters import ParameterError
from dgtl_ros.show.camera_player import open_source, parse, PlayerSettings
from dgtl_ros.show.drawing import _draw, Drawing
from dgtl_ros.show.playback import open_files, PlayedPicture, resized
from ros_world import plane, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import String

pytestmark = pytest.mark.ros


def flat(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three pictures, each of another grey and another size, and things that are none."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'{i}.png'), flat(50 * (i + 1), 40 + i))
    (tmp_path / 'notes.txt').write_text('x')
    return tmp_path


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('video') / 'v.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20, (64, 48))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write a video')
    for i in range(6):
        writer.write(np.full((48, 64, 3), (30 * i, 0, 200), np.uint8))  # BGR
    writer.release()
    return path


def ignore(_):
    pass


def test_folder_in_order_of_names(folder):
    greys = [f.image[0, 0, 0] for f in open_files(folder, False, ignore).frames]
    assert greys == [50, 100, 150]


def test_loop_starts_again(folder):
    frames = itertools.islice(open_files(folder, True, ignore).frames, 7)
    assert [f.image[0, 0, 0] for f in frames] == [50, 100, 150, 50, 100, 150, 50]


def test_a_broken_picture_is_left_out_and_named_once(folder):
    (folder / '1.png').write_bytes(b'no picture')
    said = []
    frames = list(itertools.islice(open_files(folder, True, said.append).frames, 4))
    assert [f.image[0, 0, 0] for f in frames] == [50, 150, 50, 150]
    assert len(said) == 1 and '1.png' in said[0]


def test_video_is_rgb_and_knows_its_rate(video):
    opened = open_files(video, False, ignore)
    frames = list(opened.frames)
    assert opened.rate == pytest.approx(20) and len(frames) == 6
    assert np.abs(frames[3].image[20, 20].astype(int) - (200, 0, 90)).max() < 12
    assert len(list(itertools.islice(open_files(video, True, ignore).frames, 15))) == 15


@pytest.mark.parametrize('name, message', [
    ('missing.mp4', "there is no file or folder '.*missing.mp4'; give a video file, a folder"),
    ('text.mp4', "'.*text.mp4' is not a video that OpenCV can read; convert it"),
    ('empty', "the folder '.*empty' holds no picture; file names must end in one of"),
])
def test_sources_that_cannot_be_opened(tmp_path, name, message):
    (tmp_path / 'text.mp4').write_text('not a video')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ParameterError, match=message):
        open_files(tmp_path / name, False, ignore)


def test_a_folder_of_broken_pictures(tmp_path):
    (tmp_path / 'a.png').write_text('x')
    with pytest.raises(ParameterError, match='none of the 1 pictures .* can be read'):
        next(open_files(tmp_path, True, ignore).frames)


@pytest.mark.parametrize('wanted, size', [
    ((0, 0), (40, 80)), ((20, 0), (20, 40)), ((0, 160), (80, 160)), ((30, 30), (30, 30))])
def test_resized(wanted, size):
    labels = np.zeros((40, 80), np.uint8)
    labels[:, 40:] = 7
    frame = next(resized(iter([PlayedPicture(flat(9, 40, 80), labels, 'fog')]), *wanted))
    assert frame.image.shape == (*size, 3) and frame.labels.shape == size
    assert set(np.unique(frame.labels)) == {0, 7} and frame.condition == 'fog'


def test_resized_leaves_a_pixel_of_what_is_very_flat():
    assert next(resized(iter([PlayedPicture(flat(9, 2, 80))]), 0, 10)).image.shape == (1, 10, 3)


def test_read_ahead_keeps_order_and_hands_over_errors():
    def frames():
        yield from (PlayedPicture(flat(i)) for i in range(5))
        raise ParameterError('the disk is gone')

    seen = []
    with pytest.raises(ParameterError, match='the disk is gone'):
        for frame in ReadAhead(frames(), depth=2):
            seen.append(frame.image[0, 0, 0])
    assert seen == [0, 1, 2, 3, 4]


def test_read_ahead_reads_no_further_than_its_depth_and_stops():
    count = itertools.count()
    ahead = ReadAhead((PlayedPicture(flat(next(count) % 200)) for _ in itertools.repeat(0)),
                      depth=3)
    time.sleep(0.2)
    assert next(count) <= 5
    assert len(list(itertools.islice(ahead, 5))) == 5
    threading.Timer(0.1, ahead.close, [20]).start()
    for _ in ahead:  # ends
        pass
    assert ahead.close(20)


def test_street_with_labels_and_conditions():
    settings = PlayerSettings(height=64, width=128, rate=4.0, seconds_per_condition=0.5,
                              conditions='clear, night')
    frames = list(open_source(settings, ignore).frames)
    assert [f.condition for f in frames] == ['clear'] * 2 + ['night'] * 2
    assert all(f.image.shape == (64, 128, 3) and f.labels.shape == (64, 128) for f in frames)
    found = open_source(PlayerSettings(height=64, width=128), ignore)
    assert 5 <= found.rate <= 10 and found.ahead == 16
    assert open_source(PlayerSettings(height=4096, width=8192, rate=1.0), ignore).ahead == 2
    with pytest.raises(ParameterError, match='source .* no such home folder'):
        open_source(PlayerSettings(source='~nouser/pictures'), ignore)
    with pytest.raises(ParameterError, match="unknown condition 'mud'; allowed are"):
        open_source(PlayerSettings(conditions='clear,mud', rate=1.0), ignore)


def endless_street():
    """Return the pictures of a street, and the process that draws them."""
    before = psutil.Process().children()
    frames = open_source(PlayerSettings(height=64, width=128, rate=5.0, loop=True), ignore).frames
    drawing, = set(psutil.Process().children()) - set(before)
    return frames, drawing


@pytest.mark.parametrize('read', [0, 3])
def test_the_process_that_draws_the_street_ends_when_nobody_reads(read):
    frames, drawing = endless_street()
    assert len(list(itertools.islice(frames, read))) == read and drawing.is_running()
    del frames
    drawing.wait(20)


def test_a_drawing_process_that_dies_is_named():
    frames, drawing = endless_street()
    next(frames)
    drawing.kill()
    with pytest.raises(ParameterError, match='draws the street ended with exit code -9'):
        list(frames)


class Pipe(io.BytesIO):
    """Nobody reads beyond the first picture."""

    def flush(self):
        if self.tell() > 1000:
            raise BrokenPipeError


def test_the_time_for_the_textures_is_not_counted(monkeypatch):
    """A street whose first picture takes its time, and the others 50 ms each."""
    now = [0.0]

    class World:
        def __init__(self, **_):
            pass

        def stream(self, **_):
            for i in itertools.count():
                now[0] += 0.05 if i else 2.0
                yield PlayedPicture(flat(i), flat(0)[..., 0], 'clear')

    monkeypatch.setattr('dgtl_core.streetworld.StreetWorld', World)
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    pipe = Pipe()
    with pytest.raises(BrokenPipeError):
        _draw(Drawing(size=(48, 64), rate=0.0, conditions=('clear',), seconds_per_condition=1.0,
                      loop=True, seed=0), pipe)
    assert json.loads(pipe.getvalue().partition(b'\n')[0]) == {'rate': pytest.approx(6.0)}


def test_only_given_options_become_parameters():
    assert parse([]) == ([], 'large_images')
    parameters, profile = parse(['--source', 'x', '--rate', '5', '--loop', '--frame-id', 'f',
                                 '--height', '10', '--dds-profile', 'none'])
    given = {p.name: p.value for p in parameters}
    assert profile == 'none'
    assert given == {'source': 'x', 'rate': 5.0, 'loop': True, 'frame_id': 'f', 'height': 10}


@pytest.mark.parametrize('option', [
    ['--rate', 'fast'], ['--reliability', 'some'], ['--speed', '1']])
def test_wrong_options_are_refused(option, capsys):
    with pytest.raises(SystemExit) as left:
        parse(option)
    assert left.value.code == 2 and option[0] in capsys.readouterr().err


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as left:
        parse(['--help'])
    text = capsys.readouterr().out
    assert left.value.code == 0
    for word in ('--source', '--rate', '--loop', '--height', '--frame-id', '--conditions'):
        assert word in text


# --- as a process --------------------------------------------------------------------------------


def test_folder_is_played_to_its_end(world, folder):
    images = world.listen(Image, '/show/image')
    code, text = world.start('show.camera_player', 'show', '--source', folder, '--rate', 20,
                             '--subscribers', 1, '--frame-id', 'left').ends()
    assert code == 0 and 'played all 3 pictures' in text
    images.wait(lambda _: len(images.items) == 3)
    assert [to_rgb(m)[0, 0, 0] for m in images.messages] == [50, 100, 150]
    assert [m.height for m in images.messages] == [40, 41, 42]
    ages = [at - m.header.stamp.sec - m.header.stamp.nanosec / 1e9 for m, at in images.items]
    assert max(map(abs, ages)) < 30, 'the stamps are not of now'
    assert {m.header.frame_id for m in images.messages} == {'left'}


def test_street_is_played_with_truth_and_condition_until_a_signal(world):
    images, truth = (world.listen(Image, f'/street/{t}') for t in ('image', 'ground_truth'))
    conditions = world.listen(String, '/street/condition', latched=True)
    with world.start(
            'show.camera_player', 'street', '--loop', '--height', 96, '--width', 192, '--rate', 10,
            '--seconds-per-condition', 0.5, '--conditions', 'clear,fog',
            '--subscribers', 1) as player:
        for name in ('clear', 'fog'):
            conditions.wait(lambda m, name=name: m.data == name)
        truth.wait(lambda _: len(truth.items) > 5)
        code, seconds = player.signal(signal.SIGTERM)
    assert code == 0 and seconds < 2 and 'Traceback' not in player.text()
    assert {m.data for m in conditions.messages} == {'clear', 'fog'}
    stamps = {stamp_of(m) for m in images.messages}
    known = [m for m in truth.messages if stamp_of(m) in stamps]
    assert len(known) > 3
    assert all(plane(m).shape == (96, 192) and len(np.unique(plane(m))) > 2 for m in known)


def test_video_is_played_at_its_own_rate(world, video):
    images = world.listen(Image, '/film/image')
    with world.start('show.camera_player', 'film', '--source', video, '--loop',
                     '--subscribers', 1) as player:
        images.wait(lambda _: len(images.items) >= 30)
        player.wait_for_text('playing at 20 Hz')
        code, seconds = player.signal(signal.SIGINT)
    assert code == 0 and seconds < 2 and 'Traceback' not in player.text()
    stamps = [s + n / 1e9 for s, n in map(stamp_of, images.messages)]
    # A busy machine may be late, but never ahead.
    assert 0.9 / 20 < np.mean(np.diff(stamps)) < 5 / 20


@pytest.mark.parametrize('options, message', [
    (['--source', 'missing.mp4'], "source: there is no file or folder 'missing.mp4'; give a"),
    (['--source', __file__], 'is not a video that OpenCV can read; convert it'),
    (['--conditions', 'mud'], "unknown condition 'mud'; allowed are ['clear'"),
    (['--rate', '-1'], 'rate must be a double in 0.0..240.0'),
])
def test_what_cannot_be_played_ends_it_with_a_message(world, options, message):
    code, text = world.start('show.camera_player', 'nothing', *options).ends()
    assert code == 2 and message in text and 'Traceback' not in text, text
