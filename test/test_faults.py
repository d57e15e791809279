# SPDX-License-Identifier: Apache-2.0
"""Faults on demand, over a real DDS: of the backend, the middleware and the process."""

from contextlib import suppress
import os
from pathlib import Path
import re
import shutil
import signal
import threading
import time

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from faulty_node import faulty_nodes, right
from ros_world import Link, PATIENCE, picture
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture(scope='module')
def make(world, tmp_path_factory, tiny_model):
    return faulty_nodes(world, tmp_path_factory, tiny_model)


@pytest.fixture(scope='module')
def node(make, world):
    faulty = make('faulty', inference_timeout=1.0)
    link = Link(world, 'faulty', faulty.running)
    link.answer(picture())
    yield faulty, link
    link.close()
    assert faulty.running.signal(signal.SIGINT)[0] == 0, faulty.running.text()


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
        faulty.status('output', ERROR, 'no labels for')
        faulty.status('domain', WARN, 'no picture is judged')
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
        world.remove_listener(link.labels)
        limit = time.monotonic() + PATIENCE
        while 'RELIABILITY' in faulty.last('output'):
            assert time.monotonic() < limit, 'it is gone, and still complained of'
            link.send(picture())
            time.sleep(0.1)
        link.close()


def test_kills_do_not_pile_up_shared_memory(make, world):
    abandoned = []
    for number in range(3):
        faulty = make(f'killed{number}')
        link = Link(world, f'killed{number}', faulty.running)
        assert right(link.answer(picture()))
        link.close()
        assert not [path for path in abandoned if os.path.exists(path)]
        opened = Path(f'/proc/{faulty.running.process.pid}/fd').iterdir()
        abandoned = [path for path in map(os.path.realpath, opened)  # that its owner keeps open
                     if re.fullmatch(r'/dev/shm/fast(dds|rtps)_[0-9a-f]{16}_el', path)]
        faulty.running.process.kill()
        faulty.running.process.wait()
        assert abandoned
        abandoned += [path.removesuffix('_el') for path in abandoned]
