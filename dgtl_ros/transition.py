# SPDX-License-Identifier: Apache-2.0
"""Lifecycle callbacks whose faults are seen; rclpy would swallow what they raise."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
import traceback
from typing import Protocol, TYPE_CHECKING, TypeVar

from dgtl_core.predictor import ModelError
from dgtl_ros.parameters import ParameterError
from dgtl_ros.printable import described, printable
from rclpy.lifecycle import TransitionCallbackReturn

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger


class DroppedError(RuntimeError):
    """The model had to be dropped, so the node goes on unconfigured; the text says why."""


class Reporting(Protocol):
    """A node that shows its last fault in the diagnostics."""

    model_error: str

    def get_logger(self) -> RcutilsLogger:
        """Return the node's logger."""


N = TypeVar('N', bound=Reporting)


def guarded(method: Callable[[N], None]) -> Callable[..., TransitionCallbackReturn]:
    """Make a lifecycle callback of a method: what it raises is logged and fails the transition."""
    name = method.__name__.removeprefix('on_')

    @wraps(method)
    def callback(self: N, _: object) -> TransitionCallbackReturn:
        try:
            method(self)
        except (ModelError, ParameterError) as error:  # the message is made for the user
            self.model_error = printable(error)
            self.get_logger().error(f'cannot {name}: {self.model_error}')
            return TransitionCallbackReturn.FAILURE
        except DroppedError as error:
            self.model_error = printable(error)
            self.get_logger().error(self.model_error)
            return TransitionCallbackReturn.ERROR
        except Exception as error:
            self.model_error = described(error)
            self.get_logger().error(f'cannot {name}:\n{printable(traceback.format_exc())}')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return callback


def started(node: Reporting, *triggers: Callable[[], TransitionCallbackReturn]) -> bool:
    """Make transitions one after the other; return whether all went well, and say it if not."""
    if all(trigger() == TransitionCallbackReturn.SUCCESS for trigger in triggers):
        return True
    node.get_logger().fatal('cannot start; see the error above')
    return False
