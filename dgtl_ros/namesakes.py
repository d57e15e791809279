# SPDX-License-Identifier: Apache-2.0
"""Find other nodes that have our name: both answer to services and publish on one topic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

_LEASE_S = 25.0  # for so long the graph shows a node whose process was killed


class Namesakes:
    """Counts the nodes with the name of ``node``; ``count`` is what was found last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._alone = time.monotonic()  # when there was none
        self.count = 0

    def look(self) -> None:
        """Count, and log where there are more than before."""
        node, now = self._node, time.monotonic()
        me = node.get_name(), node.get_namespace()
        count = node.get_node_names_and_namespaces().count(me) - 1
        if count < 1:
            self._alone = now
        if now - self._alone < _LEASE_S:
            count = 0
        if count > self.count:
            node.get_logger().warning(
                f'another node is called {node.get_fully_qualified_name()} too: give each a name '
                'or a namespace of its own')
        self.count = count
