# SPDX-License-Identifier: Apache-2.0
"""The policy for SROS 2 allows what the node does, and nothing else."""

from pathlib import Path
import time
from xml.etree import ElementTree

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from ros_world import PATIENCE

pytestmark = pytest.mark.ros
POLICY = Path(__file__).resolve().parent.parent / 'config' / 'sros2_policy.xml'
# What is only there with other parameters, messages or distributions.
RARE = {
    'segmenter': {'/clock', '/safe/bond', '/safe/image/compressed', '/parameter_events',
                  '/safe/segmentation/label_info', '/safe/speed_limit',
                  '/safe/segmenter/get_type_description'},
    'label_points': {'/clock', '/safe/bond', '/safe/points', '/tf', '/tf_static',
                     '/parameter_events', '/safe/label_points/get_type_description'}}


def allowed(name, kind, right):
    """Return the full names that the policy allows the node, in the namespace of the test."""
    path = f"enclaves/enclave[@path='/dgtl_ros/{name}']/profiles/profile"
    profile = ElementTree.parse(POLICY).getroot().find(path)
    assert profile.get('ns') == '/' and profile.get('node') == name
    names = [item.text for group in profile.findall(f'{kind}s') if group.get(right) == 'ALLOW'
             for item in group.findall(kind)]
    assert len(names) == len(set(names))
    return {n if n.startswith('/') else n.replace('~', f'/safe/{name}') if '~' in n
            else f'/safe/{n}' for n in names}


def seen(node, name):
    """Return what the graph knows of the node so far."""
    if (name, '/safe') not in node.get_node_names_and_namespaces():
        return None
    pairs = {'publish': node.get_publisher_names_and_types_by_node(name, '/safe'),
             'subscribe': node.get_subscriber_names_and_types_by_node(name, '/safe'),
             'reply': node.get_service_names_and_types_by_node(name, '/safe')}
    return {right: {name for name, _ in found} for right, found in pairs.items()}


@pytest.mark.parametrize('name, module, parameters', [
    ('segmenter', 'segment_node', {}),
    ('label_points', 'points.label_points', {'use_color': True})])
def test_what_a_node_asks_for_is_what_the_policy_allows(
        world, tiny_model, name, module, parameters):
    if name == 'segmenter':
        parameters = {'model_path': tiny_model}
    with world.start(module, 'safe', **parameters):
        limit = time.monotonic() + PATIENCE
        while not (found := seen(world.node, name)) or not {
                '/safe/image', '/safe/camera_info'} <= found['subscribe']:
            assert time.monotonic() < limit, found
            time.sleep(0.1)
    for right, names in found.items():
        wanted = allowed(name, 'service' if right == 'reply' else 'topic', right)
        assert names <= wanted, f'not allowed: {names - wanted}'
        rest = wanted - names - RARE[name]
        assert not rest, f'not needed: {rest}'
