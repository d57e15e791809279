# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one node, as a process."""

import json
from pathlib import Path
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_ros.image_codec import rgb8
from ros_world import PATIENCE, picture, plane, slow_model, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import Trigger
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros
PICTURES = {'front': picture(48, 96), 'rear': picture(20, 30, (0, 1, 2), (40, 90, 7))}


class Rig:
    """Two cameras, the node, and what it answers."""

    def __init__(self, world, space, **parameters):
        self.world, self.space = world, space
        self.running = world.start('segment_node', space, '--ros-args', '-p',
                                   "cameras:=['front', 'rear']", **parameters)
        self.cameras = {name: world.camera(f'{space}/{name}') for name in PICTURES}
        self.labels = {
            name: world.listen(Image, f'/{space}/{name}/segmentation') for name in PICTURES}

    def send(self, name):
        header = Header(frame_id=name, stamp=self.world.now())
        self.cameras[name].publish(rgb8(PICTURES[name], header))
        return header.stamp.sec, header.stamp.nanosec

    def until(self, condition, *names, pause=0.1):
        """Send pictures of some cameras until the condition holds; return the stamps."""
        limit, sent = time.monotonic() + PATIENCE, []
        while not condition():
            assert time.monotonic() < limit, self.running.text()
            sent += [self.send(name) for name in names]
            time.sleep(pause)
        return sent

    def matched(self):
        """Wait until both cameras are heard."""
        self.until(lambda: all(inbox.items for inbox in self.labels.values()), *PICTURES)
        time.sleep(0.3)


@pytest.fixture(scope='module')
def rig(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp('rig')
    model = write_tiny_onnx(folder / 'tiny.onnx', batch='B')
    rig = Rig(world, 'rig', model_path=model, max_batch_size=4, raw_subscription=True,
              input_timeout=1.0, snapshot_dir=folder / 'snapshots', max_image_age=0.0)
    rig.matched()
    return rig


def test_each_camera_has_its_labels_with_its_own_header_and_size(rig):
    sent = {name: rig.send(name) for name in PICTURES}
    for name, expected in (('front', (2, 13)), ('rear', (0, 5))):
        message = rig.labels[name].with_stamp(sent[name])
        assert message.header.frame_id == name
        assert plane(message).shape == PICTURES[name].shape[:2]
        assert (plane(message)[0, 0], plane(message)[0, -1]) == expected
    classes = rig.world.listen(String, '/rig/rear/segmentation/class_map', latched=True)
    assert len(json.loads(classes.wait(bool).data)) == 19
    # Nothing where one camera alone would have it.
    assert not rig.world.node.count_publishers('/rig/segmentation')
    assert rig.world.node.count_publishers('/rig/front/segmentation') == 1


def test_debug_topics_and_snapshots_are_per_camera(rig):
    times = rig.world.listen(Float64, '/rig/segmenter/debug/rear/processing_time_ms')
    rig.until(lambda: times.items, *PICTURES)
    answer = rig.world.call(Trigger, '/rig/segmenter/snapshot', Trigger.Request())
    folders = [Path(line) for line in answer.message.splitlines()]
    assert answer.success and [f.parent.name for f in folders] == list(PICTURES)
    for folder in folders:
        assert json.loads((folder / 'statistics.json').read_text())['counts']['published'] > 0


def test_a_camera_that_dies_is_reported_and_the_other_goes_on(rig):
    start = len(rig.world.diagnostics.items)

    def dead():
        """Return what the rear is said to have, where the front is said to be well."""
        for array, _ in rig.world.diagnostics.items[start:]:
            found = {s.name.partition(': ')[2]: s for s in array.status}
            if 'input rear' in found and found['input rear'].level == b'\x02':
                assert found['input front'].level < b'\x02', found['input front'].message
                return found['input rear'].message
        return ''

    limit = time.monotonic() + PATIENCE
    while not dead():
        assert time.monotonic() < limit, 'the rear is not missed'
        rig.labels['front'].with_stamp(rig.send('front'))
        time.sleep(0.05)
    assert 'no picture on /rig/rear/image' in dead()
    assert rig.world.task('rig', 'inference front')[1]['batch'] == '2'
    before = len(rig.labels['rear'].items)
    rig.until(lambda: len(rig.labels['rear'].items) > before, 'rear')


def test_overload_by_one_camera_leaves_the_other_its_share(world, tmp_path):
    """One camera floods a slow model that takes one picture at a time, one sends now and then."""
    rig = Rig(world, 'busy', model_path=slow_model(tmp_path / 'slow.onnx', 0.1),
              max_image_age=0.0, warmup_iterations=1)
    rig.matched()
    stop = threading.Event()

    def flood():
        while not stop.wait(0.02):
            rig.send('front')

    def answered(name):
        return [stamp_of(m) for m in rig.labels[name].messages]

    flooding = threading.Thread(target=flood)
    flooding.start()
    others = []
    try:
        for _ in range(6):
            before = len(answered('front'))
            rig.labels['rear'].with_stamp(rig.send('rear'))
            others.append(len(answered('front')) - before)
        counts = world.task('busy', 'input front')[1]
    finally:
        stop.set()
        flooding.join()
    # The inference that is running, one of the other camera, and what was on its way.
    assert np.median(others) <= 3, others
    assert int(counts['dropped_superseded']) > 0, 'the model is too fast for this test'
