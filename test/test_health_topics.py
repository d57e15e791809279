# SPDX-License-Identifier: Apache-2.0
"""The health of the pictures on its topics, and what ``domain.action`` does, over a real DDS."""

import json

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from diagnostic_msgs.msg import DiagnosticStatus
from ros_world import Link, picture, plane, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import String

pytestmark = pytest.mark.ros
# The tiny model is as sure as a picture is green.
SURE = {'left': (16, 220, 10), 'right': (104, 230, 240)}  # unlike enough not to count as blurred
UNSURE = {'left': (16, 70, 190), 'right': (104, 80, 200)}


@pytest.fixture(scope='module')
def link(world, tiny_model):
    running = world.start('segment_node', 'judged', model_path=tiny_model, max_image_age=0.0,
                          domain__window=2, domain__level_shifted='error')
    link = Link(world, 'judged', running)
    link.confidence = world.listen(Image, '/judged/segmentation/confidence')
    link.health = world.listen(String, '/judged/segmentation/health/json', latched=True)
    link.answer(picture(**SURE))
    yield link
    link.close()


def see(link, state, colours):
    """Send pictures until the node says that they have this state."""
    for _ in range(600):
        seen = len(link.health.items)
        link.send(picture(**{k: tuple(np.add(v, np.random.randint(0, 5, 3)))
                             for k, v in colours.items()}))
        try:
            return link.health.wait(lambda m: json.loads(m.data)['state'] == state, 0.2, seen)
        except AssertionError:
            pass
    raise AssertionError(f'never {state}:\n{link.running.text()}')


def test_who_comes_late_hears_the_last_verdict_as_a_message_and_as_json(link):
    see(link, 'shifted', UNSURE)
    late = link.world.listen(DiagnosticStatus, '/judged/segmentation/health', latched=True)
    status = late.wait(lambda m: m.level == DiagnosticStatus.ERROR)
    values = {v.key: v.value for v in status.values}
    assert status.name == 'segmenter: domain' and values['state'] == 'shifted'
    assert float(values['score']) == 1 and 'unsure' in status.message
    told = link.world.listen(String, '/judged/segmentation/health/json', latched=True)
    found = json.loads(told.wait(bool).data)
    assert set(found) == {'score', 'state', 'causes'} and found['score'] == 1
    assert any('unsure' in cause for cause in found['causes'])
    assert link.world.task('judged', 'domain', lambda v: v['state'] == 'shifted')[0].level == b'\2'


@pytest.mark.parametrize('action, labels, confidence', [
    ('nothing', {2, 13}, None), ('zero_confidence', {2, 13}, {0}), ('ignore_labels', {255}, None)])
def test_an_action_changes_what_is_published_while_the_pictures_are_shifted(
        link, action, labels, confidence):
    assert link.world.set_parameters('judged', domain__action=action).successful
    see(link, 'shifted', UNSURE)
    message = link.answer(picture(**UNSURE))
    assert set(np.unique(plane(message))) == labels
    sure = plane(link.confidence.with_stamp(stamp_of(message)))
    assert confidence is None or set(np.unique(sure)) == confidence
    see(link, 'familiar', SURE)
    message = link.answer(picture(**SURE))
    assert set(np.unique(plane(message))) == {2, 13}
    assert plane(link.confidence.with_stamp(stamp_of(message))).min() == 220


def test_publishing_stops_and_begins_again_and_every_picture_is_counted(link):
    assert link.world.set_parameters('judged', domain__action='stop_publishing').successful
    see(link, 'shifted', UNSURE)
    sent = [link.send(picture(**UNSURE)).stamp for _ in range(3)]
    link.world.task('judged', 'input', lambda v: int(v['dropped_domain']) >= 1)
    output, _ = link.world.task('judged', 'output')
    assert output.level == b'\1' and 'stop_publishing' in output.message
    assert not [m for m in link.labels.messages if m.header.stamp in sent]
    see(link, 'familiar', SURE)
    link.answer(picture(**SURE))
    _, counts = link.world.task('judged', 'output')
    _, more = link.world.task('judged', 'input', lambda v: v['waiting'] == '0')
    ended = sum(int(more[n]) for n in more if n.startswith('dropped_')) + int(counts['published'])
    assert int(more['received']) >= ended > 0
    assert link.world.set_parameters('judged', domain__action='nothing').successful
