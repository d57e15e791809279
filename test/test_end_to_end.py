# SPDX-License-Identifier: Apache-2.0
"""Real pictures and heavy load, through real processes and a real DDS."""

import json
from pathlib import Path
import time
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.pictures import read_image
from dgtl_core.predictor import Predictor
from dgtl_ros.image_codec import jpeg, rgb8, to_rgb
from ros_world import Link, modules_hook, PATIENCE, picture, plane, slow_model, stamp_of
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros


@pytest.fixture(scope='module')
def slow(tmp_path_factory):
    return slow_model(tmp_path_factory.mktemp('models') / 'slow.onnx', 0.15)


def test_camvid_played_at_10_hz(world, shared, tmp_path):
    model = write_tiny_onnx(tmp_path / 'any_red.onnx', (180, 240), divisor=16)
    pictures = sorted((shared / 'data/camvid_day/test/images').glob('*.jpg'))
    classes = world.listen(String, '/town/segmentation/class_map', latched=True)
    inputs = world.listen(Image, '/town/image')
    outputs = world.listen(Image, '/town/segmentation')
    hook, ask_modules = modules_hook(tmp_path)
    with world.start('segment_node', 'town', extra=hook, model_path=model,
                     max_image_age=0.0) as node, \
            world.start('show.camera_player', 'town', '--source', pictures[0].parent, '--rate', 10,
                        '--frame-id', 'front_optical', '--subscribers', 2):
        node.wait_for_text('labels of /town/image go to /town/segmentation')
        outputs.wait(lambda _: len(outputs.items) >= 40)
        loaded = ask_modules(node.process)
        mapped = Path(f'/proc/{node.process.pid}/maps').read_text()
    ids = {entry['id'] for entry in json.loads(classes.messages[-1].data)} | {255}
    predict = Predictor.load(model, device='cpu')
    known = {zlib.crc32(read_image(p)) for p in pictures}
    for number, message in enumerate(outputs.messages[:40]):
        camera = inputs.with_stamp(stamp_of(message))
        assert message.header == camera.header and message.header.frame_id == 'front_optical'
        assert message.encoding == 'mono8'
        assert (message.height, message.width) == (camera.height, camera.width)
        assert set(np.unique(plane(message))) <= ids
        if number % 10 == 0:
            rgb = to_rgb(camera)
            assert zlib.crc32(rgb) in known, 'not a picture of the folder'
            np.testing.assert_array_equal(plane(message), predict(rgb).labels)
    stamps = [stamp_of(m) for m in inputs.messages]
    gaps = np.diff([s + n / 1e9 for s, n in stamps])
    # A busy machine may be late, but never ahead.
    assert 0.08 < np.mean(gaps) < 0.5 and stamps == sorted(stamps)
    assert 'onnxruntime' in loaded and 'dgtl_ros.pipeline' in loaded
    heavy = {'torch', 'torchvision', 'timm', 'training', 'matplotlib', 'scipy'}
    assert not heavy & {name.partition('.')[0] for name in loaded}
    assert 'libtorch' not in mapped and 'onnxruntime' in mapped


def test_overload_gives_fresh_labels_not_old_ones(world, slow, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), picture(240, 320))
    cv2.imwrite(str(tmp_path / 'b.png'), picture(240, 320, (0, 0, 0)))
    outputs = world.listen(Image, '/busy/segmentation')
    with world.start('segment_node', 'busy', model_path=slow, max_image_age=0.0), \
            world.start('show.camera_player', 'busy', '--source', tmp_path, '--loop', '--rate', 60,
                        '--subscribers', 1):
        outputs.wait(lambda _: len(outputs.items) >= 20)
        values = world.task('busy', 'inference', lambda v: v['infer_ms_max'] != 'nan')[1]
        counts = world.task('busy', 'input', lambda v: int(v['dropped_superseded']) > 0)[1]
    ages = [(at - m.header.stamp.sec - m.header.stamp.nanosec / 1e9) * 1e3
            for m, at in outputs.items[2:]]
    transport, period = 100, 1000 / 60
    inference = float(values['infer_ms_max'])
    assert inference > 2 * period, 'the model is too fast for this test'
    # A queue of a few pictures would make them older, one without end ever older.
    assert np.percentile(ages, 90) < 2 * inference + period + transport
    received, skipped = int(counts['received']), int(counts['dropped_superseded'])
    assert received > 2 * len(outputs.items) and skipped > received / 2


def test_the_middleware_keeps_no_queue(world, tmp_path):
    """One picture waits in the mailbox at most, so after a burst at most two are labelled."""
    slow = slow_model(tmp_path / 'slow.onnx', 0.5)
    with world.start('segment_node', 'burst', model_path=slow, max_image_age=0.0,
                     warmup_iterations=1) as node:
        link = Link(world, 'burst', node)
        link.answer(picture())
        burst = [stamp_of(Image(header=link.send(picture()))) for _ in range(10)]
        link.labels.with_stamp(burst[-1])
        link.close()
    assert 1 <= len(set(burst) & set(map(stamp_of, link.labels.messages))) <= 3


def test_max_rate_limits_inference(world, tiny_model):
    outputs = world.listen(Image, '/rate/segmentation')
    with world.start('segment_node', 'rate', model_path=tiny_model, max_rate=1.0,
                     max_image_age=0.0):
        camera = world.camera('rate')
        limit = time.monotonic() + PATIENCE
        while len(outputs.items) < 5 and time.monotonic() < limit:
            camera.publish(rgb8(picture(), Header(stamp=world.now())))
            time.sleep(0.02)
        world.remove(camera)
    ages = [at - m.header.stamp.sec - m.header.stamp.nanosec / 1e9 for m, at in outputs.items]
    times = [at for _, at in outputs.items]
    assert times[4] - times[0] > 3.5, 'faster than max_rate'
    # Taken before the turn came, it would be a second old.
    assert np.median(ages) < 0.7, 'the picture waited for its turn; the newest should have gone'


def test_compressed_camera(world, tiny_model):
    outputs = world.listen(Image, '/packed/segmentation')
    with world.start('segment_node', 'packed', model_path=tiny_model,
                     image_transport='compressed', max_image_age=0.0) as node:
        camera = world.camera('packed', CompressedImage)
        image = picture(64, 128, (20, 20, 20), (108, 108, 108))
        limit = time.monotonic() + PATIENCE
        while not outputs.items and time.monotonic() < limit:
            camera.publish(jpeg(image, Header(stamp=world.now()), 95))
            time.sleep(0.1)
        labels = plane(outputs.messages[0])
        assert labels[0, 0] == 2 and labels[0, -1] == 13
        broken = jpeg(image, Header(stamp=world.now()), 95)
        broken.data = broken.data[:-20]
        camera.publish(broken)
        node.wait_for_text('cut short')
        world.remove(camera)
