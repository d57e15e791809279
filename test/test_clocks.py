# SPDX-License-Identifier: Apache-2.0
"""Clocks that stand, jump forwards or run back; the clock of ROS is one that a test can set."""

import ast
from pathlib import Path
import signal
import time

import dgtl_ros
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from builtin_interfaces.msg import Time
from ros_world import Link, PATIENCE, picture, plane, qos
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

pytestmark = pytest.mark.ros
PACKAGE = Path(dgtl_ros.__file__).parent


@pytest.fixture
def link(world, tiny_model):
    """The node on simulated time; nobody publishes any yet."""
    running = world.start('segment_node', 'clock', model_path=tiny_model, use_sim_time=True,
                          max_image_age=0.5)
    link = Link(world, 'clock', running)
    yield link
    link.close()
    assert running.signal(signal.SIGINT)[0] == 0, running.text()


def at(seconds):
    return Time(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))


def test_without_a_clock_the_node_starts_and_labels(link):
    """It stands at zero, so every stamp is one of the future."""
    assert plane(link.answer(picture()))[0, 0] == 2
    status = link.world.task('clock', 'input', lambda v: int(v['stamp_in_future']) > 0)[0]
    assert 'nobody publishes /clock' in status.message


def test_a_clock_that_jumps_makes_pictures_old_or_early_and_stops_nothing(link):
    world = link.world
    link.answer(picture())
    clock = world.node.create_publisher(Clock, '/clock', qos(True, False, 5))

    def now_is(seconds):
        """Set the clock, until the node's diagnostics have that time."""
        limit = time.monotonic() + PATIENCE
        while world.diagnostics.messages[-1].header.stamp != at(seconds):
            assert time.monotonic() < limit
            clock.publish(Clock(clock=at(seconds)))
            time.sleep(0.1)

    def sent(seconds):
        stamp = at(seconds)
        link.send(picture(), Header(frame_id='camera', stamp=stamp))
        return stamp.sec, stamp.nanosec

    now_is(1000.0)
    assert link.labels.with_stamp(sent(999.9))
    now_is(4600.0)  # an hour on: what was on its way is old
    before = world.task('clock', 'input')[1]['dropped_stale']
    sent(1000.1)
    world.task('clock', 'input', lambda v: int(v['dropped_stale']) == int(before) + 1)
    assert link.labels.with_stamp(sent(4599.9))
    now_is(10.0)  # a bag begins again
    assert link.labels.with_stamp(sent(9.9))
    values = world.task('clock', 'input', lambda v: int(v['out_of_order']) >= 1)[1]
    assert int(values['received']) > 0 and 'Traceback' not in link.running.text()
    world.remove(clock)


def test_no_duration_of_the_node_is_taken_from_the_time_of_day():
    """Timeouts and rates come from the steady clock; watchdog.py tells people since when."""
    files = {*PACKAGE.glob('*.py'), *PACKAGE.glob('points/*.py')} - {PACKAGE / 'watchdog.py'}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ''
            assert name not in ('time.time', 'time.time_ns', 'datetime.now'), path
