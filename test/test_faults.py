# SPDX-License-Identifier: Apache-2.0
"""Faults on demand, over a real DDS: what is published, counted and said, and what comes after."""

from contextlib import suppress
import os
from pathlib import Path
import shutil
import signal
import threading
import time
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_ros.health import OUTCOMES
from lifecycle_msgs.srv import ChangeState
from ros_world import Link, PATIENCE, picture, plane, stamp_of
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'
TEST = Path(__file__).resolve().parent


class Faulty:
    """The node with a scripted backend."""

    def __init__(self, world, tmp_path, space, tiny_model, *arguments, **parameters):
        self.world, self.space, self._script = world, space, tmp_path / f'{space}.script'
        self.tell('fine')
        path = os.pathsep.join(filter(None, [str(TEST), os.environ.get('PYTHONPATH', '')]))
        self.running = world.start(
            'fake_backend', space, *arguments, package='',
            extra={'FAKE_SCRIPT': str(self._script), 'PYTHONPATH': path},
            **{'model_path': tiny_model, 'max_image_age': 0.0, 'warmup_iterations': 0,
               **parameters})

    def tell(self, words):
        part = self._script.with_suffix('.part')
        part.write_text(words, encoding='utf-8')
        os.replace(part, self._script)

    def status(self, task, level, words=''):
        """Wait for a status of this level whose message holds the words."""
        seen, found = len(self.world.diagnostics.items), []

        def right(array):
            for status in array.status:
                if status.name == f'/{self.space}/segmenter: {task}':
                    found.append((status.level, status.message))
                    if status.level == level and words in status.message:
                        return True
            return False

        try:
            array = self.world.diagnostics.wait(right, PATIENCE, seen)
        except AssertionError:
            raise AssertionError(f'{found}\n{self.running.text()}') from None
        return next(s for s in array.status if s.name == f'/{self.space}/segmenter: {task}')

    def last(self, task):
        """Return the newest message of a status."""
        name = f'/{self.space}/segmenter: {task}'
        found = [s.message for array in self.world.diagnostics.messages for s in array.status
                 if s.name == name]
        return found[-1] if found else ''

    def account(self, camera=''):
        """Return the counters, once nothing is on its way."""
        names = {f'/{self.space}/segmenter: {task} {camera}'.strip()
                 for task in ('input', 'inference', 'output')}

        def idle(array):
            found = {v.key: v.value for s in array.status if s.name in names for v in s.values}
            return found if found.get('waiting') == '0' else None

        values = idle(self.world.diagnostics.wait(
            idle, PATIENCE, len(self.world.diagnostics.items)))
        counts = {name: int(values[name]) for name in ('received', *OUTCOMES)}
        assert counts['received'] == sum(counts[name] for name in OUTCOMES), counts
        return counts


