# SPDX-License-Identifier: Apache-2.0
"""A node that takes part in the ROS world of others, spun by whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
import os
import time
from typing import TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

P = TypeVar('P', bound='Participant')


class Participant:
    """
    One node, which owns this process's ROS; a context manager that leaves the graph.

    :param environment: the variables of the ROS world to take part in.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def __enter__(self: P) -> P:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown()

    def spin(self, seconds: float) -> None:
        """Take in what comes, for at most that long."""
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)
