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
NODE = 'segmenter'


def allowed(kind, right):
    """Return the full names that the policy allows the node, in the namespace of the test."""
    profile = ElementTree.parse(POLICY).getroot().find('enclaves/enclave/profiles/profile')
    assert profile.get('ns') == '/' and profile.get('node') == NODE
    names = [item.text for group in profile.findall(f'{kind}s') if group.get(right) == 'ALLOW'
             for item in group.findall(kind)]
    assert len(names) == len(set(names))
    return {n if n.startswith('/') else n.replace('~', f'/safe/{NODE}') if '~' in n
            else f'/safe/{n}' for n in names}


def seen(node):
    """Return what the graph knows of the node so far."""
    if (NODE, '/safe') not in node.get_node_names_and_namespaces():
        return None
    pairs = {'publish': node.get_publisher_names_and_types_by_node(NODE, '/safe'),
             'subscribe': node.get_subscriber_names_and_types_by_node(NODE, '/safe'),
             'reply': node.get_service_names_and_types_by_node(NODE, '/safe')}
    return {right: {name for name, _ in found} for right, found in pairs.items()}


def test_what_the_node_asks_for_is_what_the_policy_allows(world, tiny_model):
    with world.start('segment_node', 'safe', model_path=tiny_model) as running:
        running.wait_for_text('go to /safe/segmentation')
        limit = time.monotonic() + PATIENCE
        while not (found := seen(world.node)) or '/safe/image' not in found['subscribe']:
            assert time.monotonic() < limit, found
            time.sleep(0.1)
    # What is only there with other parameters, messages or distributions.
    rare = {'/clock', '/safe/bond', '/safe/image/compressed', '/parameter_events',
            '/safe/segmentation/label_info', '/safe/speed_limit',
            f'/safe/{NODE}/get_type_description'}
    for right, names in found.items():
        wanted = allowed('service' if right == 'reply' else 'topic', right)
        assert names <= wanted, f'not allowed: {names - wanted}'
        assert wanted - names <= rare, f'not needed: {wanted - names - rare}'
