# SPDX-License-Identifier: Apache-2.0
"""Everything the node publishes; what costs time is made only if somebody subscribes."""

from __future__ import annotations

from collections.abc import Mapping
import json
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.classes import ClassSet
from dgtl_core.domain import Verdict
from dgtl_core.visualize import colorize, overlay
from dgtl_ros.camera_info import CameraInfoRelay
from dgtl_ros.image_codec import jpeg, mono8, png, rgb8
from dgtl_ros.qos import publisher_overrides
from dgtl_ros.settings import Settings
from dgtl_ros.status import Status, status_message
from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    qos_policy_name_from_kind,
    QoSProfile,
    ReliabilityPolicy,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, String

if TYPE_CHECKING:
    from rclpy.event_handler import QoSOfferedIncompatibleQoSInfo
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from std_msgs.msg import Header

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not among the wheels for machines without ROS
    LabelInfo = VisionClass = None

# Seconds that subscribers get to acknowledge. Fast DDS asks for it when the history is full, and
# every three seconds; in between, the latest of small messages are never acknowledged.
_ACKNOWLEDGED = 7.0
_SEEN_S = 2.0  # after which the graph shows a subscriber that was refused
_LOOK_S = 0.5  # between two looks, where all is acknowledged


class _Refused(NamedTuple):
    """What a subscriber asks for and our publisher does not offer."""

    policy: str
    publisher: Publisher
    since: float  # by the steady clock


