# SPDX-License-Identifier: Apache-2.0
"""The adapter of tf, with a stand-in that has the signatures of tf2_ros_py."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from builtin_interfaces.msg import Time as Stamp
from dgtl_core.points import transform_of
from dgtl_ros.points import transforms
from dgtl_ros.points.label_points import LabelPoints
from dgtl_ros.points.transforms import TfTransforms, TransformError
import rclpy
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.time import Time

pytestmark = pytest.mark.ros


class TransformException(Exception):
    """All exceptions of tf2_py are kinds of it."""


class ExtrapolationException(TransformException):
    """The time is not one that the buffer knows."""


class Buffer:
    """Knows the way from lidar to camera from second 5 on."""

    def __init__(self, cache_time=None, node=None):
        self.asked, self.cleared = [], 0

    def clear(self):
        self.cleared += 1

    def lookup_transform(self, target_frame, source_frame, time, timeout=Duration()):  # noqa: B008
        assert isinstance(time, Time) and isinstance(timeout, Duration)
        self.asked.append((target_frame, source_frame, time.nanoseconds, timeout.nanoseconds))
        if time.nanoseconds < 5_000_000_000:
            raise ExtrapolationException('requires extrapolation into the past')
        return SimpleNamespace(transform=SimpleNamespace(  # geometry_msgs/TransformStamped
            translation=SimpleNamespace(x=1.0, y=2.0, z=3.0),
            rotation=SimpleNamespace(x=0.5, y=-0.5, z=0.5, w=0.5)))


class TransformListener:
    def __init__(self, buffer, node, *, spin_thread=False, qos=None, static_qos=None,
                 tf_topic='/tf', tf_static_topic='/tf_static'):
        assert isinstance(buffer, Buffer)
        LISTENERS.append(self)


LISTENERS = []


@pytest.fixture
def node(monkeypatch):
    """Return what makes a real label_points, with the stand-in for tf."""
    monkeypatch.setattr(transforms, 'tf2_ros', SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener,
        TransformException=TransformException))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    LISTENERS.clear()
    rclpy.init(args=['--ros-args', '-p', 'autostart:=false', '-p', 'source:=lidar',
                     '-p', 'use_sim_time:=true'])
    node = LabelPoints(lambda code: None)
    yield node
    node.stop(1.0)
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def look(node):
    return TfTransforms(node)


def test_the_transform_at_the_time_of_the_points_is_asked_for(look):
    found = look('camera', 'lidar', Stamp(sec=7, nanosec=500))
    np.testing.assert_allclose(found, transform_of([1, 2, 3, 0.5, -0.5, 0.5, 0.5]))
    assert look._buffer.asked == [('camera', 'lidar', 7_000_000_500, 100_000_000)]
    np.testing.assert_array_equal(look('camera', 'camera', Stamp()), np.eye(4))


def test_what_tf_does_not_know_is_said_with_the_next_step(look):
    with pytest.raises(TransformError, match=r"no way from 'lidar' to 'camera'.*extrapolation"):
        look('camera', 'lidar', Stamp(sec=1))


def test_one_listener_is_enough_for_a_node(node):
    for _ in range(3):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert len(LISTENERS) == 1


def test_what_is_known_is_forgotten_when_the_time_jumps_back(node, look):
    clock = node.get_clock()
    for seconds, cleared in ((100, 0), (101, 0), (5, 1), (6, 1)):
        clock.set_ros_time_override(Time(seconds=seconds, clock_type=clock.clock_type))
        assert look._buffer.cleared == cleared


def test_without_tf_there_is_the_parameter(monkeypatch):
    monkeypatch.setattr(transforms, 'tf2_ros', None)
    with pytest.raises(TransformError, match='parameter extrinsic'):
        TfTransforms(SimpleNamespace())
