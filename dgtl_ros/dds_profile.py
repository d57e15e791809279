# SPDX-License-Identifier: Apache-2.0
"""
How Fast DDS hands camera pictures over, chosen before ROS starts.

What counts is the setting of the process that publishes, and our nodes publish large pictures.
"""

from __future__ import annotations

from argparse import ArgumentParser
import contextlib
import importlib.metadata
import os
from pathlib import Path
import sys

PROFILE = 'fastdds_large_images.xml'
UDP = 'fastdds_udp.xml'
# Variables with which a user has chosen already how Fast DDS sends.
CHOICES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
           'FASTDDS_BUILTIN_TRANSPORTS')
# Files that Fast DDS reads from the working folder.
_FOUND_BY_ITSELF = ('DEFAULT_FASTDDS_PROFILES.xml', 'DEFAULT_FASTRTPS_PROFILES.xml')
_SEGMENT = 64 << 20  # bytes of the shared memory that PROFILE asks for
_SHARED_MEMORY = '/dev/shm'


def add_argument(parser: ArgumentParser) -> None:
    """Add ``--dds-profile`` to the command line of a node."""
    parser.add_argument(
        '--dds-profile', default='large_images', metavar='large_images|udp|none|FILE',
        help='how Fast DDS hands pictures over: in enough shared memory (the default, unless an '
        'environment variable of Fast DDS says something else), by UDP alone (for a camera of '
        'another user or in another container, which needs the same), as Fast DDS comes, or as a '
        'profile file of yours says')


def choose(profile: str) -> str:
    """
    Set the environment for a profile, before ``rclpy.init``.

    :param profile: ``large_images``, ``udp``, ``none`` or a file.
    :returns: what was done and why, for the log.
    :raises FileNotFoundError: there is no such file.
    """
    if profile == 'none':
        return 'the shared memory of Fast DDS is as it comes (--dds-profile none)'
    if profile == 'udp':
        os.environ[profile_variable()] = str(config_file(UDP))
        return 'Fast DDS uses UDP alone (--dds-profile udp)' + (
            '; but ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST adds shared memory: unset it'
            if os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE') == 'LOCALHOST' else '')
    if profile != 'large_images':
        path = Path(profile).expanduser().resolve()
        if not path.is_file():
            raise FileNotFoundError(f'--dds-profile: there is no file {path}')
        os.environ[profile_variable()] = str(path)
        return f'Fast DDS uses {path}'
    middleware = os.environ.get('RMW_IMPLEMENTATION', '')
    if middleware and 'fastrtps' not in middleware:
        return f'the middleware is {middleware}: no profile of Fast DDS'
    for name in CHOICES:
        if os.environ.get(name):
            return f'Fast DDS is as {name} says: {os.environ[name]}'
    for name in _FOUND_BY_ITSELF:
        if Path(name).is_file():
            return f'Fast DDS is as {Path(name).resolve()} says'
    free = _free_shared_memory()
    if free < 2 * _SEGMENT:
        return (f'{_SHARED_MEMORY} has {free >> 20} MiB left, too little for large pictures: '
                'Fast DDS is as it comes; in Docker use --shm-size 512m')
    os.environ[profile_variable()] = str(config_file(PROFILE))
    return 'Fast DDS has 64 MiB of shared memory for pictures (--dds-profile large_images)'


def profile_variable() -> str:
    """Return the environment variable that the installed Fast DDS reads."""
    distribution = os.environ.get('ROS_DISTRO', '')
    if not distribution:  # rclpy from wheels
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if importlib.metadata.version('ros-fastdds').startswith('2.'):
                distribution = 'jazzy'
    old = distribution in ('humble', 'jazzy')  # Fast DDS 2; the newer warns about the old name
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if old else 'FASTDDS_DEFAULT_PROFILES_FILE'


def config_file(name: str) -> Path:
    """
    Find a file of ours: in the source tree, or where it was installed.

    :raises FileNotFoundError: it is in none of the places.
    """
    places = [Path(__file__).resolve().parents[1] / 'config' / name]
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    places += [Path(p) / 'share' / 'dgtl_ros' / 'config' / name for p in prefixes if p]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f'{name} is in none of {[str(p) for p in places]}; install the package again')


def _free_shared_memory() -> int:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:  # another system; Fast DDS knows where it keeps its memory there
        return sys.maxsize
    return found.f_bavail * found.f_frsize