class Outputs:
    """
    The publishers for one camera of a configured node.

    :param prefix: in front of all topics, such as ``front/``.
    """

    def __init__(self, node: Node, settings: Settings, classes: ClassSet,
                 prefix: str = '') -> None:
        self._node, self.classes = node, classes
        self._publishers: list[Publisher] = []
        self._next_overlay = 0.0
        self._refused: dict[str, _Refused] = {}  # by topic
        self._acknowledged = time.monotonic()  # when all of it was seen to be
        qos = QoSProfile(
            depth=settings.output_depth,
            reliability=ReliabilityPolicy.RELIABLE if settings.output_reliability == 'reliable'
            else ReliabilityPolicy.BEST_EFFORT)
        single = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.topic = f'{prefix}segmentation'  # of the labels
        self._labels = self._add(Image, self.topic, qos)
        self._confidence = self._add(Image, f'{prefix}segmentation/confidence', qos)
        self._overlay = self._add(Image, f'{prefix}segmentation/overlay', single)
        self._overlay_jpeg = self._add(
            CompressedImage, f'{prefix}segmentation/overlay/compressed', single)
        self._png = self._add(CompressedImage, f'{self.topic}/compressed', qos)
        self._color = self._add(Image, f'{prefix}segmentation/color', single)
        self._class_map = self._add(String, f'{prefix}segmentation/class_map', latched)
        self._health = self._add(
            DiagnosticStatus, f'{prefix}segmentation/health', latched)
        self._health_json = self._add(String, f'{prefix}segmentation/health/json', latched)
        self._camera_info = CameraInfoRelay(node, f'{prefix}image', self._add(
            CameraInfo, f'{prefix}segmentation/camera_info', qos))
        self._label_info = None
        if LabelInfo is not None:
            self._label_info = self._add(LabelInfo, f'{prefix}segmentation/label_info', latched)
        # Below the node, also for a camera whose name is absolute.
        debug = f'~/debug/{prefix.removeprefix("/")}'
        self._times = {name: self._add(Float64, f'{debug}{name}_ms', QoSProfile(depth=10))
                       for name in ('processing_time', 'pipeline_latency', 'cyclic_time')}

    def _add(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        def refused(event: QoSOfferedIncompatibleQoSInfo) -> None:
            self._refused[topic] = _Refused(
                qos_policy_name_from_kind(event.last_policy_kind), publisher, time.monotonic())

        publisher: Publisher = self._node.create_publisher(
            kind, topic, qos, qos_overriding_options=publisher_overrides(self._node, topic),
            event_callbacks=PublisherEventCallbacks(incompatible_qos=refused))
        self._publishers.append(publisher)
        return publisher

    def faults(self, now: float) -> list[str]:
        """Return what keeps our messages from who asks for them; to be called now and then."""
        for topic, refused in list(self._refused.items()):
            if now - refused.since > _SEEN_S and not self._unmatched(topic, refused.publisher):
                del self._refused[topic]  # it is gone, or asks for what we have
        lines = [f'a subscriber of {topic} asks for another {refused.policy} and gets nothing: '
                 'set it there, or qos.output.*' for topic, refused in list(self._refused.items())]
        self._look(now)
        if now - self._acknowledged > _ACKNOWLEDGED:
            lines.append('a reliable subscriber of the labels has not acknowledged them for '
                         f'{now - self._acknowledged:.0f} s: it hangs, or large messages are lost '
                         '(dds_profile)')
        return lines

    def _unmatched(self, topic: str, publisher: Publisher) -> bool:
        """Whether more subscribe than our publisher serves."""
        try:
            name = self._node.resolve_topic_name(topic)
            return len(self._node.get_subscriptions_info_by_topic(name)) > \
                publisher.get_subscription_count()
        except RuntimeError:  # closed by another thread
            return False

    def _look(self, now: float) -> None:
        """Look whether all labels are acknowledged; best right before there are new ones."""
        if now - self._acknowledged < _LOOK_S:
            return
        try:
            if self._labels.wait_for_all_acked(Duration()):
                self._acknowledged = now
        except RuntimeError:  # closed by another thread
            self._acknowledged = now

    @property
    def announces_label_info(self) -> bool:
        """Whether vision_msgs is installed."""
        return self._label_info is not None

    def subscribers(self) -> int:
        """Return how many subscribe to the labels; 0 once closed."""
        try:
            return self._labels.get_subscription_count()
        except RuntimeError:  # closed by another thread
            return 0

    def announce(self, threshold: float) -> None:
        """Publish the classes for all who are there and all who come later."""
        self._class_map.publish(String(data=json.dumps(self.classes.to_list())))
        if self._label_info is not None:
            message = LabelInfo(
                threshold=threshold,
                class_map=[VisionClass(class_id=c.id, class_name=c.name) for c in self.classes])
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._label_info.publish(message)

    def publish(self, header: Header, labels: np.ndarray, confidence: np.ndarray) -> None:
        """
        Publish the labels of one picture, with the picture's header.

        Shape: labels, confidence (h, w) uint8.
        """
        self._look(time.monotonic())
        self._labels.publish(mono8(labels, header))
        self._camera_info.publish(header, labels.shape)
        if self._png.get_subscription_count():
            self._png.publish(png(labels, header))
        if self._confidence.get_subscription_count():
            self._confidence.publish(mono8(confidence, header))

    def publish_health(self, verdict: Verdict, status: Status) -> None:
        """Publish what is to be thought of the pictures, for all who come later too."""
        self._health.publish(status_message(status, self._node.get_name()))
        self._health_json.publish(String(data=json.dumps({
            'score': verdict.score, 'state': verdict.state, 'causes': verdict.causes})))

    def publish_pictures(self, header: Header, image: np.ndarray, labels: np.ndarray,
                         settings: Settings) -> None:
        """
        Publish what people look at, where somebody does and the rate allows.

        Shape: image (h, w, 3) uint8 RGB, labels (h, w) uint8.
        """
        if self._color.get_subscription_count():
            self._color.publish(rgb8(colorize(labels, self.classes), header))
        raw = self._overlay.get_subscription_count()
        compressed = self._overlay_jpeg.get_subscription_count()
        now = time.monotonic()
        if not (raw or compressed) or now < self._next_overlay:
            return
        if settings.overlay_max_rate:
            self._next_overlay = now + 1 / settings.overlay_max_rate
        picture = overlay(image, labels, self.classes, settings.overlay_alpha)
        if raw:
            self._overlay.publish(rgb8(picture, header))
        if compressed:
            self._overlay_jpeg.publish(jpeg(picture, header, settings.jpeg_quality))

    def publish_times(self, milliseconds: Mapping[str, float | None]) -> None:
        """Publish durations on ~/debug/<name>_ms; None where there is none."""
        for name, value in milliseconds.items():
            if value is not None and self._times[name].get_subscription_count():
                self._times[name].publish(Float64(data=value))

    def close(self) -> None:
        """Take all topics back."""
        self._camera_info.close()
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
