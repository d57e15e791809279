# SPDX-License-Identifier: Apache-2.0
"""
Put labels on points: ``ros2 launch dgtl_ros points.launch.py source:=lidar``.

It starts label_points alone; segment_node is started by segment.launch.py.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    'source': ('depth', 'Where the points come from', ['depth', 'cloud', 'lidar']),
    'segmentation_topic': ('/segmentation', 'Labels of segment_node; the confidence lies below it',
                           None),
    'depth_topic': ('/camera/aligned_depth_to_color/image_raw',
                    'Depth image that is aligned to the labelled camera', None),
    'points_topic': ('/points', 'Cloud of the sources cloud and lidar', None),
    'camera_info_topic': ('/camera/color/camera_info', 'CameraInfo of the labelled camera', None),
    'image_topic': ('/camera/color/image_raw', 'Picture that colours the points', None),
    'output_topic': ('/segmentation/points', 'The labelled cloud', None),
    'use_color': ('false', 'true or false: colour the points of a depth image', None),
    'use_confidence': ('true', 'true or false: wait for the confidence too', None),
    'sync_tolerance': ('0.05', 'Most seconds between labels and points', None),
    'queue_size': ('10', 'Messages of each topic that wait for the others', None),
    'input_timeout': ('2.0', 'Seconds without a cloud after which the diagnostics report an error',
                      None),
    'extrinsic': ('', 'x y z roll pitch yaw from the lidar into the camera; empty: ask tf', None),
    'namespace': ('', 'Namespace of the node', None),
    'autostart': ('true', 'true, or false: wait for a lifecycle manager', None),
    'use_sim_time': ('false', 'true or false: take the time from /clock', None),
}
TOPICS = {'segmentation': 'segmentation_topic', 'depth': 'depth_topic', 'points': 'points_topic',
          'camera_info': 'camera_info_topic', 'image': 'image_topic',
          'segmentation/points': 'output_topic'}
NUMBERS = {'sync_tolerance': float, 'queue_size': int, 'input_timeout': float}
SWITCHES = ('use_color', 'use_confidence', 'autostart', 'use_sim_time')


def generate_launch_description():
    """Declare the arguments; the rest waits until their values are known."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
          for name, (default, text, choices) in ARGUMENTS.items()),
        OpaqueFunction(function=start)])


def start(context):
    """Return the node for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    remappings = [(name, given[argument]) for name, argument in TOPICS.items()]
    remappings.append(('segmentation/confidence', given['segmentation_topic'] + '/confidence'))
    parameters = {name: switch(name, given[name]) for name in SWITCHES}
    parameters['source'] = given['source']
    parameters['extrinsic'] = ParameterValue(given['extrinsic'], value_type=str)
    parameters.update((name, number(name, given[name], kind)) for name, kind in NUMBERS.items())
    return [Node(
        package='dgtl_ros', executable='label_points', name='label_points',
        namespace=given['namespace'], parameters=[parameters], remappings=remappings,
        output='screen', emulate_tty=True)]


def number(name, text, kind):
    """Return the number that a text stands for."""
    try:
        return kind(text)
    except ValueError:
        what = 'a whole number' if kind is int else 'a number'
        raise ValueError(f'{name} must be {what}, got {text!r}') from None


def switch(name, text):
    """Return what true or false, in any case, stands for."""
    if text.lower() not in ('true', 'false'):
        raise ValueError(f'{name} must be true or false, got {text!r}')
    return text.lower() == 'true'
