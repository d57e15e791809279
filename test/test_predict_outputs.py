# SPDX-License-Identifier: Apache-2.0
"""``dgtl predict``: sheets, videos, bags and recordings."""

import json

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.pictures import read_image, write_image
from dgtl_core.recorded.video_sink import VideoSink
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('rosbags')
from bags import SECOND, write_bag
from predicting import command_to, files, grey, journal, picture, read_bag, SIZE, write_folder
from test_sources import write_video


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def predict(tiny_model, tmp_path):
    return command_to(tiny_model, tmp_path)


def test_the_cameras_of_a_bag_are_judged_apart(predict, tmp_path):
    dark = np.zeros((*SIZE, 3), np.uint8)
    source = write_bag(tmp_path / 'drive', {
        '/day': [picture(n) for n in range(12)], '/night': [dark] * 12})
    assert predict(source, '--topic', '/day', '--topic', '/night') == 0
    states = {line['frame']: line['domain']['causes'] for line in journal(tmp_path / 'out')
              if 'frame' in line}
    for name, causes in states.items():
        assert any('is dark' in cause for cause in causes) == ('/night/' in name), name


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
