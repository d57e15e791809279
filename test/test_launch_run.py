# SPDX-License-Identifier: Apache-2.0
"""The launch files, run by the launch of a ROS 2 that is installed."""

import importlib.util
import json
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parent.parent
SEGMENT = ROOT / 'launch' / 'segment.launch.py'


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[tuple(a.split(':=')) for a in sys.argv[2:]])]))
sys.exit(service.run())
"""


@pytest.fixture
def launched(tmp_path):
    """
    Run a launch file by the launch of the ROS 2 that is installed, with programs of ours.

    Each program notes what it was started with, then ends: the node with the exit code ``code``,
    the player after ``play`` seconds.
    """
    pytest.importorskip('launch.actions', reason='needs launch', exc_type=ImportError)
    pytest.importorskip('launch_ros.actions', reason='needs launch_ros', exc_type=ImportError)
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    folder = tmp_path / 'lib' / 'dgtl_ros'
    for place in (index, folder):
        place.mkdir(parents=True)
    (index / 'dgtl_ros').touch()

    def run(path, *arguments, code=0, play=0, **variables):
        for name, last in (('segment_node', f'sys.exit({code})'),
                           ('camera_player', f'time.sleep({play})'), ('label_points', '')):
            program = folder / name
            program.write_text(
                f'#!{sys.executable}\nimport json, os, sys, time\n'
                'text = "".join(open(a).read() for a in sys.argv[1:] if os.path.isfile(a))\n'
                f'with open({str(tmp_path / name)!r} + ".json", "w") as file:\n'
                f'    json.dump([sys.argv[1:], dict(os.environ), text], file)\n{last}\n')
            program.chmod(0o755)
        done = subprocess.run(
            [sys.executable, '-c', RUN, path, *arguments], capture_output=True, text=True,
            timeout=60, check=False, env={
                **os.environ, 'AMENT_PREFIX_PATH': str(tmp_path),
                'ROS_LOG_DIR': str(tmp_path / 'log'), **variables})
        seen = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob('*.json')}
        return done.returncode, done.stdout + done.stderr, seen

    return run


def test_with_the_real_launch(launched):
    """What the node's process is started with."""
    code, said, seen = launched(
        SEGMENT, 'model_path:=m.onnx', 'autostart:=False', 'namespace:=robot',
        'image_topic:=/{camera}/raw', 'cameras:=front,rear', 'input_height:=512',
        'log_level:=DEBUG')
    assert code == 0, said
    arguments, _, text = seen['segment_node']
    assert {'front/image:=/front/raw', 'rear/image/compressed:=/rear/raw/compressed',
            '__ns:=/robot', '__node:=segmenter', 'debug'} <= set(arguments)
    assert str(ROOT / 'config' / 'segment.yaml') in arguments
    assert 'model_path: m.onnx' in text and 'autostart: false' in text


@pytest.mark.parametrize('node', [0, 1])
def test_a_failed_build_fails_the_launch(launched, node):
    code, said, seen = launched(SEGMENT, 'build_only:=true', code=node)
    assert (code != 0) == (node != 0) and seen, said
    assert ('the node ended with exit code 1' in said) == (node != 0)


@pytest.mark.parametrize('node', [0, 1])
def test_a_required_node_takes_the_others_with_it(launched, node):
    code, said, seen = launched(
        SEGMENT, 'required:=true', 'play:=a.mp4', 'image_topic:=/cam', code=node, play=100)
    assert (code != 0) == (node != 0) and 'segment_node' in seen, said


def test_nothing_is_started_where_an_argument_cannot_work(launched):
    for argument in ('params_file:=/nope.yaml', 'play:=drive.mcap', 'rviz:=perhaps'):
        code, said, seen = launched(SEGMENT, argument, PATH='/nowhere')
        assert code == 1 and not seen and argument.partition(':')[0] in said.lower(), said


def test_the_demonstration_runs_without_rviz(launched):
    code, said, seen = launched(ROOT / 'launch' / 'demo.launch.py', 'params_file:=/nope.yaml')
    assert code == 0 and set(seen) == {'segment_node', 'camera_player'}, said
    assert 'rviz2 is not installed' in said


NAV2 = ROOT / 'launch' / 'nav2_segmentation.launch.py'


def test_nav2_gets_two_managed_nodes(launched, tmp_path):
    code, said, seen = launched(NAV2, 'namespace:=robot')
    assert code == 1 and not seen and 'nav2_lifecycle_manager is not installed' in said
    code, said, seen = launched(NAV2, 'namespace:=robot', 'manage:=False', 'use_sim_time:=True')
    assert code == 0 and set(seen) == {'segment_node', 'label_points'}, said
    for arguments, _, text in seen.values():
        assert '__ns:=/robot' in arguments
        assert 'autostart: false' in text and 'use_sim_time: true' in text
    labelling = seen['label_points'][0]
    assert {'segmentation:=/robot/segmentation', 'segmentation/points:=/robot/segmentation/points',
            'segmentation/confidence:=/robot/segmentation/confidence'} <= set(labelling)


def test_the_manager_of_nav2_is_told_both_names(launched, tmp_path):
    (tmp_path / 'share/ament_index/resource_index/packages/nav2_lifecycle_manager').touch()
    (tmp_path / 'lib/nav2_lifecycle_manager').mkdir(parents=True)
    (tmp_path / 'lib/nav2_lifecycle_manager/lifecycle_manager').symlink_to(
        tmp_path / 'lib/dgtl_ros/camera_player')
    code, said, seen = launched(NAV2)
    assert code == 0, said
    text = seen['camera_player'][2]
    assert 'segmenter' in text and 'label_points' in text and 'service_timeout: 120.0' in text
    bond = importlib.util.find_spec('bondpy')
    assert f'bond_timeout: {4.0 if bond else 0.0}' in text


def documented(words):
    """Return the one Python block of the documentation that contains some words."""
    pages = (p.read_text(encoding='utf-8') for p in (ROOT / 'docs').rglob('*.md'))
    found, = (block for page in pages
              for block in re.findall(r'```python\n(.*?)```', page, re.S) if words in block)
    return found


def test_an_included_launch_file_gets_what_was_meant_for_it_alone(launched, tmp_path):
    """As the documentation shows, in a parent whose own arguments have the names of ours."""
    parent = tmp_path / 'robot.launch.py'
    text = documented('forwarding=False')
    parent.write_text(text.replace("get_package_share_directory('dgtl_ros')", repr(str(ROOT))))
    code, said, seen = launched(
        parent, 'params_file:=/nope.yaml', 'autostart:=false', 'namespace:=parent')
    assert code == 0, said
    arguments, _, text = seen['segment_node']
    assert '__ns:=/robot' in arguments and 'image:=/robot/front/image_raw' in arguments
    assert 'autostart: false' not in text and '/nope.yaml' not in arguments
