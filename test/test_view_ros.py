# SPDX-License-Identifier: Apache-2.0
"""``dgtl view --ros``: a real node's topics become frames of the page."""

import importlib.metadata

from dgtl_core.cli import view as command
from dgtl_core.cli.main import main as dgtl
import numpy as np
import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
pytestmark = pytest.mark.ros

from dgtl_ros.show import view  # noqa: E402
from dgtl_ros.show.view import _plane, RosFeed  # noqa: E402
from ros_world import Link, picture, World  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from test_view import until  # noqa: E402
from tiny_onnx import write_tiny_onnx  # noqa: E402


def test_the_topics_of_a_node_become_frames(tmp_path):
    model = write_tiny_onnx(tmp_path / 'tiny.onnx')
    with World(tmp_path) as world:
        running = world.start('segment_node', 'eye', model_path=model)
        feed = RosFeed('image', 'segmentation', ['--ros-args', '-r', '__ns:=/eye'])
        try:
            assert 'nothing on /eye/segmentation yet' in feed.state['fault']
            assert not feed.state['seekable']
            link = Link(world, 'eye', running)
            image = picture()
            link.answer(image)
            limit = [50]

            def shown():
                link.send(image)
                limit[0] -= 1
                return feed.wait(0, 0.3) or not limit[0]

            until(shown, 60)
            frame = feed.newest()
            assert np.array_equal(frame.image, image)
            assert (frame.labels[0, 0], frame.labels[0, -1]) == (2, 13)
            assert (frame.confidence[0, 0], frame.confidence[0, -1]) == (50, 200)
            assert frame.classes[13].name and frame.name == 'camera_optical'
            assert 0 < frame.times_ms['from the camera to here'] < 60_000
            assert not feed.state['fault']
            until(lambda: {'model', 'input'} <= {told['name'] for told in feed.diagnostics}, 30)
            assert {told['level'] for told in feed.diagnostics} <= {'ok', 'warn', 'error'}
        finally:
            feed.close()


def test_the_command_is_found_through_its_entry_point(monkeypatch, capsys):
    pytest.importorskip('starlette', reason='needs the extra view')
    seen = {}

    class Feed:
        def __init__(self, *arguments):
            seen['topics'] = arguments

        def close(self):
            seen['closed'] = True

    monkeypatch.setattr(view, 'RosFeed', Feed)
    monkeypatch.setattr(view, 'serve', lambda feed, args: seen.update(port=args.port))
    point = importlib.metadata.EntryPoint('view-ros', 'dgtl_ros.show.view:main', 'dgtl.commands')
    monkeypatch.setattr('dgtl_core.cli.external.entry_points', lambda group, name: [
        point] * (name == 'view-ros'))
    assert dgtl(['view', '--ros', '--camera', 'front', '--port', '1', '--ros-args', '-r',
                 '__ns:=/robot']) == 0
    assert seen == {'topics': ('front/image', 'front/segmentation',
                               ['--ros-args', '-r', '__ns:=/robot']), 'port': 1, 'closed': True}
    monkeypatch.setattr(command, 'external', lambda name: None)
    assert dgtl(['view', '--ros']) == 1
    assert 'needs the package dgtl_ros' in capsys.readouterr().err


@pytest.mark.parametrize('change', [
    {'encoding': 'rgb8'}, {'step': 3}, {'height': 9}, {'data': b'1'}])
def test_labels_of_another_kind_are_refused(change):
    message = Image(encoding='mono8', height=2, width=4, step=6, data=bytes(range(12)))
    assert _plane(message).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]  # padded rows
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match='expected mono8 labels'):
        _plane(message)
