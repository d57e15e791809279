# SPDX-License-Identifier: Apache-2.0
"""The subscription to a camera, which asks for the reliability that the camera offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from dgtl_core.encodings import ImageError
from dgtl_ros.cdr_image import read_image
from dgtl_ros.health import Camera
from dgtl_ros.image_codec import Picture
from dgtl_ros.settings import Settings

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

_POLICIES = {
    'reliable': ReliabilityPolicy.RELIABLE, 'best_effort': ReliabilityPolicy.BEST_EFFORT}


class ImageInput:
    """
    Subscribes to ``image`` or ``image/compressed`` until closed.

    :param topic: ``image``, below the camera's name if it has one.
    :param on_image: called with each message, in the thread of the executor.
    :param on_broken: called instead with what is wrong with a message.
    :param on_lost: called with the number of messages that the middleware lost.
    """

    def __init__(self, node: Node, settings: Settings, topic: str,
                 on_image: Callable[[Picture], None], on_broken: Callable[[ImageError], None],
                 on_lost: Callable[[int], None]) -> None:
        self._node, self._settings = node, settings
        self._on_image, self._on_broken, self._on_lost = on_image, on_broken, on_lost
        compressed = settings.image_transport == 'compressed'
        self._type = CompressedImage if compressed else Image
        self._topic = node.resolve_topic_name(topic)
        if compressed:  # follows what image is mapped to, unless it is mapped itself
            name = f'{topic}/compressed'
            own = node.resolve_topic_name(name)
            mapped = own != node.resolve_topic_name(name, only_expand=True)
            self._topic = own if mapped else f'{self._topic}/compressed'
        self._subscription: Subscription | None = None
        # What is compatible with every camera, until one is there to be asked.
        self._asked = 'best_effort'
        if settings.image_reliability != 'auto':
            self._asked = settings.image_reliability
        if not self.probe().publishers:
            self._subscribe()

    def probe(self) -> Camera:
        """Look who publishes now, and subscribe anew where that asks for another reliability."""
        found = self._node.get_publishers_info_by_topic(self._topic)
        reliable = sum(
            info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in found)
        offered, wanted = '', self._asked
        if found:
            offered = {0: 'best_effort', len(found): 'reliable'}.get(reliable, 'mixed')
            if self._settings.image_reliability == 'auto':
                wanted = 'reliable' if offered == 'reliable' else 'best_effort'
        if wanted != self._asked or (found and self._subscription is None):
            self._asked = wanted
            self._subscribe()
        return Camera(self._topic, len(found), offered, self._asked)

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _subscribe(self) -> None:
        self.close()
        qos = QoSProfile(depth=self._settings.image_depth, reliability=_POLICIES[self._asked])
        # The reliability is ours: it follows the camera (qos.image.reliability).
        overrides = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
        events = SubscriptionEventCallbacks(
            message_lost=lambda event: self._on_lost(event.total_count_change))
        raw = self._settings.raw_subscription
        callback = self._on_bytes if raw else self._on_image
        try:
            self._subscription = self._node.create_subscription(
                self._type, self._topic, callback, qos, event_callbacks=events, raw=raw,
                qos_overriding_options=overrides)
        except UnsupportedEventTypeError:  # not every middleware can tell
            self._subscription = self._node.create_subscription(
                self._type, self._topic, callback, qos, raw=raw,
                qos_overriding_options=overrides)

    def _on_bytes(self, message: bytes) -> None:
        try:
            picture = read_image(message)
        except ImageError as error:
            self._on_broken(error)
        else:
            self._on_image(picture)
