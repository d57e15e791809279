# SPDX-License-Identifier: Apache-2.0
"""
Start the segmentation node; ``ros2 launch dgtl_ros segment.launch.py -s`` lists the arguments.

An argument that is left empty does not touch the parameter, so the parameter file decides.
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parent.parent  # share/dgtl_ros, or the source tree
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

# Arguments that become parameters of the node when they are not empty.
PARAMETERS = {
    'model_path': ('model_path', str, 'Model file; empty: the embedded demonstration model', None),
    'backend': ('backend', str, 'What runs the model',
                ['', 'auto', 'tensorrt', 'torch', 'onnxruntime']),
    'device': ('device', str, 'Where the model runs: auto, cpu, cuda or cuda:N', None),
    'image_transport': ('image_transport', str,
                        'raw: IMAGE_TOPIC; compressed: IMAGE_TOPIC/compressed',
                        ['', 'raw', 'compressed']),
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
OTHERS = {
    'image_topic': ('/camera/image_raw', 'Topic of the camera', None),
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
    'play': ('', 'Play a video file, a folder of pictures or "streetworld" as the camera', None),
    'rviz': ('false', 'Show camera and labels in RViz', ['true', 'false']),
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
    space, topic = given['namespace'], given['image_topic']
    parameters = [given['config'], *filter(None, [given['params_file']])]
    values = {
        parameter: given[name] == 'true' if kind is bool else given[name]
        for name, (parameter, kind, _, _) in PARAMETERS.items() if given[name]}
    if values:
        parameters.append(values)
    actions = dds_profile(given['dds_profile'])
    actions.append(Node(
        package='dgtl_ros', executable='segment_node', name=given['node_name'], namespace=space,
        parameters=parameters, output='screen', emulate_tty=True,
        remappings=[('image', topic), ('image/compressed', f'{topic}/compressed')],
        arguments=['--ros-args', '--log-level', given['log_level']],
        respawn=given['respawn'] == 'true', respawn_delay=float(given['respawn_delay'])))
    if given['play']:
        actions.append(Node(
            package='dgtl_ros', executable='camera_player', namespace=space, output='screen',
            emulate_tty=True, remappings=[('image', topic)],
            parameters=[{'source': given['play'], 'loop': True}]))
    if given['rviz'] == 'true':
        actions.append(Node(
            package='rviz2', executable='rviz2', namespace=space,
            arguments=['-d', str(SHARE / 'config' / 'segment.rviz')],
            remappings=[('image', topic)]))
    return actions


def dds_profile(name):
    """Give Fast DDS room for pictures, unless somebody chose a profile already."""
    if name == 'none' or any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return []
    # Fast DDS 3 warns about the variable that Fast DDS 2 needs.
    old = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    return [SetEnvironmentVariable(
        PROFILE_VARIABLES[0 if old else 1], str(SHARE / 'config' / 'fastdds_large_images.xml'))]
