# SPDX-License-Identifier: Apache-2.0
"""The launch files, with a stand-in for launch where ROS 2 is not installed, and with the real."""

import ast
import importlib.util
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import types

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
SEGMENT = ROOT / 'launch' / 'segment.launch.py'


class Recorded:
    """Any action or substitution: remembers what it was made with."""

    def __init__(self, *args, **kwargs):
        self.args, self.given = args, kwargs

    def perform(self, context):
        return context[self.args[0]]


@pytest.fixture
def stand_in(monkeypatch):
    """Put classes that only remember their arguments in place of launch and launch_ros."""
    names = {
        'launch': ['LaunchDescription'],
        'launch.actions': ['DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription',
                           'OpaqueFunction', 'SetEnvironmentVariable'],
        'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
        'launch.substitutions': ['LaunchConfiguration'],
        'launch_ros': [], 'launch_ros.actions': ['Node'],
        'launch_ros.parameter_descriptions': ['ParameterValue']}
    for module, classes in names.items():
        made = types.ModuleType(module)
        for name in classes:
            setattr(made, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module, made)
    for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE',
                     'ROS_DISTRO'):
        monkeypatch.delenv(variable, raising=False)


def load(path):
    spec = importlib.util.spec_from_file_location(path.name.partition('.')[0] + '_launch', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments_of(path):
    description = load(path).generate_launch_description()
    return {a.args[0]: a.given for a in description.args[0]
            if type(a).__name__ == 'DeclareLaunchArgument'}


def actions(**given):
    """Return the actions of segment.launch.py for arguments, by the executable or the class."""
    defaults = {n: a['default_value'] for n, a in arguments_of(SEGMENT).items()}
    unknown = set(given) - set(defaults)
    assert not unknown, unknown
    return {a.given.get('executable', type(a).__name__): a
            for a in load(SEGMENT).start({**defaults, **given})}


def test_points_start_one_node_with_its_topics(stand_in):
    path = ROOT / 'launch' / 'points.launch.py'
    defaults = {n: a['default_value'] for n, a in arguments_of(path).items()}
    node, = load(path).start({**defaults, 'source': 'lidar', 'points_topic': '/os/points',
                              'segmentation_topic': '/front/segmentation', 'extrinsic': '1 2'})
    assert node.given['executable'] == 'label_points'
    mapped = dict(node.given['remappings'])
    assert mapped['points'] == '/os/points'
    assert mapped['segmentation/confidence'] == '/front/segmentation/confidence'
    found, = node.given['parameters']
    assert found['source'] == 'lidar' and found['use_confidence'] is True
    assert found['extrinsic'].args == ('1 2',)


def parameters_of(node):
    found = [p for p in node.given['parameters'] if isinstance(p, dict)]
    for value in (v for p in found for v in p.values()):  # a plain string is read as YAML
        assert not isinstance(value, str) and (
            not isinstance(value, Recorded) or value.given == {'value_type': str})
    return [{name: value.args[0] if isinstance(value, Recorded) else value
             for name, value in p.items()} for p in found]


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_every_argument_is_described_and_its_default_allowed(stand_in, path):
    arguments = arguments_of(path)
    assert arguments
    for name, given in arguments.items():
        assert len(given['description']) > 8, name
        assert given['choices'] is None or given['default_value'] in given['choices'], name


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_no_launch_file_needs_a_learning_library_or_our_package(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    roots = {name.partition('.')[0] for name in imported}
    assert roots <= {'launch', 'launch_ros', *sys.stdlib_module_names}, roots


def test_empty_arguments_leave_the_parameter_file_alone(stand_in):
    node = actions()['segment_node']
    assert node.given['parameters'] == [str(ROOT / 'config' / 'segment.yaml')]
    assert node.given['name'] == 'segmenter' and node.given['package'] == 'dgtl_ros'
    assert node.given['respawn'] is False
    assert ('image', '/camera/image_raw') in node.given['remappings']
    assert ('image/compressed', '/camera/image_raw/compressed') in node.given['remappings']


def test_arguments_become_parameters_of_the_right_type(stand_in):
    node = actions(model_path='m.onnx', reliability='best_effort', autostart='false',
                   use_sim_time='true', params_file='mine.yaml', image_topic='/cam',
                   namespace='robot', respawn='true', respawn_delay='5')['segment_node']
    assert node.given['parameters'][1] == 'mine.yaml' and parameters_of(node) == [{
        'model_path': 'm.onnx', 'qos.image.reliability': 'best_effort', 'autostart': False,
        'use_sim_time': True}]
    assert node.given['namespace'] == 'robot' and ('image', '/cam') in node.given['remappings']
    assert node.given['respawn'] is True and node.given['respawn_delay'] == 5.0


def test_numbers_and_lists(stand_in):
    node = actions(input_height='512', input_width='1024', max_batch_size='2',
                   cameras='front, rear,', raw_subscription='true')['segment_node']
    assert node.given['parameters'][1] == {
        'input_height': 512, 'input_width': 1024, 'max_batch_size': 2,
        'cameras': ['front', 'rear'], 'raw_subscription': True}


def test_several_cameras(stand_in):
    assert actions(cameras='front,rear')['segment_node'].given['remappings'] == []
    node = actions(cameras='front,rear', image_topic='/{camera}/image_raw')['segment_node']
    assert node.given['remappings'] == [
        ('front/image', '/front/image_raw'),
        ('front/image/compressed', '/front/image_raw/compressed'),
        ('rear/image', '/rear/image_raw'), ('rear/image/compressed', '/rear/image_raw/compressed')]
    with pytest.raises(ValueError, match=r'write \{camera\} where the name belongs'):
        actions(cameras='front,rear', image_topic='/cam')
    found = actions(cameras='front,rear', play='street.mp4', rqt='true', rviz='true',
                    namespace='robot')
    assert found['camera_player'].given['name'] == 'camera_player1'
    assert found['camera_player'].given['remappings'] == [('image', 'rear/image')]
    assert found['rqt_image_view'].given['arguments'] == ['/robot/front/segmentation/overlay']
    assert ('segmentation/color', 'front/segmentation/color') in found['rviz2'].given['remappings']


def test_build_only_starts_nothing_else_and_is_not_repeated(stand_in):
    found = actions(build_only='true', play='street.mp4', rviz='true', rqt='true', respawn='true')
    assert set(found) == {'segment_node', 'SetEnvironmentVariable'}
    assert found['segment_node'].given['respawn'] is False
    assert found['segment_node'].given['parameters'][1] == {'build_only': True}


def test_a_bag_is_played_with_its_own_clock(stand_in, tmp_path):
    (tmp_path / 'metadata.yaml').touch()
    for bag in (str(tmp_path), 'drive.mcap'):
        found = actions(play=bag)
        assert 'camera_player' not in found
        command = found['ExecuteProcess'].given['cmd']
        assert command[:4] == ['ros2', 'bag', 'play', bag] and '--clock' in command
        assert found['segment_node'].given['parameters'][1] == {'use_sim_time': True}
    (tmp_path / 'metadata.yaml').unlink()
    assert 'camera_player' in actions(play=str(tmp_path)), 'a folder of pictures'


def test_every_forwarded_argument_is_a_parameter_with_the_same_choices(stand_in):
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    from dgtl_ros.parameters import parameters_of as table
    from dgtl_ros.settings import Settings
    known = table(Settings)
    for name, (parameter, kind, _, choices) in load(SEGMENT).PARAMETERS.items():
        if parameter == 'use_sim_time':
            continue
        entry = known[parameter]
        assert type(entry.default) is (tuple if kind is list else kind), name
        if kind is str and len(entry.metadata['choices']) < 8:  # not every encoding is listed
            assert set(choices or ()) - {''} == set(entry.metadata['choices']), name


def test_large_image_profile(stand_in, monkeypatch):
    profile = str(ROOT / 'config' / 'fastdds_large_images.xml')
    new, old = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
    assert actions()['SetEnvironmentVariable'].args == (new, profile)
    for distribution, variable in (('humble', old), ('jazzy', old), ('lyrical', new)):
        monkeypatch.setenv('ROS_DISTRO', distribution)
        assert actions()['SetEnvironmentVariable'].args == (variable, profile)
    assert 'SetEnvironmentVariable' not in actions(dds_profile='none')
    monkeypatch.setenv(old, 'mine.xml')
    assert 'SetEnvironmentVariable' not in actions(), "the user's own profile stays"


@pytest.mark.parametrize('name, text, what', [
    ('input_height', 'abc', 'a whole number'), ('max_batch_size', '1.5', 'a whole number'),
    ('respawn_delay', 'soon', 'a number')])
def test_an_argument_that_is_no_number_is_named(stand_in, name, text, what):
    with pytest.raises(ValueError, match=f'{name} must be {what}, got {text!r}'):
        actions(**{name: text})


def test_player_and_rviz_come_when_asked_for(stand_in):
    assert set(actions()) == {'segment_node', 'SetEnvironmentVariable'}
    found = actions(play='street.mp4', rviz='true', image_topic='/cam', rqt='true')
    assert found['rqt_image_view'].given['arguments'] == ['/segmentation/overlay']
    assert parameters_of(found['camera_player']) == [{'source': 'street.mp4', 'loop': True}]
    assert found['camera_player'].given['remappings'] == [('image', '/cam')]
    config = Path(found['rviz2'].given['arguments'][1])
    displays = yaml.safe_load(config.read_text())['Visualization Manager']['Displays']
    assert {d['Topic']['Value'] for d in displays} == {
        'image', 'segmentation/overlay', 'segmentation/color'}


def test_a_player_of_raw_pictures_is_none_for_compressed_ones(stand_in, tmp_path):
    with pytest.raises(ValueError, match='play gives raw pictures'):
        actions(play='street.mp4', image_transport='compressed')
    (tmp_path / 'metadata.yaml').touch()
    assert 'ExecuteProcess' in actions(play=str(tmp_path), image_transport='compressed')


def test_demo_passes_on_only_what_segment_knows(stand_in):
    included = load(ROOT / 'launch' / 'demo.launch.py').generate_launch_description().args[0][-1]
    source, forwarded = included.args[0], dict(included.given['launch_arguments'])
    assert source.args[0] == str(SEGMENT)
    assert set(forwarded) <= set(arguments_of(SEGMENT)) and 'play' in forwarded


def test_files_named_by_default_exist(stand_in):
    defaults = [a['default_value'] for a in arguments_of(SEGMENT).values()]
    files = [d for d in defaults if d.startswith('/') and d.endswith(('.yaml', '.xml'))]
    assert files and all(Path(f).is_file() for f in files)


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


def test_with_the_real_launch(tmp_path):
    """What the node's process is started with, by the launch of the ROS 2 that is installed."""
    pytest.importorskip('launch.actions', reason='needs launch', exc_type=ImportError)
    pytest.importorskip('launch_ros.actions', reason='needs launch_ros', exc_type=ImportError)
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'dgtl_ros').touch()
    node = tmp_path / 'lib' / 'dgtl_ros' / 'segment_node'
    node.parent.mkdir(parents=True)
    node.write_text(
        f'#!{sys.executable}\nimport json, os, sys\n'
        'text = "".join(open(a).read() for a in sys.argv if os.path.isfile(a) and a != __file__)\n'
        f'with open({str(tmp_path / "seen.json")!r}, "w") as file:\n'
        '    json.dump([sys.argv[1:], dict(os.environ), text], file)\n')
    node.chmod(0o755)
    prefixes = [str(tmp_path), os.environ.get('AMENT_PREFIX_PATH', '')]
    environment = {**os.environ, 'AMENT_PREFIX_PATH': os.pathsep.join(filter(None, prefixes)),
                   'ROS_LOG_DIR': str(tmp_path / 'log')}
    done = subprocess.run(
        [sys.executable, '-c', RUN, SEGMENT, 'model_path:=m.onnx', 'autostart:=false',
         'namespace:=robot', 'image_topic:=/{camera}/raw', 'cameras:=front,rear',
         'input_height:=512', 'build_only:=true'],
        env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    arguments, variables, text = json.loads((tmp_path / 'seen.json').read_text())
    assert {'front/image:=/front/raw', 'rear/image/compressed:=/rear/raw/compressed',
            '__ns:=/robot', '__node:=segmenter'} <= set(arguments)
    assert str(ROOT / 'config' / 'segment.yaml') in arguments
    assert 'model_path: m.onnx' in text and 'autostart: false' in text
    assert 'input_height: 512' in text and 'build_only: true' in text
    assert re.search(r'cameras:.*\n +- front\n +- rear', text), text
    assert any(v.endswith('fastdds_large_images.xml') for n, v in variables.items()
               if n.endswith('_DEFAULT_PROFILES_FILE'))
