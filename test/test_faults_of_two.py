# SPDX-License-Identifier: Apache-2.0
"""Faults on demand, over a real DDS: one camera and the other, two nodes, two clients."""

from pathlib import Path
import threading
import time
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from faulty_node import faulty_nodes, right
from lifecycle_msgs.srv import ChangeState
from ros_world import Link, PATIENCE, picture, stamp_of
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

pytestmark = pytest.mark.ros
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture(scope='module')
def make(world, tmp_path_factory, tiny_model):
    return faulty_nodes(world, tmp_path_factory, tiny_model)


class Pair:
    """Two cameras with compressed pictures, and what the node answers."""

    def __init__(self, make, world, space, **parameters):
        self.faulty = make(space, '--ros-args', '-p', "cameras:=['bad', 'good']",
                           image_transport='compressed', **parameters)
        self.world, self.space = world, space
        self.cameras = {n: world.camera(f'{space}/{n}', CompressedImage) for n in ('bad', 'good')}
        self.labels = {n: world.listen(Image, f'/{space}/{n}/segmentation') for n in self.cameras}
        limit = time.monotonic() + PATIENCE
        while not all(inbox.items for inbox in self.labels.values()):
            assert time.monotonic() < limit, self.faulty.running.text()
            for name in self.cameras:
                self.send(name)
            time.sleep(0.1)

    def send(self, name, data=None):
        if data is None:
            data = cv2.imencode('.png', picture()[:, :, ::-1])[1].tobytes()
        message = CompressedImage(format='png', header=Header(stamp=self.world.now()))
        message.data.frombytes(data)
        self.cameras[name].publish(message)
        return stamp_of(message)

    def answer_of_the_good_one(self):
        """Return how many seconds it took; a picture that is lost on a busy machine costs five."""
        start = time.monotonic()
        while time.monotonic() < start + PATIENCE:
            stamp = self.send('good')
            try:
                labels = self.labels['good'].with_stamp(stamp, 5)
            except AssertionError:
                continue
            assert right(labels)
            return time.monotonic() - start
        raise AssertionError(f'no answer:\n{self.faulty.running.text()}')

    def close(self):
        for camera in self.cameras.values():
            self.world.remove(camera)


def test_a_decoder_that_hangs_holds_up_its_own_camera_alone(make, world):
    forty = cv2.imencode('.png', np.zeros((40, 64, 3), np.uint8))[1].tobytes()
    pair = Pair(make, world, 'decoder', inference_timeout=1.0, on_timeout='restart')
    with pair.faulty.running as running:
        pair.faulty.tell('decoder')
        pair.send('bad', forty)
        assert min(pair.answer_of_the_good_one() for _ in range(5)) < 0.9
        running.wait_for_text('the decoder of /decoder/bad/image/compressed has been at one')
        # The thread that hangs is left to itself; the next picture is read by another.
        assert right(pair.labels['bad'].with_stamp(pair.send('bad')))
        assert pair.faulty.account('bad')['decode_errors'] == 1
        pair.faulty.tell('fine')
        pair.answer_of_the_good_one()
        pair.close()


def png_bomb():
    """Return 268 bytes, one chunk of which says that it has 4.3 GB."""
    def chunk(kind, data, length=None):
        body = kind + data
        return ((len(data) if length is None else length).to_bytes(4, 'big') + body
                + zlib.crc32(body).to_bytes(4, 'big'))

    start = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', bytes.fromhex('0000004000000040 0802000000'))
    data = start + chunk(b'IDAT', bytes(200), 0xfffffff0) + chunk(b'IEND', b'')
    return data + bytes(268 - len(data))


def progressive_bomb(side=8184, scans=150):
    """Return a progressive JPEG that has one scan again and again."""
    plain = cv2.imencode('.jpg', np.zeros((side, side), np.uint8), [
        cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    parts = plain.split(b'\xff\xda')
    shortest = min(parts[1:-1], key=len)
    return b'\xff\xda'.join([*parts[:-1], *[shortest] * scans, parts[-1]])


def test_bombs_cost_nothing_and_the_other_camera_does_not_notice(make, world):
    pair = Pair(make, world, 'bombs')
    with pair.faulty.running as running:
        before = resident(running.process.pid)
        calm = min(pair.answer_of_the_good_one() for _ in range(5))
        for number, bomb in enumerate((png_bomb(), progressive_bomb()), 1):
            pair.send('bad', bomb)
            assert pair.answer_of_the_good_one() < calm + 1.0
            world.task('bombs', 'input bad', lambda v, n=number: v['decode_errors'] == str(n))
        assert resident(running.process.pid) < before + 200e6
        assert right(pair.labels['bad'].with_stamp(pair.send('bad')))
        pair.faulty.account('bad')
        pair.close()


def resident(pid):
    """Return the largest resident memory a process had, in bytes."""
    status = Path(f'/proc/{pid}/status').read_text()
    return int(status.partition('VmHWM:')[2].split()[0]) * 1024


@pytest.mark.parametrize('transport, kind, published, words', [
    ('raw', CompressedImage, '/mixed/image', 'compressed image_topic:=/mixed/image (launch)'),
    ('raw', CompressedImage, '/mixed/image/compressed', 'compressed image_topic:=/mixed/image '),
    ('compressed', Image, '/mixed/image/compressed', 'raw image_topic:=/mixed/image/compressed '),
    ('compressed', Image, '/mixed/image', 'raw image_topic:=/mixed/image (launch)')])
def test_pictures_of_the_other_type_are_named_with_the_argument(
        make, world, transport, kind, published, words):
    camera = world.node.create_publisher(kind, published, 5)
    faulty = make('mixed', image_transport=transport, input_timeout=0.5)
    with faulty.running:
        status = faulty.status('input', ERROR, words)
        assert f'has sensor_msgs/msg/{kind.__name__}: use image_tr' in status.message
    world.remove(camera)


def test_two_nodes_with_one_name_say_so(make, world):
    with make('twins').running as first, make('twins').running as second:
        for running in (first, second):
            running.wait_for_text('another node is called /twins/segmenter too')
        limit = time.monotonic() + PATIENCE
        while 'have our name' not in world.task('twins', 'model')[0].message:
            assert time.monotonic() < limit


def test_transitions_from_two_clients_at_once_leave_a_node_that_works(make, world):
    faulty = make('edges2', autostart=False)
    labels = ('configure', 'activate', 'deactivate', 'cleanup')

    def go(seed):
        random = np.random.default_rng(seed)
        for _ in range(25):
            request = ChangeState.Request()
            request.transition.label = str(random.choice(labels))
            world.call(ChangeState, '/edges2/segmenter/change_state', request)

    with faulty.running as running:
        clients = [threading.Thread(target=go, args=[seed]) for seed in range(2)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive()
        for label in ('deactivate', 'cleanup', 'configure', 'activate'):
            world.change_state('edges2', label)
        assert world.state('edges2') == 'active'
        link = Link(world, 'edges2', running)
        assert right(link.answer(picture()))
        assert 'Traceback' not in running.text()
        link.close()
