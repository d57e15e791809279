# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from functools import cache
from importlib.util import find_spec
import os
from pathlib import Path
import signal

import pytest


def pytest_ignore_collect(collection_path):
    """Leave out the tests of what learns where there is no torch, as on a robot."""
    if collection_path.suffix == '.py' and not find_spec('torch'):
        from test_layers import LEARNING
        return bool(loaded_by_test(collection_path.stem) & (LEARNING | {'PIL'})) or None
    return None


@cache
def all_imports():
    from test_layers import ROOT, Tree
    return Tree(ROOT)


@cache
def loaded_by_test(name):
    """Return the top-level packages that importing a module of this folder loads."""
    from test_layers import imports
    tree, path = all_imports(), Path(__file__).with_name(f'{name}.py')
    loaded = set()
    for module in {i.module for i in imports(name, path, tree.paths) if i.eager}:
        beside = Path(__file__).with_name(f'{module}.py').is_file()
        loaded |= loaded_by_test(module) if beside else tree.loads(module)
    return loaded


@pytest.fixture(autouse=True)
def _signals():
    """Give signals back their meaning: a program that is called in this process changes them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def one_thread():
    """More threads than free cores wait for each other, where a step is tiny."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a ROS world of the test module's own; the module skips itself without rclpy."""
    from ros_world import World
    with World(tmp_path_factory.mktemp('world')) as world:
        yield world


@pytest.fixture
def server():
    """Return a server of files on this machine; see file_server."""
    from file_server import FileServer
    server = FileServer()
    yield server
    server.close()


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> Path:
    """Return the file of a model that takes no time; see tiny_onnx."""
    from tiny_onnx import write_tiny_onnx
    return write_tiny_onnx(tmp_path_factory.mktemp('tiny') / 'tiny.onnx')


@pytest.fixture(scope='session')
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """Return recipe and output of a training of eight steps; see small_training."""
    from small_training import whole_run
    return whole_run(tmp_path_factory.mktemp('whole'))


@pytest.fixture(scope='session')
def shared() -> Path:
    """Return the folder with real pictures and recorded numbers, or skip."""
    root = Path(os.environ.get('DGTL_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
    if not root.is_dir():
        pytest.skip(f'no shared data at {root} (set DGTL_SHARED)')
    return root
