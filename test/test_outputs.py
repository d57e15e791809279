# SPDX-License-Identifier: Apache-2.0
"""What is published and when, on a node that only remembers."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from builtin_interfaces.msg import Time
from dgtl_core.classes import CITYSCAPES
from dgtl_ros import outputs as module
from dgtl_ros.camera_info import scaled
from dgtl_ros.outputs import Outputs
from dgtl_ros.settings import Settings
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

pytestmark = pytest.mark.ros
LABELS = np.full((4, 6), 2, np.uint8)
IMAGE = np.full((4, 6, 3), 100, np.uint8)


class Publisher:
    def __init__(self, qos):
        self.qos, self.sent, self.subscribers = qos, [], 0

    def publish(self, message):
        self.sent.append(message)

    def get_subscription_count(self):
        return self.subscribers


class RememberingNode:
    def __init__(self):
        self.topics, self.subscribed, self.mapped = {}, {}, {}

    def create_publisher(self, kind, topic, qos, qos_overriding_options, event_callbacks):
        assert topic not in self.topics
        self.topics[topic] = Publisher(qos)
        return self.topics[topic]

    def create_subscription(self, kind, topic, callback, qos):
        self.subscribed[topic] = callback
        return topic

    def destroy_subscription(self, topic):
        del self.subscribed[topic]

    def destroy_publisher(self, publisher):
        self.topics = {t: p for t, p in self.topics.items() if p is not publisher}

    def resolve_topic_name(self, topic, *, only_expand=False):
        name = topic if topic.startswith('/') else f'/{topic}'
        return name if only_expand else self.mapped.get(name, name)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: Time(sec=7)))


@pytest.fixture
def node():
    return RememberingNode()


def test_quality_of_service(node):
    Outputs(node, Settings(output_reliability='best_effort', output_depth=3), CITYSCAPES)
    labels, classes = node.topics['segmentation'].qos, node.topics['segmentation/class_map'].qos
    assert (labels.reliability, labels.depth) == (ReliabilityPolicy.BEST_EFFORT, 3)
    assert labels.durability == DurabilityPolicy.VOLATILE
    assert classes.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert (classes.reliability, classes.depth) == (ReliabilityPolicy.RELIABLE, 1)


def test_only_labels_are_made_while_nobody_subscribes(node):
    outputs = Outputs(node, Settings(), CITYSCAPES)
    outputs.publish(Header(), LABELS, LABELS)
    outputs.publish_pictures(Header(), IMAGE, LABELS, Settings())
    outputs.publish_times({'processing_time': 3.0})
    assert {t for t, p in node.topics.items() if p.sent} == {'segmentation'}


def test_overlays_come_no_faster_than_their_rate(node, monkeypatch):
    outputs, now = Outputs(node, Settings(), CITYSCAPES), [100.0]
    monkeypatch.setattr(module, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    overlay = node.topics['segmentation/overlay']
    overlay.subscribers = 1
    for _ in range(100):  # 1 s
        outputs.publish_pictures(Header(), IMAGE, LABELS, Settings(overlay_max_rate=5.0))
        now[0] += 0.01
    assert 5 <= len(overlay.sent) <= 6
    overlay.sent.clear()
    now[0] += 1
    for _ in range(100):
        outputs.publish_pictures(Header(), IMAGE, LABELS, Settings(overlay_max_rate=0.0))
    assert len(overlay.sent) == 100


def test_times_that_are_not_known_are_not_published(node):
    outputs = Outputs(node, Settings(), CITYSCAPES)
    for publisher in node.topics.values():
        publisher.subscribers = 1
    outputs.publish_times({'processing_time': 3.0, 'pipeline_latency': None})
    assert node.topics['~/debug/processing_time_ms'].sent[0].data == 3.0
    assert not node.topics['~/debug/pipeline_latency_ms'].sent


def test_label_info_where_vision_msgs_is_installed(node, monkeypatch):
    monkeypatch.setattr(module, 'LabelInfo', lambda **given: SimpleNamespace(
        header=SimpleNamespace(stamp=None), **given))
    monkeypatch.setattr(module, 'VisionClass', SimpleNamespace)
    outputs = Outputs(node, Settings(), CITYSCAPES)
    assert outputs.announces_label_info
    outputs.announce(0.25)
    message = node.topics['segmentation/label_info'].sent[0]
    assert message.threshold == 0.25 and message.header.stamp == Time(sec=7)
    assert [(c.class_id, c.class_name) for c in message.class_map][:2] == [
        (0, 'road'), (1, 'sidewalk')]
    assert len(json.loads(node.topics['segmentation/class_map'].sent[0].data)) == 19


def test_without_vision_msgs_the_class_map_alone(node, monkeypatch):
    monkeypatch.setattr(module, 'LabelInfo', None)
    outputs = Outputs(node, Settings(), CITYSCAPES)
    outputs.announce(0.0)
    assert not outputs.announces_label_info and 'segmentation/label_info' not in node.topics


def test_close_takes_every_topic_back(node):
    Outputs(node, Settings(), CITYSCAPES).close()
    assert not node.topics and not node.subscribed


def test_labels_go_out_without_loss_as_png(node):
    outputs = Outputs(node, Settings(), CITYSCAPES)
    png = node.topics['segmentation/compressed']
    png.subscribers = 1
    labels = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    outputs.publish(Header(frame_id='camera'), labels, LABELS)
    message, = png.sent
    assert 'png' in message.format and message.header.frame_id == 'camera'
    data = np.frombuffer(message.data, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), labels)


def test_the_calibration_fits_the_labels(node):
    outputs = Outputs(node, Settings(), CITYSCAPES, 'front/')
    topic = node.topics['front/segmentation/camera_info']
    topic.subscribers = 1
    outputs.publish(Header(), LABELS, LABELS)
    assert not topic.sent, 'no calibration came yet'
    info = CameraInfo(height=8, width=12, distortion_model='plumb_bob')
    info.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    info.k = [10.0, 0.0, 5.5, 0.0, 9.0, 3.5, 0.0, 0.0, 1.0]
    info.p = [10.0, 0.0, 5.5, -2.0, 0.0, 9.0, 3.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    node.subscribed['/front/camera_info'](info)
    outputs.publish(Header(frame_id='front'), LABELS, LABELS)
    sent, = topic.sent
    assert (sent.height, sent.width, sent.header.frame_id) == (4, 6, 'front')
    # The middle of the picture stays the middle, half as many pixels away from its edge.
    assert list(sent.k) == [5.0, 0.0, 2.5, 0.0, 4.5, 1.5, 0.0, 0.0, 1.0]
    assert list(sent.p)[:4] == [5.0, 0.0, 2.5, -1.0] and list(sent.d) == list(info.d)
    assert info.k[0] == 10.0, 'the message that came stays as it is'


@pytest.mark.parametrize('mapped, found', [
    ({}, '/camera_info'), ({'/image': '/front/rgb/image_raw'}, '/front/rgb/camera_info'),
    ({'/image': '/front/image_raw', '/camera_info': '/calibration'}, 'camera_info')])
def test_the_calibration_lies_beside_the_pictures_unless_it_is_mapped(node, mapped, found):
    node.mapped = mapped
    Outputs(node, Settings(), CITYSCAPES)
    assert list(node.subscribed) == [found]


def test_what_the_camera_cut_off_and_binned_is_in_the_numbers():
    info = CameraInfo(height=80, width=120, binning_x=2, binning_y=2)
    info.k = info.p[[0, 1, 2, 4, 5, 6, 8, 9, 10]] = [
        100.0, 0.0, 59.5, 0.0, 90.0, 39.5, 0.0, 0.0, 1.0]
    whole = scaled(info, (40, 60), Header())
    assert list(whole.k) == [50.0, 0.0, 29.5, 0.0, 45.0, 19.5, 0.0, 0.0, 1.0]
    assert (whole.width, whole.binning_x, whole.binning_y) == (60, 0, 0)
    info.roi = RegionOfInterest(x_offset=20, y_offset=10, width=60, height=40, do_rectify=True)
    part = scaled(info, (20, 30), Header())
    assert list(part.k) == [50.0, 0.0, 19.5, 0.0, 45.0, 14.5, 0.0, 0.0, 1.0]
    assert list(part.p[:3]) == [50.0, 0.0, 19.5]
    assert part.roi == RegionOfInterest(do_rectify=True)
