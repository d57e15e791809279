# SPDX-License-Identifier: Apache-2.0
"""The adapter of tf, with a stand-in that has the signatures of tf2_ros_py."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from builtin_interfaces.msg import Time as Stamp
from dgtl_core.points import transform_of
from dgtl_ros.points import transforms
from dgtl_ros.points.transforms import TfTransforms, TransformError
from rclpy.duration import Duration
from rclpy.time import Time

pytestmark = pytest.mark.ros


class TransformException(Exception):
    """All exceptions of tf2_py are kinds of it."""


class ExtrapolationException(TransformException):
    """The time is not one that the buffer knows."""


class Buffer:
    """Knows the way from lidar to camera from second 5 on."""

    def __init__(self, cache_time=None, node=None):
        assert node is not None, 'without a node it has the clock of the system'
        self.asked = []

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


@pytest.fixture
def look(monkeypatch):
    monkeypatch.setattr(transforms, 'tf2_ros', SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener,
        TransformException=TransformException))
    return TfTransforms(SimpleNamespace(name='node'))


def test_the_transform_at_the_time_of_the_points_is_asked_for(look):
    found = look('camera', 'lidar', Stamp(sec=7, nanosec=500))
    np.testing.assert_allclose(found, transform_of([1, 2, 3, 0.5, -0.5, 0.5, 0.5]))
    assert look._buffer.asked == [('camera', 'lidar', 7_000_000_500, 100_000_000)]
    np.testing.assert_array_equal(look('camera', 'camera', Stamp()), np.eye(4))


def test_what_tf_does_not_know_is_said_with_the_next_step(look):
    with pytest.raises(TransformError, match=r"no way from 'lidar' to 'camera'.*extrapolation"):
        look('camera', 'lidar', Stamp(sec=1))


def test_without_tf_there_is_the_parameter(monkeypatch):
    monkeypatch.setattr(transforms, 'tf2_ros', None)
    with pytest.raises(TransformError, match='parameter extrinsic'):
        TfTransforms(SimpleNamespace())
