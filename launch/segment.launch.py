# SPDX-License-Identifier: Apache-2.0
"""
Start the segmentation node; ``ros2 launch dgtl_ros segment.launch.py -s`` lists the arguments.

An argument that is left empty does not touch the parameter, so the parameter file decides.
"""

import os
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parent.parent  # share/dgtl_ros, or the source tree
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

# Arguments that become parameters of the node when they are not empty.
PARAMETERS = {
    'model_path': ('model_path', str, 'Model file; empty: the embedded demonstration model', None),
    'backend': ('backend', str, 'What runs the model',
                ['', 'auto', 'tensorrt', 'torch', 'onnxruntime']),
    'device': ('device', str, 'Where the model runs: auto, cpu, cuda or cuda:N', None),
    'precision': ('precision', str, 'Numbers the network computes with; auto: as the file is',
                  ['', 'auto', 'fp32', 'fp16', 'bf16', 'int8']),
    'engine_build': ('engine_build', str, 'Where an .onnx has no TensorRT engine yet',
                     ['', 'background', 'blocking', 'never']),
    'engine_cache_dir': ('engine_cache_dir', str, 'Folder of the TensorRT engines', None),
    'build_only': ('build_only', bool, 'Build the engine, wait for it and end',
                   ['', 'true', 'false']),
    'max_batch_size': ('max_batch_size', int, 'Most pictures in one call of the network', None),
    'input_height': ('input_height', int, "Height of the network's input, as exported", None),
    'input_width': ('input_width', int, "Width of the network's input, as exported", None),
    'cameras': ('cameras', list, 'Names of several cameras, with commas between', None),
    'image_transport': ('image_transport', str,
                        'raw: IMAGE_TOPIC; compressed: IMAGE_TOPIC/compressed',
                        ['', 'raw', 'compressed']),
    'input_encoding': ('input_encoding', str,
                       'Encoding of raw pictures, where the driver names a wrong one', None),
    'raw_subscription': ('raw_subscription', bool, 'Take raw pictures as bytes',
                         ['', 'true', 'false']),
    'reliability': ('qos.image.reliability', str,
                    'Reliability asked of the camera; auto: what it offers',
                    ['', 'auto', 'reliable', 'best_effort']),
    'output_size': ('output_size', str, "Labels in the camera's or in the network's size",
                    ['', 'input', 'network']),
    'resize_mode': ('resize_mode', str, 'How pictures are brought to the size of the network',
                    ['', 'stretch', 'letterbox', 'crop']),
    'autostart': ('autostart', bool, 'false: wait for a lifecycle manager', ['', 'true', 'false']),
    'use_sim_time': ('use_sim_time', bool, 'Take the time from /clock', ['', 'true', 'false']),
}
CAMERA_TOPIC = '/camera/image_raw'
OTHERS = {
    'image_topic': (CAMERA_TOPIC, 'Topic of the camera. Of several: {camera} stands for the name '
                    'in it, such as /{camera}/image_raw; as it is: {camera}/image', None),
    'namespace': ('', 'Namespace of the node and of its topics', None),
    'node_name': ('segmenter', 'Name of the node', None),
    'config': (str(SHARE / 'config' / 'segment.yaml'), 'Parameter file', None),
    'params_file': ('', 'A second parameter file, which overrides the first', None),
    'log_level': ('info', 'How much the node says', ['debug', 'info', 'warn', 'error', 'fatal']),
    'respawn': ('false', 'Start the node again when it dies', ['true', 'false']),
    'respawn_delay': ('2.0', 'Seconds before that', None),
    'dds_profile': ('large_images', 'Shared memory of Fast DDS, here and for all that this launch '
                    'starts later; a camera driver started elsewhere needs it too',
                    ['large_images', 'none']),
    'play': ('', 'Play a video file, a folder of pictures or "streetworld" as the camera, or a '
             'bag with its own clock', None),
    'rviz': ('false', 'Show camera and labels in RViz', ['true', 'false']),
    'rqt': ('false', 'Show the overlay in rqt_image_view', ['true', 'false']),
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
    space, only = given['namespace'], given['build_only'] == 'true'
    bag = given['play'] if is_bag(given['play']) else ''
    if bag:
        given['use_sim_time'] = given['use_sim_time'] or 'true'
    values = {
        parameter: converted(name, given[name], kind)
        for name, (parameter, kind, _, _) in PARAMETERS.items() if given[name]}
    if given['play'] and not bag and given['image_transport'] == 'compressed':
        raise ValueError('play gives raw pictures: leave image_transport out, or play a bag')
    parameters = [given['config'], *filter(None, [given['params_file'], values])]
    topics = image_topics(given['image_topic'], values.get('cameras', []))
    actions = dds_profile(given['dds_profile'])
    actions.append(Node(
        package='dgtl_ros', executable='segment_node', name=given['node_name'], namespace=space,
        parameters=parameters, output='screen', emulate_tty=True,
        remappings=[(name + suffix, topic + suffix) for name, topic in topics.items()
                    if name != topic for suffix in ('', '/compressed')],
        arguments=['--ros-args', '--log-level', given['log_level']],
        respawn=given['respawn'] == 'true' and not only,
        respawn_delay=converted('respawn_delay', given['respawn_delay'], float)))
    if only:
        return actions
    if bag:
        actions.append(ExecuteProcess(
            cmd=['ros2', 'bag', 'play', bag, '--clock', '--loop'], output='screen'))
    elif given['play']:
        actions += [Node(
            package='dgtl_ros', executable='camera_player', name=f'camera_player{number or ""}',
            namespace=space, output='screen', emulate_tty=True, remappings=[('image', topic)],
            parameters=[{'source': string(given['play']), 'loop': True}])
            for number, topic in enumerate(topics.values())]
    name, topic = next(iter(topics.items()))  # of several cameras the first is shown
    labels = name.removesuffix('image') + 'segmentation'
    shown = [(f'segmentation/{view}', f'{labels}/{view}') for view in ('overlay', 'color')
             if labels != 'segmentation']
    if given['rviz'] == 'true':
        actions.append(Node(
            package='rviz2', executable='rviz2', namespace=space,
            arguments=['-d', str(SHARE / 'config' / 'segment.rviz')],
            remappings=[('image', topic), *shown]))
    if given['rqt'] == 'true':
        parts = [labels] if labels.startswith('/') else [space.strip('/'), labels]
        actions.append(Node(
            package='rqt_image_view', executable='rqt_image_view',
            arguments=['/' + '/'.join([*filter(None, parts), 'overlay']).lstrip('/')]))
    return actions


def string(text):
    """Return a value that stays a string: launch_ros would read 2024 as a number."""
    return ParameterValue(text, value_type=str)


def converted(name, text, kind):
    """Return the value that the text of an argument stands for."""
    if kind is list:
        return [name.strip() for name in text.split(',') if name.strip()]
    if kind is bool:
        return text == 'true'
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


def is_bag(name):
    """Whether it is a recording of ROS 2: a file of its own kind, or a folder with such files."""
    path = Path(name).expanduser()
    return path.suffix in ('.mcap', '.db3') or (path / 'metadata.yaml').is_file()


def dds_profile(name):
    """Give Fast DDS room for pictures, unless somebody chose a profile already."""
    if name == 'none' or any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return []
    # Fast DDS 3 warns about the variable that Fast DDS 2 needs.
    old = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    return [SetEnvironmentVariable(
        PROFILE_VARIABLES[0 if old else 1], str(SHARE / 'config' / 'fastdds_large_images.xml'))]
