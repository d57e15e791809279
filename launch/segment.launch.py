# SPDX-License-Identifier: Apache-2.0
"""
Start the segmentation node; ``ros2 launch dgtl_ros segment.launch.py -s`` lists the arguments.

An argument that is left empty does not touch the parameter, so the parameter file decides.
Everything is checked before anything is started.
"""

import os
from pathlib import Path
import shutil

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parent.parent  # share/dgtl_ros, or the source tree
LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

# Arguments that become parameters of the node when they are not empty.
PARAMETERS = {
    'model_path': ('model_path', str, 'Model file; empty: the embedded demonstration model', None),
    'backend': ('backend', str, 'What runs the model',
                ['', 'auto', 'tensorrt', 'torch', 'onnxruntime']),
    'device': ('device', str, 'Where the model runs: auto, cpu, cuda or cuda:N', None),
    'precision': ('precision', str, 'Number format of the network; auto: that of the file',
                  ['', 'auto', 'fp32', 'fp16', 'bf16', 'int8']),
    'engine_build': ('engine_build', str, 'What to do while an .onnx has no TensorRT engine',
                     ['', 'background', 'blocking', 'never']),
    'engine_cache_dir': ('engine_cache_dir', str, 'Folder of the TensorRT engines', None),
    'build_only': ('build_only', bool, 'true or false: build the engine and end; the launch fails '
                   'if the build fails', None),
    'max_batch_size': ('max_batch_size', int, 'Most pictures in one call of the network', None),
    'input_height': ('input_height', int, "Height of the network's input, as exported", None),
    'input_width': ('input_width', int, "Width of the network's input, as exported", None),
    'cameras': ('cameras', list, 'Names of several cameras, with commas between', None),
    'image_transport': ('image_transport', str,
                        'raw: IMAGE_TOPIC; compressed: IMAGE_TOPIC/compressed',
                        ['', 'raw', 'compressed']),
    'input_encoding': ('input_encoding', str,
                       'Encoding of raw pictures, where the driver names a wrong one', None),
    'raw_subscription': ('raw_subscription', bool, 'true or false: take raw pictures as bytes',
                         None),
    'reliability': ('qos.image.reliability', str,
                    'Reliability asked of the camera; auto: what it offers',
                    ['', 'auto', 'reliable', 'best_effort']),
    'output_size': ('output_size', str, "Labels in the camera's or in the network's size",
                    ['', 'input', 'network']),
    'class_groups': ('class_groups', str, 'File with your own groups of classes', None),
    'rotation': ('rotation', int, 'Degrees clockwise that turn the picture upright',
                 ['', '0', '90', '180', '270']),
    'ego_mask': ('ego_mask', str, 'Picture, 255 where the camera sees the robot itself', None),
    'resize_mode': ('resize_mode', str, 'How pictures are brought to the size of the network',
                    ['', 'stretch', 'letterbox', 'crop']),
    'autostart': ('autostart', bool, 'true, or false: wait for a lifecycle manager', None),
    'use_sim_time': ('use_sim_time', bool, 'true or false: take the time from /clock', None),
}
CAMERA_TOPIC = '/camera/image_raw'
# Each argument names the topic of one output; empty: below segmentation_topic.
OUTPUTS = {
    'confidence_topic': ('confidence', 'how sure the node is of each pixel'),
    'color_topic': ('color', 'the labels in the colours of their classes'),
    'overlay_topic': ('overlay', 'the picture under the colours'),
    'class_map_topic': ('class_map', 'the classes as JSON'),
    'label_info_topic': ('label_info', 'the classes as vision_msgs/LabelInfo'),
}
BELOW = ('compressed', 'camera_info', 'health', 'health/json')  # always below the labels
OTHERS = {
    'image_topic': (CAMERA_TOPIC, 'Topic of the camera. For several cameras, {camera} stands for '
                    'the name, such as /{camera}/image_raw; by default {camera}/image', None),
    'segmentation_topic': ('', 'Topic of the labels, in place of "segmentation"; the other '
                           'outputs lie below it. For several cameras, with {camera} in it', None),
    **{name: ('', f'Topic of an output: {text}', None) for name, (_, text) in OUTPUTS.items()},
    'namespace': ('', 'Namespace of the node and of its topics', None),
    'node_name': ('segmenter', 'Name of the node', None),
    'config': (str(SHARE / 'config' / 'segment.yaml'), 'Parameter file', None),
    'params_file': ('', 'A second parameter file, which overrides the first', None),
    'log_level': ('info', f'Least level that is logged: {", ".join(LOG_LEVELS)}', None),
    'respawn': ('false', 'true or false: start the node again when it dies', None),
    'respawn_delay': ('2.0', 'Seconds to wait before the node is started again', None),
    'required': ('false', 'true or false: end the whole launch when the node ends', None),
    'dds_profile': ('large_images', 'Profile of Fast DDS, here and for all that this launch '
                    'starts later; a camera driver started elsewhere needs it too. udp: no '
                    'shared memory, for a camera of another user or container',
                    ['large_images', 'udp', 'none']),
    'play': ('', 'Play a video file, a folder of pictures or "streetworld" as the camera, or a '
             'bag with its own clock', None),
    'rviz': ('false', 'true or false: show camera and labels in RViz', None),
    'rqt': ('false', 'true or false: show the overlay in rqt_image_view', None),
}


