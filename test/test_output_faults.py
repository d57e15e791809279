# SPDX-License-Identifier: Apache-2.0
"""What the node says of its own outputs: who does not take them, and what they cannot express."""

import os
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from ros_world import Link, picture, plane

pytestmark = pytest.mark.ros
OK, WARN = b'\x00', b'\x01'

SUBSCRIBER = """
import rclpy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('subscriber')
node.create_subscription(
    Image, '/deaf/segmentation', lambda message: print('labels', flush=True), 5)
rclpy.spin(node)
"""


def test_a_reliable_subscriber_that_hangs_is_named(world, tiny_model):
    with world.start('segment_node', 'deaf', model_path=tiny_model, max_image_age=0.0) as running:
        link, stop = Link(world, 'deaf', running), threading.Event()
        link.answer(picture())

        def film():
            while not stop.wait(0.05):
                link.send(picture())

        def status(level, words=''):
            seen = len(world.diagnostics.items)
            return world.diagnostics.wait(lambda array: any(
                s.name == '/deaf/segmenter: output' and s.level == level and words in s.message
                for s in array.status), first=seen)

        def faulty(array):
            return any(s.name == '/deaf/segmenter: output' and 'acknowledged' in s.message
                       for s in array.status)

        filming = threading.Thread(target=film)
        filming.start()
        subscriber = subprocess.Popen(
            [sys.executable, '-c', SUBSCRIBER], env={**os.environ, **world.environment},
            stdout=subprocess.PIPE, text=True)
        try:
            assert subscriber.stdout.readline() == 'labels\n'
            seen = len(world.diagnostics.items)
            status(OK)
            with pytest.raises(AssertionError):  # it takes them, though not all of them at once
                world.diagnostics.wait(faulty, 10, seen)
            subscriber.send_signal(signal.SIGSTOP)
            status(WARN, 'a reliable subscriber of the labels has not acknowledged them for')
            subscriber.send_signal(signal.SIGCONT)
            status(OK)
        finally:
            stop.set()
            filming.join()
            subscriber.kill()
            subscriber.communicate()
            link.close()


def test_unlabelled_pixels_that_look_like_a_class_are_a_warning(world, tiny_model, tmp_path):
    groups = tmp_path / 'groups.yaml'
    groups.write_text('drivable: [road, sidewalk]\nrest: [car, person, building]\n')
    with world.start('segment_node', 'unsure', model_path=tiny_model, class_groups=groups,
                     max_image_age=0.0, confidence_threshold=0.9) as running:
        link = Link(world, 'unsure', running)
        assert (plane(link.answer(picture())) == 255).all()
        assert world.set_parameters('unsure', unlabeled_id=1).successful
        assert (plane(link.answer(picture())) == 1).all()
        status = world.diagnostics.wait(lambda array: [
            s for s in array.status if s.name == '/unsure/segmenter: output'
            and 'unlabeled_id is 1, the id of rest: pixels without a class' in s.message])
        assert next(s.level for s in status.status if s.name.endswith('output')) == WARN
        assert world.set_parameters('unsure', unlabeled_id=200).successful
        link.answer(picture())
        seen = len(world.diagnostics.items)
        world.diagnostics.wait(lambda array: any(
            s.name == '/unsure/segmenter: output' and s.level == OK
            for s in array.status), first=seen)
        link.close()
