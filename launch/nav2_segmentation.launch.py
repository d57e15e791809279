# SPDX-License-Identifier: Apache-2.0
"""
What Nav2's semantic layer wants: labels, confidence, classes and the cloud that fits them.

Both nodes wait for a lifecycle manager: the one that is started here, or, with ``manage:=false``,
your own, with ``segmenter`` and ``label_points`` among its ``node_names``. The parameters of the
layer are in config/nav2_semantic_layer.yaml.
"""

import importlib.util
import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

MANAGER = 'nav2_lifecycle_manager'
LOADING = 120.0  # seconds that a transition may take: loading a model takes more than Nav2's 5 s
ARGUMENTS = {
    'image_topic': ('/camera/color/image_raw', 'Picture of the RGB-D camera'),
    'depth_topic': ('/camera/aligned_depth_to_color/image_raw',
                    'Its depth image, aligned to the picture'),
    'camera_info_topic': ('/camera/color/camera_info', 'Its CameraInfo'),
    'model_path': ('', 'Model file; empty: the embedded demonstration model'),
    'params_file': ('', "Parameter file for the node, such as one with the robot's class groups"),
    'namespace': ('', 'Namespace of the nodes and of their topics'),
    'use_sim_time': ('false', 'true or false: take the time from /clock'),
    'manage': ('true', 'true, or false: a lifecycle manager of your own does it'),
}


def generate_launch_description():
    """Declare the arguments; the rest waits until their values are known."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        OpaqueFunction(function=start)])


def start(context):
    """Return the two nodes, and the manager where it is wanted."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if given['manage'].lower() not in ('true', 'false'):
        raise ValueError(f'manage must be true or false, got {given["manage"]!r}')
    manage = given['manage'].lower() == 'true'
    if manage and not installed(MANAGER):
        raise ValueError(f'{MANAGER} is not installed: sudo apt install ros-$ROS_DISTRO-nav2-'
                         'lifecycle-manager, or manage:=false with a manager of your own')
    own = {'autostart': 'false', 'namespace': given['namespace'],
           'use_sim_time': given['use_sim_time']}
    space = given['namespace'].strip('/')
    labels = f'/{space}/segmentation'.replace('//', '/')
    actions = [
        included('segment.launch.py', {
            **own, 'image_topic': given['image_topic'], 'model_path': given['model_path'],
            'params_file': given['params_file']}),
        included('points.launch.py', {
            **own, 'source': 'depth', 'segmentation_topic': labels,
            'output_topic': f'{labels}/points', 'depth_topic': given['depth_topic'],
            'camera_info_topic': given['camera_info_topic']})]
    if manage:
        actions.append(Node(
            package=MANAGER, executable='lifecycle_manager', name='lifecycle_manager_segmentation',
            namespace=given['namespace'], output='screen',
            parameters=[{'node_names': ['segmenter', 'label_points'], 'autostart': True,
                         # Without bondpy the nodes are watched by their diagnostics alone.
                         'bond_timeout': 4.0 if importable('bondpy') else 0.0,
                         'service_timeout': LOADING,
                         'use_sim_time': given['use_sim_time'].lower() == 'true'}]))
    return actions


def included(name, values):
    """Return one of our launch files with these arguments alone, whatever a parent has set."""
    path = str(Path(__file__).resolve().parent / name)
    return GroupAction([IncludeLaunchDescription(PythonLaunchDescriptionSource(path))],
                       forwarding=False, launch_configurations=values)


def importable(module):
    """Whether there is a Python module, without importing it."""
    return importlib.util.find_spec(module) is not None


def installed(package):
    """Whether the ament index knows a package."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    index = Path('share/ament_index/resource_index/packages')
    return any((prefix / index / package).exists() for prefix in map(Path, filter(None, prefixes)))