def generate_launch_description():
    """Declare the arguments; the rest waits until their values are known."""
    arguments = [(name, '', text, choices) for name, (_, _, text, choices) in PARAMETERS.items()]
    arguments += [(name, *rest) for name, rest in OTHERS.items()]
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
          for name, default, text, choices in arguments),
        OpaqueFunction(function=start)])


def start(context):
    """Return the actions for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *OTHERS)}
    bag = given['play'] if is_bag(given['play']) else ''
    if bag:
        given['use_sim_time'] = given['use_sim_time'] or 'true'
    values = {
        parameter: converted(name, given[name], kind)
        for name, (parameter, kind, _, _) in PARAMETERS.items() if given[name]}
    switches = {name: converted(name, given[name], bool)
                for name in ('respawn', 'required', 'rviz', 'rqt')}
    only = values.get('build_only', False)
    check(given, switches, bag, only)
    topics = image_topics(given['image_topic'], values.get('cameras', []))
    actions = dds_profile(given['dds_profile'])
    actions.append(Node(
        package='dgtl_ros', executable='segment_node', name=given['node_name'],
        namespace=given['namespace'], output='screen', emulate_tty=True,
        parameters=[parameter_file('config', given['config']),
                    *([parameter_file('params_file', given['params_file'])]
                      if given['params_file'] else []),
                    *([values] if values else [])],
        remappings=[(name + suffix, topic + suffix) for name, topic in topics.items()
                    if name != topic for suffix in ('', '/compressed')]
        + output_topics(given, values.get('cameras', [])),
        arguments=['--dds-profile', given['dds_profile'], '--ros-args', '--log-level',
                   given['log_level'].lower()],
        on_exit=ended if only or switches['required'] else None,
        respawn=switches['respawn'] and not only,
        respawn_delay=converted('respawn_delay', given['respawn_delay'], float)))
    if only:
        return actions
    if bag:
        actions.append(ExecuteProcess(
            cmd=['ros2', 'bag', 'play', bag, '--clock', '--loop'], output='screen'))
    elif given['play']:
        actions += [Node(
            package='dgtl_ros', executable='camera_player', name=f'camera_player{number or ""}',
            namespace=given['namespace'], output='screen', emulate_tty=True,
            remappings=[('image', topic)],
            parameters=[{'source': string(given['play']), 'loop': True}])
            for number, topic in enumerate(topics.values())]
    return actions + viewers(given, switches, topics)


def check(given, switches, bag, only):
    """Refuse, before anything runs, what cannot work."""
    if given['log_level'].lower() not in LOG_LEVELS:
        raise ValueError(f'log_level must be one of {list(LOG_LEVELS)}, got '
                         f'{given["log_level"]!r}')
    if given['play'] and not bag and given['image_transport'] == 'compressed':
        raise ValueError('play gives raw pictures: leave image_transport out, or play a bag')
    if switches['respawn'] and switches['required']:
        raise ValueError('respawn starts the node again when it dies, required ends the launch '
                         'then: choose one')
    if bag and not only and not (shutil.which('ros2') and installed('ros2bag')):
        raise ValueError(f'playing the bag {bag} needs "ros2 bag": sudo apt install '
                         'ros-$ROS_DISTRO-ros2bag ros-$ROS_DISTRO-rosbag2-storage-default-plugins')


def viewers(given, switches, topics):
    """Return RViz and rqt where they are wanted and installed; what is missing is a warning."""
    name, topic = next(iter(topics.items()))  # of several cameras the first is shown
    labels = name.removesuffix('image') + 'segmentation'
    shown = dict(output_topics(given, [name.removesuffix('/image')] if name != 'image' else []))
    overlay = shown.get(f'{labels}/overlay', f'{labels}/overlay')
    color = shown.get(f'{labels}/color', f'{labels}/color')
    actions = []
    if switches['rviz'] and found_viewer('rviz2', 'ros-$ROS_DISTRO-rviz2'):
        actions.append(Node(
            package='rviz2', executable='rviz2', namespace=given['namespace'],
            arguments=['-d', str(SHARE / 'config' / 'segment.rviz')],
            remappings=[(f, t) for f, t in (('image', topic), ('segmentation/overlay', overlay),
                                            ('segmentation/color', color)) if f != t]))
    if switches['rqt'] and found_viewer('rqt_image_view', 'ros-$ROS_DISTRO-rqt-image-view'):
        parts = [overlay] if overlay.startswith('/') else [given['namespace'].strip('/'), overlay]
        actions.append(Node(
            package='rqt_image_view', executable='rqt_image_view',
            arguments=['/' + '/'.join(filter(None, parts)).lstrip('/')]))
    return actions


def found_viewer(package, debian):
    """Whether a package is installed; says how to get it where it is not."""
    if not installed(package):
        get_logger('segment.launch.py').warning(
            f'{package} is not installed, so nothing is shown: sudo apt install {debian}')
    return installed(package)


def installed(package):
    """Whether the ament index knows a package."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    index = Path('share/ament_index/resource_index/packages')
    return any((prefix / index / package).exists() for prefix in map(Path, filter(None, prefixes)))


