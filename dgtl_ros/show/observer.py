# SPDX-License-Identifier: Apache-2.0
"""A subscriber of its own that sees what the camera sends and what the node makes of it."""

from __future__ import annotations

from collections.abc import Mapping
import json
import time

from dgtl_core.classes import ClassSet
from dgtl_ros.image_codec import to_rgb
from dgtl_ros.process import keep_memory
from dgtl_ros.show.participant import Participant
from dgtl_ros.show.recorder import Recorder
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String


class Observer(Participant):
    """
    Feeds a recorder from the topics.

    :param environment: the variables of the ROS world to watch.
    """

    def __init__(self, recorder: Recorder, environment: Mapping[str, str]) -> None:
        self.recorder = recorder
        self._condition = ''
        keep_memory()
        super().__init__('demo', environment)
        node = self._node
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(String, 'condition', self._on_condition, latched)
        node.create_subscription(String, 'segmentation/class_map', self._on_classes, latched)
        node.create_subscription(Image, 'image', self._on_image, 5)
        node.create_subscription(Image, 'ground_truth', self._on_truth, 5)
        node.create_subscription(Image, 'segmentation', self._on_labels, 5)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_condition(self, message: String) -> None:
        self._condition = message.data

    def _on_classes(self, message: String) -> None:
        self.recorder.classes = ClassSet.from_list('model', json.loads(message.data))

    def _on_image(self, message: Image) -> None:
        self.recorder.add_input(
            _stamp(message), to_rgb(message), self._condition, time.monotonic())

    def _on_truth(self, message: Image) -> None:
        self.recorder.add_truth(_stamp(message), _plane(message))

    def _on_labels(self, message: Image) -> None:
        latency = (self._node.get_clock().now().nanoseconds - _stamp(message)) / 1e6
        self.recorder.add_output(_stamp(message), _plane(message), latency, time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.recorder.diagnostics[status.name.rpartition(': ')[2]] = {
                'message': status.message, **{v.key: v.value for v in status.values}}


def _stamp(message: Image) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def _plane(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
