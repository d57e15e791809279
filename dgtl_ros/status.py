# SPDX-License-Identifier: Apache-2.0
"""One line of the diagnostics, and the messages that carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dgtl_ros.printable import printable
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

OK, WARN, ERROR = 0, 1, 2


class Status(NamedTuple):
    """A task of a node, how it does, and its figures."""

    task: str
    level: int
    message: str
    values: Mapping[str, object]


def to_message(found: list[Status], node: str, hardware: str, stamp: object) -> DiagnosticArray:
    """Build the message; ``node``, the fully qualified name, comes before each task."""
    array = DiagnosticArray()
    array.header.stamp = stamp
    array.status.extend(status_message(status, node, hardware) for status in found)
    return array


def status_message(status: Status, node: str, hardware: str = '') -> DiagnosticStatus:
    """Build the message of one status; ``node`` comes before its task."""
    return DiagnosticStatus(
        name=f'{node}: {status.task}', level=bytes([status.level]),
        message=printable(status.message), hardware_id=printable(hardware),
        values=[KeyValue(key=k, value=_text(v)) for k, v in status.values.items()])


def _text(value: object) -> str:
    return f'{value:.4g}' if isinstance(value, float) else printable(value)
