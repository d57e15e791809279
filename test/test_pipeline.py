# SPDX-License-Identifier: Apache-2.0
"""One picture through the node, without a node: a real model, outputs that remember."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.classes import CITYSCAPES
from dgtl_core.predictor import Predictor
from dgtl_ros.domain_watch import DomainWatch
from dgtl_ros.finishing import Finishing
from dgtl_ros.health import Health, STAGES
from dgtl_ros.image_codec import rgb8
from dgtl_ros.pipeline import Pipeline
from dgtl_ros.reader import Reader
from dgtl_ros.settings import Settings
from dgtl_ros.stream import Arrival
from ros_world import picture
from std_msgs.msg import Header
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros
NOW = 100


class Outputs:
    """Remembers what would be published; ``fault`` is raised instead, if there is one."""

    def __init__(self):
        self.labels, self.times, self.pictures, self.verdicts = [], [], [], []
        self.fault = None

    def publish(self, header, labels, confidence):
        if self.fault:
            raise self.fault
        self.labels.append((header, labels, confidence))

    def publish_pictures(self, header, image, labels, settings):
        assert image.shape[:2] == labels.shape
        self.pictures.append(labels)

    def publish_times(self, milliseconds):
        self.times.append(milliseconds)

    def publish_health(self, verdict, status):
        self.verdicts.append(verdict)


class Source:
    """Stands for a stream: what the pipeline needs of one, without a node."""

    def __init__(self, settings, logger):
        self.name, self.outputs, self.health = '', Outputs(), Health()
        self.last = None
        self.watch = DomainWatch(
            '', 19, settings, self.outputs, SimpleNamespace(ask=lambda *_: None), None)
        self.finish = Finishing(CITYSCAPES, settings())
        self.reader = Reader('/image', self.health, settings, logger)

    def arrival(self, message):
        return Arrival(self, message, 0.0, self.health.image('rgb8', 1, 0.0))


class Line:
    """A pipeline and everything around it; ``a`` is its camera, ``b`` another one."""

    def __init__(self, predict, **settings):
        self.said = []
        logger = SimpleNamespace(error=self.say, warning=self.say)
        self.a, self.b = (Source(lambda: Settings(**settings), logger) for _ in range(2))
        self.outputs, self.health, self.watch = self.a.outputs, self.a.health, self.a.watch
        self.pipeline = Pipeline(
            predict, lambda: Settings(**settings),
            SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW * 10**9)),
            logger)

    def say(self, text, throttle_duration_sec=0.0):
        self.said.append(text)

    def message(self, image, age=0.1):
        header = Header(frame_id='camera')
        stamp = round((NOW - age) * 1e9) if age is not None else 0
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
        return rgb8(image, header)

    def send(self, image, age=0.1):
        message = self.message(image, age)
        self.pipeline([self.a.arrival(message)])
        return message.header

    def send_both(self, first, second):
        self.pipeline([self.a.arrival(first), self.b.arrival(second)])


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
    assert line.watch.verdict.values['unlabeled_fraction'] == 0
    assert line.a.last.stamp_ns == round((NOW - 0.1) * 1e9)


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
    assert line.health.counts()['dropped_stale'] == (not published)
    assert line.health.counts()['stamp_in_future'] == (age == -5.0)


def test_once_stopped_nothing_is_published_and_nothing_counts_as_a_fault(predict):
    line = Line(predict)
    line.pipeline.stopped = True
    line.send(picture())
    assert not line.outputs.labels
    assert {n for n, value in line.health.counts().items() if value} == {'received', 'waiting'}
    line.health.settle()
    assert line.health.counts()['dropped_inactive'] == 1


def test_what_cannot_be_published_is_counted(predict):
    line = Line(predict)
    line.outputs.fault = RuntimeError('no middleware')
    line.send(picture())
    counts = line.health.counts()
    assert counts['publish_errors'] == counts['unpublished'] == 1
    assert 'no middleware' in line.said[0]
    line.outputs.fault = None
    line.send(picture())
    assert line.health.counts()['published'] == 1


@pytest.mark.parametrize('stage', ['publish_pictures', 'publish_times', 'judge'])
@pytest.mark.parametrize('fault', [RuntimeError('no middleware'), ValueError('odd \ud800 shape')])
def test_what_fails_after_the_inference_is_a_publish_error_of_that_camera_alone(
        predict, monkeypatch, stage, fault):
    line = Line(predict, on_inference_error='deactivate', max_consecutive_errors=1)

    def fail(*_):
        raise fault

    monkeypatch.setattr(line.a.watch if stage == 'judge' else line.a.outputs, stage, fail)
    line.send_both(line.message(picture()), line.message(picture()))
    counts, others = line.a.health.counts(), line.b.health.counts()
    assert counts['publish_errors'] == 1 and counts['errors_total'] == 0
    assert counts['published'] == 1, 'its labels are out'
    assert others['published'] == 1 and others['publish_errors'] == 0
    assert not line.pipeline.gave_up and len(line.b.outputs.pictures) == 1
    line.said[0].encode('utf-8')


class Broken:
    input_size = (32, 64)

    def timed_many(self, images):
        raise MemoryError('the GPU is full')


@pytest.mark.parametrize('action, gives_up', [('continue', False), ('deactivate', True)])
def test_inference_that_raises(action, gives_up):
    line = Line(Broken(), on_inference_error=action, max_consecutive_errors=2)
    line.send(picture())
    assert not line.pipeline.gave_up and 'MemoryError: the GPU is full' in line.said[0]
    line.send(picture())
    assert bool(line.pipeline.gave_up) == gives_up and line.health.consecutive_errors == 2
    assert not gives_up or 'the GPU is full' in line.pipeline.gave_up


# --- several cameras -----------------------------------------------------------------------------


class Counting:
    """The predictor, and how many pictures each call had."""

    def __init__(self, predict):
        self._predict, self.calls, self.input_size = predict, [], predict.input_size

    def timed_many(self, images):
        self.calls.append(len(images))
        return self._predict.timed_many(images)


def test_pictures_of_two_cameras_are_one_call_and_keep_their_own_headers(predict):
    counting = Counting(predict)
    line = Line(counting)
    first, second = line.message(picture(50, 80)), line.message(picture(20, 30, (0, 1, 2)), 0.2)
    line.send_both(first, second)
    assert counting.calls == [2]
    for source, message, shape, label in (
            (line.a, first, (50, 80), 2), (line.b, second, (20, 30), 0)):
        header, labels, _ = source.outputs.labels[0]
        assert header == message.header and labels.shape == shape and labels[0, 0] == label
        assert source.outputs.pictures[0] is labels and source.last.image.shape[:2] == shape
        assert source.health.counts()['published'] == 1
        assert source.watch.verdict.values['unlabeled_fraction'] == 0


def test_a_bad_picture_of_one_camera_does_not_touch_the_other(predict):
    counting = Counting(predict)
    line = Line(counting)
    bad = line.message(picture())
    bad.encoding = 'yuv9'
    line.send_both(bad, line.message(picture()))
    line.send_both(line.message(picture(), age=9), line.message(picture()))
    assert counting.calls == [1, 1] and "'yuv9' is not supported" in line.said[0]
    counts, others = line.a.health.counts(), line.b.health.counts()
    assert (counts['decode_errors'], counts['dropped_stale'], counts['published']) == (1, 1, 0)
    assert others['published'] == 2 and others['decode_errors'] == others['dropped_stale'] == 0


def test_what_cannot_be_read_for_another_reason_counts_as_unreadable(predict, monkeypatch):
    def fail(*_):
        raise MemoryError('too large')

    monkeypatch.setattr('dgtl_ros.reader.to_rgb', fail)
    line = Line(predict)
    line.send(picture())
    assert 'MemoryError: too large' in line.said[0] and not line.outputs.labels
    assert line.health.counts()['decode_errors'] == 1


def test_a_fault_of_the_network_is_counted_for_every_camera_of_the_call():
    line = Line(Broken())
    line.send_both(line.message(picture()), line.message(picture()))
    assert [s.health.counts()['errors_total'] for s in (line.a, line.b)] == [1, 1]
    assert len(line.said) == 1


def test_an_encoding_that_the_camera_names_wrongly(predict):
    line = Line(predict, input_encoding='bgr8')
    line.send(np.ascontiguousarray(picture()[:, :, ::-1]))  # the message says rgb8
    labels = line.outputs.labels[0][1]
    assert labels[0, 0] == 2 and labels[0, -1] == 13


def test_another_predictor_takes_over_after_the_running_inference(predict):
    entered, go = threading.Event(), threading.Event()

    class Slow(Counting):
        def timed_many(self, images):
            entered.set()
            assert go.wait(10)
            return super().timed_many(images)

    slow, other = Slow(predict), Counting(predict)
    line = Line(slow)
    thread = threading.Thread(target=line.send, args=[picture()])
    thread.start()
    assert entered.wait(10)
    assert not line.pipeline.replace(other, 0.05), 'an inference is running'
    go.set()
    assert line.pipeline.replace(other, 10)
    thread.join(10)
    line.send(picture())
    assert slow.calls == [1] and other.calls == [1] and len(line.outputs.labels) == 2


def test_an_abandoned_predictor_is_closed_when_its_inference_has_ended(predict):
    entered, go, closed = threading.Event(), threading.Event(), threading.Event()

    class Stuck(Counting):
        def timed_many(self, images):
            entered.set()
            assert go.wait(20)
            assert not closed.is_set()
            return super().timed_many(images)

        def close(self):
            closed.set()

    stuck = Stuck(predict)
    line = Line(stuck)
    thread = threading.Thread(target=line.send, args=[picture()])
    thread.start()
    assert entered.wait(20)
    line.pipeline.abandon()
    assert not closed.wait(0.1), 'it is still in use'
    go.set()
    thread.join(20)
    assert closed.wait(20) and stuck.calls == [1]