@pytest.fixture(scope='module')
def make(world, tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp('faults')
    return lambda space, *arguments, **parameters: Faulty(
        world, folder, space, tiny_model, *arguments, **parameters)


@pytest.fixture(scope='module')
def node(make, world):
    faulty = make('faulty', inference_timeout=1.0)
    link = Link(world, 'faulty', faulty.running)
    link.answer(picture())
    yield faulty, link
    link.close()
    assert faulty.running.signal(signal.SIGINT)[0] == 0, faulty.running.text()


def right(message):
    labels = plane(message)
    return labels[0, 0] == 2 and labels[0, -1] == 13


# --- the backend ---------------------------------------------------------------------------------


@pytest.mark.parametrize('words, said', [
    ('memory', 'MemoryError: the GPU is full'), ('garbage', ''),
    ('raise no kernel \\ud800 for \\x00 node 7', 'no kernel \\ud800 for \\x00 node 7')])
def test_a_fault_of_the_backend_is_counted_and_the_next_picture_is_right(node, words, said):
    faulty, link = node
    link.world.call(Trigger, '/faulty/segmenter/reset_stats', Trigger.Request())
    faulty.tell(words)
    outcome = 'unpublished' if words == 'garbage' else 'errors_total'
    task = 'output' if words == 'garbage' else 'inference'
    status, sent = None, 0
    while status is None:  # on a busy machine a picture may be lost, or too old
        assert sent < PATIENCE / 3, faulty.running.text()
        link.send(picture())
        sent += 1
        with suppress(AssertionError):
            status = link.world.task('faulty', task, lambda v: int(v[outcome]) > 0, 3)[0]
    assert status.level == WARN and said in status.message
    faulty.tell('fine')
    assert right(link.answer(picture()))
    assert right(link.answer(picture()))
    assert 0 < faulty.account()[outcome] <= sent
    faulty.status('inference', OK)


def test_an_inference_that_hangs_is_an_error_that_says_since_when(node):
    faulty, link = node
    faulty.tell('hang')
    stop, numbers = threading.Event(), []

    def film():
        while not stop.wait(0.05):
            numbers.append(link.send(picture()))

    filming = threading.Thread(target=film)
    filming.start()
    try:
        status = faulty.status('inference', ERROR, 'the inference has been running for')
        assert ', since ' in status.message and 'on_timeout is "report"' in status.message
        faulty.status('output', ERROR, 'no labels, and pictures come at')
        faulty.status('input', WARN, 'wait for what hangs')
        faulty.running.wait_for_text('the inference has been running for')
    finally:
        stop.set()
        filming.join()
        faulty.tell('fine')
    assert right(link.answer(picture()))
    faulty.status('output', OK)
    assert faulty.account()['dropped_superseded'] > 0


def test_a_backend_that_hangs_is_restarted_if_told(make, world):
    faulty = make('restart', inference_timeout=1.0, on_timeout='restart')
    with faulty.running as running:
        link = Link(world, 'restart', running)
        link.answer(picture())
        faulty.tell('hang')
        link.send(picture())
        running.wait_for_text('on_timeout is "restart"')
        faulty.tell('fine')
        assert right(link.answer(picture()))
        assert world.state('restart') == 'active'
        assert faulty.account()['published'] > 0
        link.close()


def test_a_restart_without_a_model_file_can_be_mended(make, world, tmp_path, tiny_model):
    model = tmp_path / 'model.onnx'
    shutil.copy(tiny_model, model)
    faulty = make('gone', inference_timeout=1.0, on_timeout='restart', model_path=model)
    with faulty.running as running:
        link = Link(world, 'gone', running)
        link.answer(picture())
        model.unlink()
        faulty.tell('hang')
        link.send(picture())
        running.wait_for_text('the model cannot be loaded again: no model file at')
        faulty.status('model', ERROR, 'the model cannot be loaded again')
        faulty.tell('fine')
        shutil.copy(tiny_model, model)
        assert world.state('gone') == 'unconfigured'
        assert world.change_state('gone', 'configure', 'activate')
        assert right(link.answer(picture()))
        assert 'Traceback' not in running.text()
        link.close()


def test_a_process_that_hangs_ends_for_respawn_if_told(make, world):
    faulty = make('exit', inference_timeout=1.0, on_timeout='exit')
    link = Link(world, 'exit', faulty.running)
    link.answer(picture())
    faulty.tell('hang')
    link.send(picture())
    code, text = faulty.running.ends()
    assert code == 1 and 'on_timeout is "exit"' in text
    link.close()


def test_a_process_that_was_stopped_for_a_while_is_not_taken_for_one_that_hangs(make, world):
    faulty = make('paused', inference_timeout=1.0, on_timeout='exit')
    with faulty.running as running:
        link = Link(world, 'paused', running)
        link.answer(picture())
        faulty.tell('sleep 0.3')
        link.send(picture())
        time.sleep(0.1)
        running.process.send_signal(signal.SIGSTOP)
        for _ in range(20):
            link.send(picture())
            time.sleep(0.1)
        running.process.send_signal(signal.SIGCONT)
        faulty.tell('fine')
        assert right(link.answer(picture()))
        assert running.process.poll() is None
        faulty.account()
        link.close()


# --- the middleware ------------------------------------------------------------------------------


def test_what_the_middleware_replaced_is_counted(node):
    """Two pictures at once, and a depth of one: the second takes the place of the first."""
    faulty, link = node
    link.world.call(Trigger, '/faulty/segmenter/reset_stats', Trigger.Request())
    for _ in range(30):
        link.send(picture())
        link.send(picture())
        time.sleep(0.03)

    def account(values):
        return int(values['received']) + int(values['not_delivered'])

    values = link.world.task('faulty', 'input', lambda v: account(v) >= 59)[1]
    assert account(values) <= 60 and int(values['not_delivered']) > 0, values


def test_a_subscriber_that_gets_nothing_is_named(make, world):
    faulty = make('unheard', qos__output__reliability='best_effort')
    with faulty.running as running:
        link = Link(world, 'unheard', running)  # asks for reliable labels
        faulty.status('model', OK)
        limit = time.monotonic() + PATIENCE
        while 'asks for another RELIABILITY' not in faulty.last('output'):
            assert time.monotonic() < limit, faulty.last('output')
            link.send(picture())
            time.sleep(0.1)
        link.close()


# --- one camera and the other --------------------------------------------------------------------


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


# --- the graph -----------------------------------------------------------------------------------


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


def test_kills_do_not_pile_up_shared_memory(make, world):
    sizes = []
    for number in range(4):
        faulty = make(f'killed{number}')
        link = Link(world, f'killed{number}', faulty.running)
        assert right(link.answer(picture()))
        link.close()
        faulty.running.process.kill()
        faulty.running.process.wait()
        sizes.append(len([name for name in os.listdir('/dev/shm') if 'fastdds' in name]))
    assert sizes[-1] <= sizes[0] + 12, sizes  # what one killed process leaves, not three
