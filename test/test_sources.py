# SPDX-License-Identifier: Apache-2.0
"""Frames out of pictures, videos, bags and drawn streets; what is broken is named, not fatal."""

from fractions import Fraction
import logging

import cv2
from dgtl_core.pictures import write_image
from dgtl_core.predictor import Predictor
from dgtl_core.recorded.frame import SourceError
from dgtl_core.recorded.sources import frames, open_sources
import numpy as np
import pytest

pytest.importorskip('rosbags')
from bags import picture, SECOND, write_bag


def read(*words, topics=(), **options):
    """Return the frames, and what was broken."""
    broken = []
    found = list(frames(open_sources(words, topics), broken=lambda *b: broken.append(b),
                        **options))
    return found, broken


def write_video(path, sizes_and_times, rotation=0):
    """Write a video with PyAV: left half red, right half blue; times in milliseconds."""
    av = pytest.importorskip('av')
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=30)
        (height, width), times = sizes_and_times
        stream.width, stream.height = width, height
        stream.pix_fmt = 'yuv444p' if height % 2 or width % 2 else 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        image = np.zeros((height, width, 3), np.uint8)
        image[:, :width // 2, 0] = image[:, width // 2:, 2] = 255
        for when in times:
            frame = av.VideoFrame.from_ndarray(image, 'rgb24')
            frame.pts, frame.time_base = when, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if rotation:
        turn(path, rotation)
    return path


def turn(path, degrees):
    """Note in an mp4 that its pictures are to be shown turned clockwise, as phones do."""
    one, data = 1 << 16, bytearray(path.read_bytes())
    matrix = {90: (0, one, -one, 0), 270: (0, -one, one, 0)}[degrees]
    at = data.index(b'tkhd') + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    a, b, c, d = (value.to_bytes(4, 'big', signed=True) for value in matrix)
    data[at:at + 36] = a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, 'big')
    path.write_bytes(bytes(data))


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(('a/one.png', 'a/two.jpg', 'b/one.png', 'b/one.jpg')):
        write_image(tmp_path / 'in' / name, picture(number))
    return tmp_path / 'in'


def test_pictures_of_a_folder_keep_their_names(folder):
    found, broken = read(folder)
    assert [f.name for f in found] == ['a/one', 'a/two', 'b/one.jpg', 'b/one.png'] and not broken
    np.testing.assert_array_equal(found[0].image, picture(0))


@pytest.mark.parametrize('words, names', [
    (['a', 'b/one.png'], ['a/one', 'a/two', 'b/one']),
    (['a/one.png'], ['one']),
    (['*/*.png'], ['a/one', 'b/one']),
    (['a', 'a/../a/one.png'], ['one', 'two']),
])
def test_names_are_relative_to_the_folder_that_holds_all(folder, words, names):
    assert [f.name for f in read(*(folder / word for word in words))[0]] == names


def test_a_broken_picture_is_named_and_the_rest_goes_on(folder):
    (folder / 'a/one.png').write_bytes((folder / 'a/one.png').read_bytes()[:60])
    found, broken = read(folder)
    assert len(found) == 3
    (name, fault), = broken
    assert name == 'a/one' and 'one.png' in fault


def test_stride_limit_and_skip_count_every_frame(folder):
    assert [f.name for f in read(folder, stride=2)[0]] == ['a/one', 'b/one.jpg']
    assert [f.name for f in read(folder, stride=2, limit=1)[0]] == ['a/one']
    assert [f.name for f in read(folder, limit=2, skip='a/one'.__eq__)[0]] == ['a/two']
    with pytest.raises(ValueError, match='stride must be 1 or more'):
        read(folder, stride=0)


@pytest.mark.parametrize('word, said', [
    ('nothing.jpg', 'there is no .*give a picture, a folder'),
    ('text.txt', 'none of what can be read'),
    ('empty', 'holds no picture'),
    ('videos', 'name them, such as .*drive.mp4'),
    ('*.xyz', 'there is no'),
])
def test_what_names_nothing_is_refused(tmp_path, word, said):
    (tmp_path / 'text.txt').touch()
    for name in ('empty', 'videos'):
        (tmp_path / name).mkdir()
    (tmp_path / 'videos/drive.mp4').touch()
    with pytest.raises(SourceError, match=said):
        open_sources([tmp_path / word])