def ended(event, context):
    """End the launch with the node, and make it fail where the node did."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f'the node ended with exit code {event.returncode}; see its messages')
    return [Shutdown(reason='the node ended')]


def parameter_file(name, text):
    """Return the path of a parameter file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(f'{name}: there is no file {text!r}')
    return str(path)


def string(text):
    """Return a value that stays a string: launch_ros would read 2024 as a number."""
    return ParameterValue(text, value_type=str)


def converted(name, text, kind):
    """Return the value that the text of an argument stands for."""
    if kind is list:
        return [name.strip() for name in text.split(',') if name.strip()]
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(f'{name} must be true or false, got {text!r}')
        return text.lower() == 'true'
    if kind is str:
        return string(text)
    try:
        return kind(text)
    except ValueError:
        what = 'a whole number' if kind is int else 'a number'
        raise ValueError(f'{name} must be {what}, got {text!r}') from None


def image_topics(pattern, cameras):
    """Return the topics that the node asks for, and where they are found."""
    if not cameras:
        return {'image': pattern}
    if pattern == CAMERA_TOPIC:
        pattern = '{camera}/image'
    if '{camera}' not in pattern:
        raise ValueError(
            f'image_topic is {pattern!r} for all of {cameras}: write {{camera}} where the name '
            f'belongs, such as /{{camera}}/image_raw')
    return {f'{camera}/image': pattern.replace('{camera}', camera) for camera in cameras}


def output_topics(given, cameras):
    """Return the remappings of the outputs that were given a topic."""
    remappings = []
    for camera in cameras or ['']:
        own = f'{camera}/segmentation' if camera else 'segmentation'
        base = of_camera('segmentation_topic', given['segmentation_topic'], cameras, camera) or own
        wanted = {own: base, **{f'{own}/{output}': f'{base}/{output}' for output in BELOW}}
        for argument, (output, _) in OUTPUTS.items():
            topic = of_camera(argument, given[argument], cameras, camera) or f'{base}/{output}'
            for suffix in ('', '/compressed'):
                wanted[f'{own}/{output}{suffix}'] = topic + suffix
        remappings += [(name, topic) for name, topic in wanted.items() if name != topic]
    return remappings


def of_camera(name, topic, cameras, camera):
    """Return the topic of one camera."""
    if topic and len(cameras) > 1 and '{camera}' not in topic:
        raise ValueError(f'{name} is {topic!r} for all of {cameras}: write {{camera}} where the '
                         f'name belongs, such as /{{camera}}/labels')
    return topic.replace('{camera}', camera)


def is_bag(name):
    """Whether it is a recording of ROS 2: a file of its own kind, or a folder with such files."""
    path = Path(name).expanduser()
    return path.suffix in ('.mcap', '.db3') or (path / 'metadata.yaml').is_file()


def dds_profile(name):
    """Let Fast DDS use a profile of ours, unless somebody chose one already."""
    if name == 'none' or any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return []
    # Fast DDS 3 warns about the variable that Fast DDS 2 needs.
    old = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    return [SetEnvironmentVariable(
        PROFILE_VARIABLES[0 if old else 1], str(SHARE / 'config' / f'fastdds_{name}.xml'))]
