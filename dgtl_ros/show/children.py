# SPDX-License-Identifier: Apache-2.0
"""Start nodes of ours as processes which see each other and nobody else, and end them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

from dgtl_core.engine.child import tied
from dgtl_ros.dds_profile import config_file, PROFILE, profile_variable

# Robots and people use 0-101. The ports of 102-214 are among those that Linux hands out to any
# program, so those domains come last.
_DOMAINS = (*range(215, 233), *range(102, 215))


class ChildError(RuntimeError):
    """A process that was needed is gone."""


def isolated_environment(domain: int | None = None) -> dict[str, str]:
    """
    Return the environment variables of a small ROS world of its own on this machine.

    Discovery stays on this machine, nobody else is in the domain, and Fast DDS gets enough shared
    memory for pictures.

    :param domain: ROS_DOMAIN_ID; None: one that is free, and stays ours until this process ends.
    :raises ChildError: no domain is free.
    """
    values = {
        'ROS_DOMAIN_ID': str(free_domain()[0] if domain is None else domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        profile_variable(): str(config_file(PROFILE)),
        'PYTHONUNBUFFERED': '1'}
    if os.environ.get('ROS_DISTRO') == 'humble':  # newer ones warn about this variable
        values['ROS_LOCALHOST_ONLY'] = '1'
    return values


@cache
def free_domain() -> tuple[int, socket.socket]:
    """
    Return a ROS domain that is free on this machine, and the lock on it, which ends with us.

    The lock is the TCP port with the number of the domain's discovery port, which DDS itself uses
    with UDP: whoever asks for a domain in this way gets another one. One for each process.

    :raises ChildError: all of them are taken.
    """
    for domain in _DOMAINS:
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(('127.0.0.1', _discovery_port(domain)))
            for port in (_discovery_port(domain), _discovery_port(domain) + 10):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(('', port))  # fails where a participant listens
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise ChildError(
        f'all ROS domains from {min(_DOMAINS)} to {max(_DOMAINS)} are in use on this machine; end '
        'the ROS programs and tests that still run in them')


def _discovery_port(domain: int) -> int:
    """Return the UDP port of a domain that every participant listens to (RTPS 2.5, 9.6.2.3)."""
    return 7400 + 250 * domain


class Child:
    """
    A running module of ours; also a context manager, which ends it. It does not outlive us.

    :param module: such as ``dgtl_ros.segment_node``.
    :param environment: variables on top of our own.
    :param output: where stdout and stderr go together; None: to ours.
    """

    def __init__(self, module: str, arguments: Iterable[str], environment: Mapping[str, str],
                 output: int | None = None) -> None:
        self.name = module.rpartition('.')[2]
        variables = {**os.environ, **environment}
        root = Path(__file__).resolve().parents[2]
        if root.name not in ('site-packages', 'dist-packages'):  # not installed: say where we are
            variables['PYTHONPATH'] = os.pathsep.join(
                filter(None, [variables.get('PYTHONPATH'), str(root)]))
        self.process = subprocess.Popen(
            [*tied(), sys.executable, '-m', module, *arguments], env=variables,
            stdin=subprocess.DEVNULL, stdout=output,
            stderr=None if output is None else subprocess.STDOUT)

    def __enter__(self) -> Child:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        end([self])

    def check(self) -> None:
        """
        Make sure that the process runs, or ended as it should.

        :raises ChildError: it ended with a fault.
        """
        code = self.process.poll()
        if code:
            raise ChildError(f'{self.name} ended with exit code {code}; see its message above')


def end(children: Iterable[Child], timeout: float = 3.0) -> None:
    """Ask all processes to end, together, and make those that do not within ``timeout`` s."""
    running = [c.process for c in children if c.process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    limit = time.monotonic() + timeout
    for process in running:
        try:
            process.wait(max(limit - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
