# SPDX-License-Identifier: Apache-2.0
"""The bond to a lifecycle manager, with a stand-in that has the signatures of bondpy 4."""

import os
import signal

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_ros import bond
from std_msgs.msg import String

pytestmark = pytest.mark.ros

# It publishes signs of life as text, and prints when it is ended: as with bondpy, the publisher
# goes at once, and its last message may go with it.
BONDPY = """
from std_msgs.msg import String

class Bond:
    def __init__(self, node, topic, bond_id, on_broken=None, on_formed=None):
        self.node, self.topic, self.id, self._started = node, topic, bond_id, False
        self.pub = node.create_publisher(String, topic, 1)

    def set_heartbeat_period(self, per):
        assert not self._started and per == 0.25

    def set_heartbeat_timeout(self, dur):
        assert not self._started and dur == 4.0

    def start(self):
        self.sub = self.node.create_subscription(String, self.topic, lambda message: None, 1)
        self._started = True
        self._timer = self.node.create_timer(
            0.1, lambda: self.pub.publish(String(data=f'{self.id} lives')))

    def shutdown(self):  # as bondpy does, which leaves destroyed ends in the node
        self.node.destroy_timer(self._timer)
        self.sub.destroy()
        self.pub.destroy()
        print(self.id, 'ends', flush=True)
"""


@pytest.fixture
def bondpy(tmp_path):
    """Return the environment of a process that finds the stand-in."""
    package = tmp_path / 'bondpy'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'bondpy.py').write_text(BONDPY)
    return {'PYTHONPATH': os.pathsep.join(
        filter(None, [str(tmp_path), os.environ.get('PYTHONPATH', '')]))}


@pytest.mark.parametrize('module, name', [
    ('segment_node', 'segmenter'), ('points.label_points', 'label_points')])
def test_a_managed_node_gives_signs_of_life_while_it_is_active(
        world, tiny_model, bondpy, module, name):
    heard = world.listen(String, f'/{name}/bond')
    model = {'model_path': tiny_model} if name == 'segmenter' else {}
    with world.start(module, name, extra=bondpy, autostart=False, **model) as running:
        def go(*labels):
            return world.change_state(name, *labels, node=name)

        for time in (1, 2):
            assert go('configure', 'activate')
            heard.wait(lambda m: m.data == f'{name} lives', first=len(heard.items))
            assert go('deactivate')
            assert running.text().count(f'{name} ends') == time
            assert go('cleanup')
        assert go('configure', 'activate')
        assert running.signal(signal.SIGTERM)[0] == 0 and 'Traceback' not in running.text()


@pytest.mark.skipif(bond.Bond is not None, reason='bondpy is here')
def test_without_bondpy_it_says_what_to_tell_the_manager(world, tiny_model):
    with world.start('segment_node', 'unbound', autostart=False, model_path=tiny_model) as running:
        assert world.change_state('unbound', 'configure', 'activate')
        running.wait_for_text('set the bond_timeout of the manager to 0.0')
    with world.start('segment_node', 'alone', model_path=tiny_model) as running:
        running.wait_for_text('go to /alone/segmentation')
        assert 'bond' not in running.text()
