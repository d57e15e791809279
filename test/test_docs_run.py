# SPDX-License-Identifier: Apache-2.0
"""
What the pages tell people to type is run here, in the order of each page.

It runs in a folder that holds what the pages speak of, with a tiny model. What needs a network, a
robot, a GPU, or more time than a test has is skipped, and says so.
"""

import importlib.util
import re
import shlex
import shutil
import sys

from dgtl_core.cli.main import main
from dgtl_core.pictures import write_image
from dgtl_core.zoo.cache import made_file
import numpy as np
import pytest

pytest.importorskip('av')
pytest.importorskip('onnx')
pytest.importorskip('rosbags')
from bags import picture, write_bag
from test_docs import fences, lines_of, NAMES, ROOT
from test_sources import write_video
from tiny_onnx import write_tiny_onnx

SIZE = (48, 64)
# What is not run, and why; the first that fits. All other commands of ours must succeed.
NOT_RUN = (
    (r'dgtl fetch \S', 'it needs a network: test_zoo.py has a server of its own'),
    (r'dgtl view', 'it serves a page until Ctrl-C: test_view_page.py'),
    (r'dgtl engine', 'it needs a GPU: test_tensorrt.py'),
    (r'.*--ray', 'it needs a cluster: test_cluster.py'),
    (r'dgtl predict BAG', 'the tests of dgtl predict have bags of all kinds'),
    (r'make|python3? -m venv', 'it sets up environments'),
    (r'torchrun|python -m training', 'it learns or measures: see the test of each program'),
    (r'python -m dgtl_ros', 'it needs ROS: test_benchmark_node.py, test_demo.py'),
)
ROS = ('rclpy', 'launch', 'ament_index_python', 'geometry_msgs')
COMMANDS = [(name, number, words) for name in NAMES
            for number, words in enumerate(lines_of(ROOT / name))
            if words[0] in ('dgtl', 'make', 'python', 'python3', 'torchrun')]
SNIPPETS = [(name, number, text) for name in NAMES
            for number, text in enumerate(fences(ROOT / name, 'python'))]


@pytest.fixture(scope='session')
def furnished(tmp_path_factory):
    """A folder with everything that the pages name."""
    folder = tmp_path_factory.mktemp('furnished')
    for place in ('pictures', 'FOLDER', 'my_tests/images'):
        for number in range(4):
            write_image(folder / place / f'{number}.png', picture(number, SIZE))
    for name in ('drive.mp4', 'foggy.mp4'):
        write_video(folder / name, (SIZE, range(0, 1200, 100)))
    for drive, name in enumerate(('monday', 'tuesday', 'friday')):
        write_bag(folder / name, {'/image': [picture(30 * drive + n, SIZE) for n in range(30)]})
        shutil.move(folder / name / f'{name}.mcap', folder / f'{name}.mcap')
    write_bag(folder / 'drive', {'/camera/image_raw': [picture(n, SIZE) for n in range(4)]})
    shutil.move(folder / 'drive/drive.mcap', folder / 'drive.mcap')
    for name in ('model.onnx', 'lawn.onnx'):
        write_tiny_onnx(folder / name, SIZE)
    return folder


@pytest.fixture(scope='module')
def rooms(furnished, tmp_path_factory):
    """Return a function that gives each page its own copy of the folder."""
    made = {}

    def room(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp('page') / 'here'
            shutil.copytree(furnished, made[name])
        return made[name]
    return room


@pytest.fixture
def at_home(furnished, tmp_path, monkeypatch):
    """Let the embedded model, and the fetched one that the pages name, be the tiny one."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    fetched = made_file('soma-gtav-l')
    fetched.parent.mkdir(parents=True)
    shutil.copy(furnished / 'model.onnx', fetched)
    for place in ('dgtl_core.cli.predict', 'dgtl_core.cli.calibrate', 'dgtl_core.predictor'):
        importlib.import_module(place)
        if hasattr(sys.modules[place], 'default_model'):
            monkeypatch.setattr(f'{place}.default_model', lambda: furnished / 'model.onnx')


@pytest.mark.parametrize('name, number, words', COMMANDS, ids=[
    f'{name}:{number}: {" ".join(words[:4])}' for name, number, words in COMMANDS])
def test_what_a_page_tells_to_type_works(name, number, words, rooms, at_home, monkeypatch):
    line = shlex.join(words)
    for pattern, reason in NOT_RUN:
        if re.match(pattern, line):
            pytest.skip(f'{line}: {reason}')
    monkeypatch.chdir(rooms(name))
    assert words[0] == 'dgtl', f'{line} has no place in NOT_RUN and is no command of ours'
    try:  # a storage in memory stands for S3
        code = main([word.replace('s3://', 'memory://') for word in words[1:]])
    except SystemExit as wrong:
        code = wrong.code
    assert code == 0, line


@pytest.mark.parametrize('name, number, text', SNIPPETS, ids=[
    f'{name}:{number}' for name, number, _ in SNIPPETS])
def test_a_snippet_of_a_page_runs(name, number, text, rooms, at_home, monkeypatch):
    needed = re.findall(r'^\s*(?:from|import) (\w+)', text, re.M)
    for package in needed:
        if package in ROS:
            pytest.skip(f'it needs {package}, a robot or a launch system')
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed')
    if 'FOLDER' in text:
        pytest.skip('it needs a data set in FOLDER')
    monkeypatch.chdir(rooms(name))
    exec(compile(text, f'{name}, snippet {number}', 'exec'), {
        '__name__': 'snippet', 'rgb': np.zeros((*SIZE, 3), np.uint8)})
