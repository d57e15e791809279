# SPDX-License-Identifier: Apache-2.0
"""Services that do one thing when they are called, and say what came of it."""

from __future__ import annotations

from collections.abc import Callable

from dgtl_core.predictor import ModelError
from dgtl_ros.printable import printable
from rclpy.node import Node
from std_srvs.srv import Trigger


def offer(node: Node, name: str, work: Callable[[], str]) -> None:
    """Offer a service; its message is what ``work`` returns or, where it fails, what it raises."""
    def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = work()
        except (ModelError, OSError, RuntimeError) as error:
            response.success, response.message = False, printable(error)
        else:
            response.success = True
        return response

    node.create_service(Trigger, name, answer)
