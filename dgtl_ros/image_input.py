# SPDX-License-Identifier: Apache-2.0
"""The subscription to a camera, which asks for the reliability that the camera offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any, TYPE_CHECKING

from dgtl_core.encodings import ImageError
from dgtl_ros.cdr_image import read_image
from dgtl_ros.health import Camera
from dgtl_ros.image_codec import Picture
from dgtl_ros.qos import subscription_overrides
from dgtl_ros.settings import Settings
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

if TYPE_CHECKING:
    from rclpy.node import Node

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_MOST_SENDERS = 100  # that are remembered; drivers may come and go for weeks
_INFORMED = hasattr(Subscription, 'CallbackType')  # Humble tells nothing about a message
_POLICIES = {
    'reliable': ReliabilityPolicy.RELIABLE, 'best_effort': ReliabilityPolicy.BEST_EFFORT}


def _type_name(kind: type) -> str:
    return f'sensor_msgs/msg/{kind.__name__}'


class ImageInput:
    """
    Subscribes to ``image`` or ``image/compressed`` until closed.

    :param topic: ``image``, below the camera's name if it has one.
    :param on_image: called with each message, in the thread of the executor.
    :param on_broken: called instead with what is wrong with a message.
    :param count: called with the name of a counter and what to add to it.
    """

    def __init__(self, node: Node, settings: Settings, topic: str,
                 on_image: Callable[[Picture], None], on_broken: Callable[[ImageError], None],
                 count: Callable[[str, int], None]) -> None:
        self._node, self._settings = node, settings
        self._on_image, self._on_broken, self._count = on_image, on_broken, count
        self._publishers = 0
        self._first_seen: float | None = None  # by the steady clock
        self._last: dict[bytes, int] = {}  # sequence number of each publisher's last message
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
        everybody = self._node.get_publishers_info_by_topic(self._topic)
        found = [info for info in everybody if info.topic_type == _type_name(self._type)]
        self._publishers = len(found)
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
        self._first_seen = (self._first_seen or time.monotonic()) if found else None
        other = '' if found else self._other_way()
        return Camera(self._topic, len(found), offered, self._asked, other,
                      self._first_seen)

    def _other_way(self) -> str:
        """Return the argument that finds a camera which publishes pictures of the other type."""
        compressed = self._type is CompressedImage
        kind = _type_name(Image if compressed else CompressedImage)
        base = self._topic.removesuffix('/compressed')
        for topic in dict.fromkeys((self._topic, base if compressed else f'{base}/compressed')):
            infos = self._node.get_publishers_info_by_topic(topic)
            if any(info.topic_type == kind for info in infos):
                way, image = 'raw', topic
                if not compressed:
                    way, image = 'compressed', topic.removesuffix('/compressed')
                return (f'{topic} has {kind}: use image_transport:={way} image_topic:={image} '
                        f'(launch), or -p image_transport:={way} -r image:={image}')
        return ''

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _subscribe(self) -> None:
        self.close()
        qos = QoSProfile(depth=self._settings.image_depth, reliability=_POLICIES[self._asked])
        overrides = subscription_overrides(self._node, self._topic)
        events = SubscriptionEventCallbacks(
            message_lost=lambda event: self._count('lost_middleware', event.total_count_change))
        raw = self._settings.raw_subscription
        self._last.clear()
        take = self._on_bytes if raw else self._on_message
        callback = take if _INFORMED else lambda message: take(message, {})
        try:
            self._subscription = self._node.create_subscription(
                self._type, self._topic, callback, qos, event_callbacks=events, raw=raw,
                qos_overriding_options=overrides)
        except UnsupportedEventTypeError:  # not every middleware can tell
            self._subscription = self._node.create_subscription(
                self._type, self._topic, callback, qos, raw=raw,
                qos_overriding_options=overrides)

    def _on_message(self, message: Picture, info: Mapping[str, Any]) -> None:
        self._look_for_gaps(info)
        self._on_image(message)

    def _look_for_gaps(self, info: Mapping[str, Any]) -> None:
        """
        Count what was sent and did not come.

        The middleware tells of what the network lost, but not of what it replaced because the
        depth was full.
        """
        number = info.get('publication_sequence_number')  # not every middleware has one
        if number is None:
            return
        gid = info.get('publisher_gid')
        if gid is None and self._publishers != 1:
            return  # whose number is it?
        sender = bytes(gid['data']) if gid is not None else b''
        before = self._last.get(sender)
        if before is None and len(self._last) >= _MOST_SENDERS:
            self._last.clear()
        self._last[sender] = number
        if before is not None and number > before + 1:
            self._count('not_delivered', number - before - 1)

    def _on_bytes(self, message: bytes, info: Mapping[str, Any]) -> None:
        self._look_for_gaps(info)
        try:
            picture = read_image(message)
        except ImageError as error:
            self._on_broken(error)
        else:
            self._on_image(picture)
