# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

import os
from pathlib import Path
import signal

import pytest


@pytest.fixture(autouse=True)
def _signals():
    """Give signals back their meaning: a program that is called in this process changes them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a ROS world of the test module's own; the module skips itself without rclpy."""
    from ros_world import World
    with World(tmp_path_factory.mktemp('world')) as world:
        yield world


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> Path:
    """Return the file of a model that takes no time; see tiny_onnx."""
    from tiny_onnx import write_tiny_onnx
    return write_tiny_onnx(tmp_path_factory.mktemp('tiny') / 'tiny.onnx')


@pytest.fixture(scope='session')
def shared() -> Path:
    """Return the folder with real pictures and recorded numbers, or skip."""
    root = Path(os.environ.get('DGTL_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
    if not root.is_dir():
        pytest.skip(f'no shared data at {root} (set DGTL_SHARED)')
    return root
