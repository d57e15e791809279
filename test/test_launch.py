# SPDX-License-Identifier: Apache-2.0
"""The launch files, with a stand-in for launch, so that no ROS 2 has to be installed."""

import ast
import importlib.util
import logging
import os
from pathlib import Path
import sys
import types
from xml.etree import ElementTree

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
        'launch.actions': ['DeclareLaunchArgument', 'ExecuteProcess', 'GroupAction',
                           'IncludeLaunchDescription', 'OpaqueFunction',
                           'SetEnvironmentVariable', 'Shutdown'],
        'launch.logging': [],
        'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
        'launch.substitutions': ['LaunchConfiguration'],
        'launch_ros': [], 'launch_ros.actions': ['Node'],
        'launch_ros.parameter_descriptions': ['ParameterValue']}
    for module, classes in names.items():
        made = types.ModuleType(module)
        for name in classes:
            setattr(made, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module, made)
    sys.modules['launch.logging'].get_logger = logging.getLogger
    for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE',
                     'ROS_DISTRO'):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def ros(monkeypatch, tmp_path):
    """Install packages, as far as the ament index and PATH can tell; returns the function."""
    index = tmp_path / 'ros' / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (tmp_path / 'ros' / 'bin').mkdir()
    (tmp_path / 'ros' / 'bin' / 'ros2').touch(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path / "ros"}')
    monkeypatch.setenv('PATH', str(tmp_path / 'ros' / 'bin'), os.pathsep)

    def install(*packages):
        for package in packages:
            (index / package).touch()

    return install


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
    assert (found['queue_size'], found['input_timeout']) == (10, 2.0)
    for name, text, wanted in (('queue_size', '1.5', 'a whole number'),
                               ('sync_tolerance', 'x', 'a number')):
        with pytest.raises(ValueError, match=f'{name} must be {wanted}, got {text!r}'):
            load(path).start({**defaults, name: text})


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
        assert given.get('choices') is None or given['default_value'] in given['choices'], name


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


