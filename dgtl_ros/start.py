# SPDX-License-Identifier: Apache-2.0
"""
The installed programs: a signal is answered from the first moment on.

Importing rclpy takes a second, in which Ctrl-C would be a traceback of Python.
"""

from __future__ import annotations

import os
import signal


def segment_node() -> int:
    """Run the segmentation node."""
    _answer_signals()
    from dgtl_ros.segment_node import main

    return main()


def label_points() -> int:
    """Run the node that labels points."""
    _answer_signals()
    from dgtl_ros.points.label_points import main

    return main()


def camera_player() -> int:
    """Run the player."""
    _answer_signals()
    from dgtl_ros.show.camera_player import main

    return main()


def _answer_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))  # nothing is open yet that could break
