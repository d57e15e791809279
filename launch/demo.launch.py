# SPDX-License-Identifier: Apache-2.0
"""See the node at work without a camera: a drawn street, or your own video, and RViz."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

ARGUMENTS = {
    'source': ('streetworld', 'A video file, a folder of pictures, or "streetworld"', None),
    'model_path': ('', 'Model file; empty: the embedded demonstration model', None),
    'rviz': ('true', 'Show camera and labels in RViz', ['true', 'false']),
}


def generate_launch_description():
    """Include segment.launch.py with a player as the camera."""
    segment = str(Path(__file__).resolve().parent / 'segment.launch.py')
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
          for name, (default, text, choices) in ARGUMENTS.items()),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(segment),
            launch_arguments={
                'play': LaunchConfiguration('source'),
                'model_path': LaunchConfiguration('model_path'),
                'rviz': LaunchConfiguration('rviz')}.items())])
