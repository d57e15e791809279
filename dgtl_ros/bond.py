# SPDX-License-Identifier: Apache-2.0
"""The bond by which a lifecycle manager, such as Nav2's, notices that a node has died."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

try:
    from bondpy.bondpy import Bond
except ImportError:  # not among the wheels for machines without ROS
    Bond = None

_TOPIC = 'bond'      # what nav2_lifecycle_manager listens to
_PERIOD = 0.25       # seconds between two signs of life, as Nav2's own nodes give them
_TIMEOUT = 4.0       # seconds, likewise


class ManagerBond:
    """Gives signs of life of a node that is active and was activated by a manager."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._bond: Any = None

    def form(self) -> None:
        """Begin; without bondpy say what the manager has to be told."""
        self.end()
        if Bond is None:
            self._node.get_logger().info(
                'bondpy is not installed, so a lifecycle manager of Nav2 gets no bond: install it '
                '(sudo apt install ros-$ROS_DISTRO-bondpy), or set the bond_timeout of the '
                'manager to 0.0', once=True)
            return
        self._bond = Bond(self._node, _TOPIC, self._node.get_name())
        self._bond.set_heartbeat_period(_PERIOD)
        self._bond.set_heartbeat_timeout(_TIMEOUT)
        self._bond.start()

    def end(self) -> None:
        """Tell the manager that this is on purpose, and end; may be called again."""
        bond, self._bond = self._bond, None
        if bond is not None:
            bond.shutdown()
            # It destroys them behind the back of the node, whose executor falls over the rest.
            self._node.destroy_subscription(bond.sub)
            self._node.destroy_publisher(bond.pub)
