# SPDX-License-Identifier: Apache-2.0
"""Where the lidar is, seen from the camera: a parameter, or tf where it is installed."""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

from dgtl_core.points import transform_of
import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.time import Time

if TYPE_CHECKING:
    from rclpy.node import Node

try:
    import tf2_ros
except ImportError:  # not among the wheels for machines without ROS
    tf2_ros = None


_PATIENCE = 0.1  # seconds that a transform may come later than the points


class TransformError(RuntimeError):
    """There is no transform between two frames at a time; the text says why."""


class Transforms(Protocol):
    """What knows the transform from one frame into another."""

    def __call__(self, target: str, source: str, stamp: object) -> np.ndarray:
        """Return the (4, 4) transform of points; :raises TransformError: there is none."""


class StaticTransform:
    """One transform, whatever the frames are called."""

    def __init__(self, words: str) -> None:
        self._matrix = transform_of([float(word) for word in words.split()])

    def __call__(self, target: str, source: str, stamp: object) -> np.ndarray:
        """Return the transform."""
        return self._matrix


class TfTransforms:
    """
    Asks tf. It listens for as long as the node lives, so that one is enough.

    :raises TransformError: tf2_ros is not installed.
    """

    def __init__(self, node: Node) -> None:
        if tf2_ros is None:
            raise TransformError(
                'tf2_ros is not installed: install it (sudo apt install ros-$ROS_DISTRO-tf2-ros), '
                'or set the parameter extrinsic')
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        # When a bag begins again, what is known lies in the future and hides what comes. Humble's
        # buffer never forgets, and Jazzy's raised until October 2024 (geometry2#606 and #710).
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1),
                          on_clock_change=True),
            post_callback=lambda _: self._buffer.clear())

    def __call__(self, target: str, source: str, stamp: object) -> np.ndarray:
        """Look the transform up at the time of the points; not in the executor's thread."""
        if target == source:
            return np.eye(4)
        try:
            found = self._buffer.lookup_transform(
                target, source, Time.from_msg(stamp), Duration(seconds=_PATIENCE)).transform
        except tf2_ros.TransformException as error:
            raise TransformError(
                f'tf knows no way from {source!r} to {target!r} at the time of the points '
                f'({error}); start the robot_state_publisher, or set the parameter extrinsic'
            ) from None
        at, turn = found.translation, found.rotation
        return transform_of([at.x, at.y, at.z, turn.x, turn.y, turn.z, turn.w])
