# SPDX-License-Identifier: Apache-2.0
"""See the node at work without a camera: a drawn street, or your own video, and RViz."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    'source': ('streetworld', 'A video file, a folder of pictures, or "streetworld"'),
    'model_path': ('', 'Model file; empty: the embedded demonstration model'),
    'rviz': ('true', 'true or false: show camera and labels in RViz'),
}


def generate_launch_description():
    """Include segment.launch.py with a player as the camera."""
    segment = str(Path(__file__).resolve().parent / 'segment.launch.py')
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        # Nothing but these reaches the included file, whatever somebody who includes this one set.
        GroupAction(
            [IncludeLaunchDescription(PythonLaunchDescriptionSource(segment))],
            forwarding=False,
            launch_configurations={
                'play': LaunchConfiguration('source'),
                'model_path': LaunchConfiguration('model_path'),
                'rviz': LaunchConfiguration('rviz')})])
