# SPDX-License-Identifier: Apache-2.0
"""
How a node's process starts, stays alive and ends.

The main thread only waits, so a signal is answered at once whatever the others do: callbacks run
in one thread of their own, inference in another.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
from typing import cast, Protocol

from dgtl_ros.dds_profile import choose
from dgtl_ros.parameters import ParameterError
from dgtl_ros.printable import complain, printable
from dgtl_ros.shared_memory import remove_abandoned
import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

_GRACE = 0.7  # seconds that each thread gets to end; all of it must stay below 2 s
_STOP = 5.0  # seconds after which all stacks are written and the process ends with code 1
# glibc gives large blocks back to the kernel and asks for them again for every picture; the page
# faults cost more than copying the picture. And it gives each thread an arena of its own, each of
# which comes to hold as many pictures as there ever were at once: on a busy machine the node grew
# from 69 to 121 MiB within three minutes, and to 80 MiB with two arenas. mallopt's own numbers.
_MALLOPT = {'M_TRIM_THRESHOLD': (-1, 512 << 20), 'M_TOP_PAD': (-2, 64 << 20),
            'M_MMAP_THRESHOLD': (-3, 32 << 20), 'M_ARENA_MAX': (-8, 2)}


class RunningNode(Protocol):
    """What :func:`run` needs of a node, beside being an rclpy node."""

    def stop(self, timeout: float) -> bool:
        """End own threads; return whether they did within ``timeout`` seconds."""

    def destroy_node(self) -> None:
        """Leave the graph."""


def run(name: str, make_node: Callable[[Callable[[int], None]], RunningNode],
        args: list[str], dds_profile: str = 'large_images') -> int:
    """
    Run one node until SIGINT, SIGTERM or until it asks to end; return the exit code.

    :param make_node: makes the node; is given a function that ends the process with an exit code.
        A ParameterError raised here ends the process with code 2.
    :param args: command line with ``--ros-args``.
    :param dds_profile: what :func:`dgtl_ros.dds_profile.choose` takes.
    """
    requests: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() is safe in a handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: requests.put(0))
    keep_memory()
    freed = remove_abandoned()
    try:
        profile = choose(dds_profile)
    except FileNotFoundError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 2
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except UnicodeEncodeError:
        print(f'{name}: the command line has letters that the locale cannot express; set LC_ALL '
              'to C.UTF-8, or PYTHONUTF8 to 1', file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f'{name}: cannot start ROS: {str(error).strip()}; check --ros-args, the parameter '
              'file and that ROS_LOG_DIR (or ~/.ros/log) can be written', file=sys.stderr)
        return 2
    get_logger(name).info(printable(profile))
    if freed:
        get_logger(name).info(
            f'{freed / (1 << 20):.1f} MiB of shared memory removed, which killed processes left')
    try:
        node = make_node(requests.put)
    except (ParameterError, InvalidParameterTypeException) as error:  # ours, or use_sim_time
        get_logger(name).fatal(printable(error))
        rclpy.shutdown()
        return 2
    except RCLError as error:
        get_logger(name).fatal(
            f'cannot join the ROS graph: {printable(error)}; check RMW_IMPLEMENTATION, '
            'ROS_DOMAIN_ID and, where SROS 2 is on, ROS_SECURITY_KEYSTORE')
        rclpy.shutdown()
        return 2
    spinner = _Spinner(node, name)
    code = requests.get()
    # A middleware may hang while it is taken down, which no thread of ours could mend.
    faulthandler.dump_traceback_later(_STOP, exit=True)
    ended = node.stop(_GRACE)
    if not spinner.stop(_GRACE):  # in the middle of a callback, such as loading a model
        _leave(code)
    node.destroy_node()
    rclpy.shutdown()
    faulthandler.cancel_dump_traceback_later()
    if not ended:  # an inference that cannot be interrupted
        _leave(code)
    return code


def own_arguments(args: list[str]) -> list[str]:
    """Return the words of a command line that are not for ROS; what is wrong there, run says."""
    try:
        return list(remove_ros_args(args)[1:])
    except (RuntimeError, UnicodeEncodeError):
        return []


class _Spinner:
    """Runs a node's callbacks in a thread; what one of them raises is logged, not fatal."""

    def __init__(self, node: RunningNode, name: str) -> None:
        self._name = name
        self._done = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(cast(Node, node))
        self._thread = threading.Thread(target=self._run, name='callbacks', daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        self._done = True
        self._executor.create_task(lambda: None)  # a task ends the wait on every distribution
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self._executor.shutdown()  # before rclpy's: later it would print a traceback
        return True

    def _run(self) -> None:
        while not self._done and rclpy.ok():
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except Exception:  # rclpy re-raises whatever a callback or a broken message raised
                complain(f'{self._name}: a callback failed')


class Ticker:
    """
    Calls ``work`` every ``period`` seconds of the steady clock in a thread of its own.

    Unlike a ROS timer it goes on while a callback takes its time, such as loading a model.
    """

    def __init__(self, period: float, work: Callable[[], None]) -> None:
        self._period, self._work = period, work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='ticker', daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Tick no more; return whether the thread ended within ``timeout`` seconds."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._work()
            except Exception:  # the next tick may find what is missing now
                complain('a tick failed')


def keep_memory() -> None:
    """Let glibc keep the memory of a picture for the next one; elsewhere do nothing."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        for number, value in _MALLOPT.values():
            mallopt(number, value)


def _leave(code: int) -> None:
    """End although a thread is busy; the interpreter would wait for it, or crash with it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
