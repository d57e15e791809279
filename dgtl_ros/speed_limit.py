# SPDX-License-Identifier: Apache-2.0
"""Tell Nav2 to drive slower, where its messages are installed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dgtl_ros.qos import publisher_overrides
from rclpy.qos import QoSProfile

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher

try:
    from nav2_msgs.msg import SpeedLimit
except ImportError:  # it comes with Nav2
    SpeedLimit = None

_AGAIN_S = 1.0  # between two messages while slow: a controller that starts late hears them
FULL = 100.0    # percent
_NO_LIMIT = 0.0  # nav2_costmap_2d's NO_SPEED_LIMIT


class SpeedLimiter:
    """The topic ``speed_limit`` of a node: the least of what its cameras ask for."""

    message: type | None = SpeedLimit  # None: nav2_msgs is not installed

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: dict[str, float] = {}
        self._told, self._told_at = FULL, -math.inf
        self._publisher: Publisher | None = None
        if self.message is not None:
            self._publisher = node.create_publisher(
                self.message, 'speed_limit', QoSProfile(depth=10),
                qos_overriding_options=publisher_overrides(node, 'speed_limit'))

    def forget(self) -> None:
        """Wait for what the cameras of another configuration ask for."""
        self._asked.clear()

    def ask(self, camera: str, percent: float, now: float) -> None:
        """
        Ask for a share of the greatest speed; 100: for no limit.

        Nothing is published until a limit is asked for, so that those of others hold.

        :param now: by the steady clock.
        """
        self._asked[camera] = percent
        least = min(self._asked.values())
        again = least < FULL and now - self._told_at >= _AGAIN_S
        if self.message is None or self._publisher is None or not (again or least != self._told):
            return
        self._told, self._told_at = least, now
        message = self.message(
            percentage=True, speed_limit=least if least < FULL else _NO_LIMIT)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
