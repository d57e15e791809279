# SPDX-License-Identifier: Apache-2.0
"""One picture through the node, without a node: a real model, outputs that remember."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.predictor import Predictor
from dgtl_ros.diagnostics import Health, STAGES
from dgtl_ros.domain_monitor import DomainMonitor
from dgtl_ros.image_codec import rgb8
from dgtl_ros.parameters import Settings
from dgtl_ros.pipeline import Arrival, finish, Pipeline
from ros_world import picture
from std_msgs.msg import Header
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros
NOW = 100


class Outputs:
    """Remembers what would be published; ``fault`` is raised instead, if there is one."""

    def __init__(self):
        self.labels, self.times, self.pictures, self.fault = [], [], [], None

    def publish(self, header, labels, confidence):
        if self.fault:
            raise self.fault
        self.labels.append((header, labels, confidence))

    def publish_pictures(self, header, image, labels, settings):
        assert image.shape[:2] == labels.shape
        self.pictures.append(labels)

    def publish_times(self, milliseconds):
        self.times.append(milliseconds)


class Line:
    """A pipeline and everything around it."""

    def __init__(self, predict, **settings):
        self.outputs, self.health, self.said = Outputs(), Health(), []
        self.monitor = DomainMonitor(19)
        self.pipeline = Pipeline(
            predict, self.outputs, self.health, self.monitor, lambda: Settings(**settings),
            SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW * 10**9)),
            SimpleNamespace(error=self.say, warning=self.say))

    def say(self, text, throttle_duration_sec):
        self.said.append(text)

    def send(self, image, age=0.1):
        header = Header(frame_id='camera')
        stamp = round((NOW - age) * 1e9) if age is not None else 0
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
        self.pipeline(Arrival(rgb8(image, header), 0.0))
        return header


@pytest.fixture(scope='module')
def predict(tmp_path_factory):
    path = write_tiny_onnx(tmp_path_factory.mktemp('model') / 'tiny.onnx')
    return Predictor.load(path, device='cpu')


def test_labels_go_out_with_header_stages_and_times(predict):
    line = Line(predict)
    header = line.send(picture(50, 80), age=0.1)
    sent, labels, confidence = line.outputs.labels[0]
    assert sent == header and labels.shape == (50, 80) and confidence[0, 0] == 50
    assert labels[0, 0] == 2 and labels[0, -1] == 13
    assert all(line.health.stages[name].percentile(50) >= 0 for name in STAGES)
    assert line.outputs.times[0]['pipeline_latency'] == pytest.approx(100, abs=1)
    assert line.outputs.times[0]['cyclic_time'] is None
    assert line.monitor.report(Settings())[0]['unlabeled_fraction'] == 0
    assert line.pipeline.last.stamp_ns == round((NOW - 0.1) * 1e9)


def test_network_size(predict):
    line = Line(predict, output_size='network')
    line.send(picture(128, 256))
    assert line.outputs.labels[0][1].shape == (32, 64) == line.outputs.pictures[0].shape
    assert line.health.size == (128, 256)


@pytest.mark.parametrize('age, settings, published', [
    (0.4, {}, True), (0.6, {}, False), (0.6, {'on_stale': 'process'}, True),
    (9.0, {'max_image_age': 0.0}, True), (None, {}, True), (-5.0, {}, True)])
def test_age(predict, age, settings, published):
    line = Line(predict, **settings)
    line.send(picture(), age)
    assert bool(line.outputs.labels) == published
    assert line.health.counts()['dropped_stale'] == (age == 0.6)


def test_once_stopped_nothing_is_published_and_nothing_counts_as_a_fault(predict):
    line = Line(predict)
    line.pipeline.stopped = True
    line.send(picture())
    assert not line.outputs.labels and not any(line.health.counts().values())


def test_what_cannot_be_published_is_counted(predict):
    line = Line(predict)
    line.outputs.fault = RuntimeError('no middleware')
    line.send(picture())
    assert line.health.counts()['publish_errors'] == 1 and 'no middleware' in line.said[0]
    line.outputs.fault = None
    line.send(picture())
    assert line.health.counts()['published'] == 1


class Broken:
    input_size = (32, 64)

    def timed(self, image):
        raise MemoryError('the GPU is full')


@pytest.mark.parametrize('action, gives_up', [('continue', False), ('deactivate', True)])
def test_inference_that_raises(action, gives_up):
    line = Line(Broken(), on_inference_error=action, max_consecutive_errors=2)
    line.send(picture())
    assert not line.pipeline.gave_up and 'MemoryError: the GPU is full' in line.said[0]
    line.send(picture())
    assert line.pipeline.gave_up == gives_up and line.health.consecutive_errors == 2


def test_finish():
    labels = np.array([[0, 1, 255, 3]], np.uint8)
    confidence = np.array([[127, 128, 0, 255]], np.uint8)
    assert finish(labels, confidence, Settings()) is labels
    half = finish(labels, confidence, Settings(confidence_threshold=0.5))
    np.testing.assert_array_equal(half, [[255, 1, 255, 3]])
    other = finish(labels, confidence, Settings(confidence_threshold=0.5, unlabeled_id=200))
    np.testing.assert_array_equal(other, [[200, 1, 200, 3]])
    assert other.dtype == np.uint8
    np.testing.assert_array_equal(
        finish(labels, confidence, Settings(unlabeled_id=9)), [[0, 1, 9, 3]])
    np.testing.assert_array_equal(labels, [[0, 1, 255, 3]])