def test_arguments_become_parameters_of_the_right_type(stand_in, tmp_path):
    mine = tmp_path / 'mine.yaml'
    mine.touch()
    node = actions(model_path='m.onnx', reliability='best_effort', autostart='false',
                   use_sim_time='true', params_file=str(mine), image_topic='/cam',
                   namespace='robot', respawn='true', respawn_delay='5')['segment_node']
    assert node.given['parameters'][1] == str(mine) and parameters_of(node) == [{
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


def test_several_cameras(stand_in, ros):
    ros('rviz2', 'rqt_image_view')
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


def test_a_bag_is_played_with_its_own_clock(stand_in, ros, tmp_path):
    with pytest.raises(ValueError, match='playing the bag drive.mcap needs "ros2 bag": sudo'):
        actions(play='drive.mcap')
    ros('ros2bag')
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
    assert actions(dds_profile='udp')['SetEnvironmentVariable'].args == (
        new, str(ROOT / 'config' / 'fastdds_udp.xml'))
    assert 'SetEnvironmentVariable' not in actions(dds_profile='none')
    monkeypatch.setenv(old, 'mine.xml')
    assert 'SetEnvironmentVariable' not in actions(), "the user's own profile stays"


@pytest.mark.parametrize('name, text, what', [
    ('input_height', 'abc', 'a whole number'), ('max_batch_size', '1.5', 'a whole number'),
    ('respawn_delay', 'soon', 'a number')])
def test_an_argument_that_is_no_number_is_named(stand_in, name, text, what):
    with pytest.raises(ValueError, match=f'{name} must be {what}, got {text!r}'):
        actions(**{name: text})


def test_player_and_rviz_come_when_asked_for(stand_in, ros):
    ros('rviz2', 'rqt_image_view')
    assert set(actions()) == {'segment_node', 'SetEnvironmentVariable'}
    found = actions(play='street.mp4', rviz='true', image_topic='/cam', rqt='true')
    assert found['rqt_image_view'].given['arguments'] == ['/segmentation/overlay']
    assert parameters_of(found['camera_player']) == [{'source': 'street.mp4', 'loop': True}]
    assert found['camera_player'].given['remappings'] == [('image', '/cam')]
    config = Path(found['rviz2'].given['arguments'][1])
    displays = yaml.safe_load(config.read_text())['Visualization Manager']['Displays']
    assert {d['Topic']['Value'] for d in displays} == {
        'image', 'segmentation/overlay', 'segmentation/color'}


def test_a_player_of_raw_pictures_is_none_for_compressed_ones(stand_in, ros, tmp_path):
    ros('ros2bag')
    with pytest.raises(ValueError, match='play gives raw pictures'):
        actions(play='street.mp4', image_transport='compressed')
    (tmp_path / 'metadata.yaml').touch()
    assert 'ExecuteProcess' in actions(play=str(tmp_path), image_transport='compressed')


@pytest.mark.parametrize('given, problem', [
    ({'log_level': 'loud'}, r"log_level must be one of \['debug'.*, got 'loud'"),
    ({'rviz': 'yes'}, "rviz must be true or false, got 'yes'"),
    ({'use_sim_time': '1'}, "use_sim_time must be true or false, got '1'"),
    ({'respawn': 'true', 'required': 'True'}, 'choose one'),
    ({'params_file': '/nope.yaml'}, "params_file: there is no file '/nope.yaml'"),
    ({'config': '/nope.yaml'}, "config: there is no file '/nope.yaml'"),
    ({'cameras': 'a,b', 'overlay_topic': '/x'}, r'overlay_topic is .* write \{camera\} where'),
])
def test_what_cannot_work_is_refused(stand_in, given, problem):
    with pytest.raises(ValueError, match=problem):
        actions(**given)


def test_booleans_and_levels_are_read_in_any_case(stand_in):
    node = actions(use_sim_time='True', autostart='FALSE', log_level='WARN',
                   respawn='TRUE')['segment_node']
    assert node.given['parameters'][1] == {'use_sim_time': True, 'autostart': False}
    assert node.given['arguments'][-1] == 'warn' and node.given['respawn'] is True


def test_parameter_files_in_the_home_folder(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.yaml').touch()
    given = actions(config='~/mine.yaml', params_file='~/mine.yaml')['segment_node'].given
    assert given['parameters'] == [str(tmp_path / 'mine.yaml')] * 2


def test_missing_viewers_are_a_warning_and_the_rest_runs(stand_in, ros, caplog):
    assert set(actions(rviz='true', rqt='true', play='a.mp4')) == {
        'segment_node', 'camera_player', 'SetEnvironmentVariable'}
    for package in ('rviz2', 'rqt_image_view'):
        assert f'{package} is not installed, so nothing is shown: sudo apt install' in caplog.text


def test_output_topics(stand_in, ros):
    ros('rviz2', 'rqt_image_view')
    found = actions(segmentation_topic='/labels', overlay_topic='/view', image_topic='image',
                    rviz='true', rqt='true')
    remappings = dict(found['segment_node'].given['remappings'])
    assert remappings['segmentation'] == '/labels'
    assert remappings['segmentation/confidence'] == '/labels/confidence'
    assert remappings['segmentation/overlay'] == '/view'
    assert remappings['segmentation/overlay/compressed'] == '/view/compressed'
    assert found['rviz2'].given['remappings'] == [
        ('segmentation/overlay', '/view'), ('segmentation/color', '/labels/color')]
    assert found['rqt_image_view'].given['arguments'] == ['/view']
    published = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml').iterfind(
        ".//profile[@node='segmenter']/topics[@publish='ALLOW']/topic")
    outputs = {topic.text for topic in published if topic.text.startswith('segmentation')}
    assert outputs > {'segmentation', 'segmentation/health', 'segmentation/camera_info'}
    for topic in outputs:  # a test compares the policy with what a running node publishes
        assert remappings[topic].startswith(('/labels', '/view')), topic
    node = actions(cameras='front,rear', segmentation_topic='/{camera}/labels')['segment_node']
    remappings = dict(node.given['remappings'])
    assert remappings['rear/segmentation/color'] == '/rear/labels/color'
    assert remappings['front/segmentation'] == '/front/labels'


def test_the_end_of_the_node_ends_the_launch_where_that_is_wanted(stand_in):
    assert actions()['segment_node'].given['on_exit'] is None
    for given in ({'required': 'true'}, {'build_only': 'True'}):
        ended = actions(**given)['segment_node'].given['on_exit']
        running, stopping = (types.SimpleNamespace(is_shutdown=s) for s in (False, True))
        bad, good = (types.SimpleNamespace(returncode=c) for c in (3, 0))
        with pytest.raises(RuntimeError, match='the node ended with exit code 3'):
            ended(bad, running)
        for event, context in ((good, running), (bad, stopping)):
            assert type(ended(event, context)[0]).__name__ == 'Shutdown'


def test_demo_passes_on_only_what_segment_knows(stand_in):
    group = load(ROOT / 'launch' / 'demo.launch.py').generate_launch_description().args[0][-1]
    included, = group.args[0]
    assert included.args[0].args[0] == str(SEGMENT) and group.given['forwarding'] is False
    forwarded = group.given['launch_configurations']
    assert set(forwarded) <= set(arguments_of(SEGMENT)) and 'play' in forwarded


def test_files_named_by_default_exist(stand_in):
    defaults = [a['default_value'] for a in arguments_of(SEGMENT).values()]
    files = [d for d in defaults if d.startswith('/') and d.endswith(('.yaml', '.xml'))]
    assert files and all(Path(f).is_file() for f in files)


def test_the_layer_of_nav2_knows_every_class_and_our_topics():
    layer = yaml.safe_load((ROOT / 'config' / 'nav2_semantic_layer.yaml').read_text())
    layer = layer['local_costmap']['local_costmap']['ros__parameters']['semantic_layer']
    camera = layer[layer['observation_sources']]
    classes = [name for kind in camera['class_types'] for name in camera[kind]['classes']]
    cityscapes = yaml.safe_load((ROOT / 'config/classes/cityscapes.yaml').read_text())
    assert sorted(classes) == sorted(entry['name'] for entry in cityscapes['classes'])
    points = load_text(ROOT / 'launch' / 'points.launch.py')
    for topic in ('segmentation_topic', 'pointcloud_topic'):
        assert f"'{camera[topic]}'" in points
    assert {camera['confidence_topic'], camera['labels_topic']} == {
        f'{camera["segmentation_topic"]}/{name}' for name in ('confidence', 'label_info')}


def load_text(path):
    return path.read_text(encoding='utf-8')
