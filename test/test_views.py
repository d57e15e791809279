# SPDX-License-Identifier: Apache-2.0
"""What is given to other programs: RViz, the diagnostic aggregator, the layer of Nav2."""

from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).resolve().parent.parent / 'config'
SOURCE = CONFIG.parent / 'dgtl_ros' / 'outputs.py'
# What semantic_segmentation_layer.cpp declares, at commit a70cf6e of April 2026.
LAYER = {'plugin', 'enabled', 'combination_method', 'observation_sources', 'publish_debug_topics',
         'use_approximate_time_sync'}
CAMERA = {
    'segmentation_topic': str, 'confidence_topic': str, 'labels_topic': str,
    'pointcloud_topic': str, 'observation_persistence': float, 'expected_update_rate': float,
    'class_types': list, 'max_obstacle_distance': float, 'min_obstacle_distance': float,
    'tile_map_decay_time': float, 'visualize_tile_map': bool, 'use_cost_selection': bool}
KIND = {'classes': list, 'base_cost': int, 'max_cost': int, 'mark_confidence': int,
        'samples_to_max_cost': int, 'dominant_priority': bool}


def read(name):
    return yaml.safe_load((CONFIG / name).read_text(encoding='utf-8'))


def test_rviz_shows_the_camera_and_topics_of_the_node():
    displays = read('segment.rviz')['Visualization Manager']['Displays']
    shown = {display['Topic']['Value']: display for display in displays}
    assert {'image', 'segmentation/overlay'} <= set(shown)
    source = SOURCE.read_text(encoding='utf-8')
    for topic, display in shown.items():
        assert display['Class'] == 'rviz_default_plugins/Image' and display['Enabled']
        if topic != 'image':  # which the camera offers, and best effort takes from either
            assert f'{{prefix}}{topic}' in source, topic
            assert display['Topic']['Reliability Policy'] == 'Reliable'
    assert shown['image']['Topic']['Reliability Policy'] == 'Best Effort'


def test_the_aggregator_expects_statuses_that_the_node_gives():
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    from dgtl_ros.diagnostics import CameraSnapshot, Health, Snapshot, statuses
    from dgtl_ros.settings import Settings
    given = {f'/segmenter: {status.task}' for status in statuses(
        Snapshot('active', Settings(), cameras=[CameraSnapshot('', Health())]), 1.0)}
    analyzers = read('diagnostic_aggregator.yaml')['analyzers']['ros__parameters']
    assert set(analyzers['segmentation']['expected']) == given


def test_the_layer_of_nav2_knows_every_parameter_by_name_and_type():
    costmap = read('nav2_semantic_layer.yaml')['local_costmap']['local_costmap']
    layer = costmap['ros__parameters']['semantic_layer']
    source = layer[layer['observation_sources']]
    assert set(layer) - {layer['observation_sources']} <= LAYER
    assert set(source) - set(source['class_types']) <= set(CAMERA)
    for name, value in source.items():
        if name in source['class_types']:
            assert {key: type(entry) for key, entry in value.items()} == KIND, name
        else:
            assert type(value) is CAMERA[name], name
