# SPDX-License-Identifier: Apache-2.0
"""
Commands that other packages add, by an entry point of the group ``dgtl.commands``.

The name of the entry point is that of the command, its object a function that takes the arguments
behind the name (a list of str) and returns the exit code. So what needs ROS lives in ``dgtl_ros``
and is found from here, without an import.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

GROUP = 'dgtl.commands'


def external(name: str) -> Callable[[list[str]], int] | None:
    """
    Return the command of that name that an installed package adds; None: there is none.

    :raises ImportError: there is one, and what it needs is not installed.
    """
    for point in entry_points(group=GROUP, name=name):
        found: Callable[[list[str]], int] = point.load()
        return found
    return None