def test_streetworld_goes_through_the_conditions():
    (source,) = open_sources(['streetworld'])
    found, _ = read('streetworld', limit=2)
    assert source.total == 100 and [f.stamp for f in found] == [0, SECOND // 10]
    assert found[0].image.shape == (360, 640, 3)


def test_a_camera_that_is_not_there_is_named():
    found, broken = read('camera:98')
    assert not found and broken[0][0] == 'camera_98' and 'plugged in' in broken[0][1]


@pytest.mark.skipif(cv2.__version__ < '4.6', reason='OpenCV 4.5 misreads times of frames')
def test_a_video_of_varying_rate_and_odd_size_keeps_both(tmp_path):
    times = [0, 40, 50, 500, 1000]
    path = write_video(tmp_path / 'odd.mp4', ((47, 63), times))
    found, broken = read(path)
    assert not broken and [f.name for f in found] == [f'odd/{n:06d}' for n in range(5)]
    assert found[0].image.shape == (47, 63, 3)
    assert [round(f.stamp / 1e6) for f in found] == times
    assert open_sources([path])[0].total == 5


def test_a_portrait_video_comes_upright(tmp_path):
    found, _ = read(write_video(tmp_path / 'phone.mp4', ((48, 64), [0, 33]), rotation=90))
    image = found[0].image
    assert image.shape == (64, 48, 3)
    assert image[5, 24, 0] > 200 and image[-5, 24, 2] > 200  # red was left and is now on top


def test_a_video_that_is_cut_short_is_named(tmp_path):
    path = write_video(tmp_path / 'cut.mp4', ((48, 64), range(0, 3000, 33)))
    path.write_bytes(path.read_bytes()[:400])
    found, broken = read(path)
    assert not found and broken[0][0] == 'cut' and 'cut.mp4' in broken[0][1]


@pytest.mark.parametrize('plugin, ros1', [('MCAP', False), ('SQLITE3', False), ('', True)])
@pytest.mark.parametrize('topic', ['/front/image_raw', '/front/compressed'])
def test_a_bag_gives_its_pictures_with_their_stamps(tmp_path, plugin, ros1, topic):
    pictures = [picture(n) for n in range(3)]
    path = write_bag(tmp_path / ('drive.bag' if ros1 else 'drive'), {topic: pictures}, plugin,
                     ros1=ros1)
    (source,) = open_sources([path])
    found, broken = read(path)
    assert source.total == 3 and not broken
    assert [f.name for f in found] == [f'drive{topic}/{n:06d}' for n in range(3)]
    assert [f.stamp for f in found] == [(100 + n) * SECOND + 7 for n in range(3)]
    assert [f.message.time for f in found] == [(200 + n) * SECOND for n in range(3)]
    for frame, image in zip(found, pictures):
        assert np.abs(frame.image.astype(int) - image).mean() < (3 if 'comp' in topic else 0.01)


def test_a_storage_file_alone_is_a_bag_too(tmp_path):
    write_bag(tmp_path / 'drive', {'/image': [picture()]})
    found, _ = read(tmp_path / 'drive' / 'drive.mcap')
    assert [f.name for f in found] == ['drive/image/000000']


@pytest.mark.parametrize('plugin, storage', [('MCAP', 'mcap'), ('SQLITE3', 'sqlite3')])
@pytest.mark.parametrize('part', ['FILE', 'MESSAGE'])
def test_a_compressed_bag_is_read_and_its_damages_are_told(tmp_path, plugin, storage, part):
    path = write_bag(tmp_path / 'drive', {'/image': [picture(n) for n in range(3)]}, plugin,
                     compressed=part)
    (source,) = open_sources([path])
    assert source.storage == storage and len(read(path)[0]) == 3
    (file,) = path.glob(f'*.{"db3" if storage == "sqlite3" else "mcap"}*')
    content = file.read_bytes()
    damaged = content[:len(content) // 2] + bytes(100) + content[len(content) // 2 + 100:]
    for bad in (content[:len(content) // 2], damaged, content[:9] + b'\xff' * 8 + content[17:]):
        file.write_bytes(bad)
        try:
            found, broken = read(path)
        except SourceError as error:
            assert 'cannot be read as a bag' in str(error)
        else:
            assert len(found) < 3 and broken or len(found) == 3  # what is damaged is not a picture


def test_a_broken_message_is_named_and_the_rest_goes_on(tmp_path):
    path = write_bag(tmp_path / 'drive', {'/image': [picture(n) for n in range(4)],
                                          '/compressed': [picture(n) for n in range(4)]},
                     broken=(1,))
    found, broken = read(path, topics=['/image', '/compressed'])
    assert len(found) == 6
    assert [name for name, _ in broken] == ['drive/image/000001', 'drive/compressed/000001']
    assert all('truncated' in fault or 'cut short' in fault for _, fault in broken)


def test_which_of_several_topics_must_be_said(tmp_path):
    path = write_bag(tmp_path / 'drive', {'/a': [picture()] * 2, '/b': [picture()]})
    with pytest.raises(SourceError, match=r'--topic: /a \(2\), /b \(1\)'):
        open_sources([path])
    with pytest.raises(SourceError, match=r'no pictures on /c; it has /a'):
        open_sources([path], ['/c'])
    assert [f.message.topic for f in read(path, topics=['/b'])[0]] == ['/b']
    assert [f.message.topic for f in read(path, topics=['/a', '/b'], limit=1)[0]] == ['/a', '/b']


@pytest.mark.parametrize('name', ['cut.mcap', 'cut.db3', 'cut.bag'])
def test_a_bag_that_is_none_says_how_to_repair_it(tmp_path, name):
    (tmp_path / name).write_bytes(b'\x89MCAP0\r\n' + bytes(20))
    with pytest.raises(SourceError, match='cannot be read as a bag.*repair it'):
        open_sources([tmp_path / name])


def test_topics_of_no_bag_are_refused(folder):
    with pytest.raises(SourceError, match='there is no bag'):
        open_sources([folder], ['/image'])


def test_a_predictor_labels_a_stream(folder, caplog):
    predict = Predictor.load()
    (folder / 'a/one.png').write_bytes(b'nothing')
    with caplog.at_level(logging.WARNING):
        found = list(predict.stream(folder, limit=2))
    assert [f.name for f in found] == ['a/two'] and 'a/one left out' in caplog.text
    labels, confidence = predict(found[0].image)
    np.testing.assert_array_equal(found[0].labels, labels)
    np.testing.assert_array_equal(found[0].confidence, confidence)
    predict.close()
