# SPDX-License-Identifier: Apache-2.0
"""Every transition in every state: those that there are work, the others change nothing."""

import signal

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from ros_world import Link, picture, plane

pytestmark = pytest.mark.ros
EDGES = {('unconfigured', 'configure'): 'inactive', ('inactive', 'activate'): 'active',
         ('active', 'deactivate'): 'inactive', ('inactive', 'cleanup'): 'unconfigured'}
WAYS = {'unconfigured': [], 'inactive': ['configure'], 'active': ['configure', 'activate'],
        'finalized': ['shutdown']}
LABELS = ('configure', 'activate', 'deactivate', 'cleanup')


@pytest.mark.parametrize('state', WAYS)
def test_every_transition_from(world, tiny_model, state):
    space = f'edge_{state}'
    with world.start('segment_node', space, autostart=False, max_image_age=0.0,
                     model_path=tiny_model) as running:
        assert world.change_state(space, *WAYS[state])
        for label in LABELS:
            end = EDGES.get((state, label))
            assert world.change_state(space, label) == (end is not None), label
            assert world.state(space) == (end or state), label
            if end:  # and back again
                back = next(b for (s, b), e in EDGES.items() if (s, e) == (end, state))
                assert world.change_state(space, back) and world.state(space) == state
        if state == 'active':
            link = Link(world, space, running)
            assert plane(link.answer(picture()))[0, 0] == 2
            link.close()
        assert world.change_state(space, 'shutdown') == (state != 'finalized')
        assert world.state(space) == 'finalized'
        assert running.signal(signal.SIGTERM)[0] == 0 and 'Traceback' not in running.text()
