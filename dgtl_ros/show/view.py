# SPDX-License-Identifier: Apache-2.0
"""``dgtl view --ros``: the page of a running node, from its topics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import os
import sys
import threading
from typing import Any

from dgtl_core.classes import ClassSet
from dgtl_core.cli.view import add_page_options, check_able, serve
from dgtl_core.view.feed import Shown, Slot
from dgtl_ros.cdr_image import CdrImage, read_image
from dgtl_ros.image_codec import to_rgb
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

_NICENESS = 10  # a robot's own work comes before what somebody watches
_KEPT = 16  # stamps whose messages wait for each other
_LEVELS = {DiagnosticStatus.OK: 'ok', DiagnosticStatus.WARN: 'warn'}


class RosFeed:
    """
    Feeds the page from a camera and what the node makes of it; owns this process's ROS.

    :param image: topic of the camera; raw, or compressed where it ends in ``/compressed``.
    :param segmentation: topic of the labels; the others are below it.
    :param arguments: ``--ros-args`` and what follows.

    While nobody looks, pictures are let go unread.
    """

    def __init__(self, image: str, segmentation: str, arguments: Sequence[str] = ()) -> None:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
        self._node = node = Node('dgtl_view')
        self._slot = Slot()
        self.newest, self.wait = self._slot.newest, self._slot.wait
        self._classes: ClassSet | None = None
        self._statuses: dict[str, dict[str, str]] = {}
        self._waiting: dict[int, dict[str, Any]] = {}  # by stamp, nanoseconds
        self._count, self._fault = 0, ''
        self.title = node.resolve_topic_name(segmentation)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        newest = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        if image.endswith('/compressed'):
            node.create_subscription(
                CompressedImage, image, lambda m: self._take('image', m), newest)
        else:
            self._listen('image', image, newest)
        self._listen('labels', segmentation, newest)
        self._listen('confidence', f'{segmentation}/confidence', newest)
        node.create_subscription(String, f'{segmentation}/class_map', self._on_classes, latched)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name='view', daemon=True)
        self._thread.start()

    @property
    def state(self) -> dict[str, Any]:
        """What there is to say; a robot cannot be paused."""
        missing = '' if self._count else (
            f'nothing on {self.title} yet: is the node active, and does a camera publish?')
        return {'playing': True, 'seekable': False, 'total': None, 'ended': False,
                'fault': self._fault or missing}

    @property
    def diagnostics(self) -> list[dict[str, str]]:
        """What the node says of itself."""
        return [self._statuses[name] for name in sorted(self._statuses)]

    def command(self, command: Mapping[str, Any]) -> None:
        """Do nothing: what a robot sees is not for a page to stop."""

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _listen(self, kind: str, topic: str, qos: QoSProfile) -> None:
        """Subscribe to pictures as bytes: rclpy's own message costs several copies of them."""
        def on_bytes(message: bytes) -> None:
            if self._slot.watched():
                try:
                    self._take(kind, read_image(message))
                except ValueError as error:
                    self._fault = f'{topic}: {error}'

        self._node.create_subscription(Image, topic, on_bytes, qos, raw=True)

    def _take(self, kind: str, message: Any) -> None:
        """Keep a message until those of its stamp are complete, and show them then."""
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self._waiting.setdefault(stamp, {})[kind] = message
        while len(self._waiting) > _KEPT:
            del self._waiting[min(self._waiting)]
        for old in sorted(self._waiting):
            found = self._waiting[old]
            # confidence comes right after its labels; where newer ones came first, it never does
            complete = 'confidence' in found or any(
                'labels' in self._waiting[other] for other in self._waiting if other > old)
            if 'image' in found and 'labels' in found and complete:
                del self._waiting[old]
                self._show(old, found)

    def _show(self, stamp: int, found: Mapping[str, Any]) -> None:
        if self._classes is None:
            return
        try:
            image, labels = to_rgb(found['image']), _plane(found['labels'])
            confidence = _plane(found['confidence']) if 'confidence' in found else None
        except ValueError as error:
            self._fault = str(error)
            return
        self._fault = ''
        latency = (self._node.get_clock().now().nanoseconds - stamp) / 1e6
        self._count += 1
        self._slot.put(Shown(
            number=self._count, name=found['labels'].header.frame_id or self.title, image=image,
            labels=labels, confidence=confidence, classes=self._classes,
            # clocks that differ tell nothing
            times_ms={'from the camera to here': latency} if 0 <= latency < 60_000 else {}))

    def _on_classes(self, message: String) -> None:
        try:
            self._classes = ClassSet.from_list('model', json.loads(message.data))
        except (RecursionError, TypeError, ValueError) as error:
            self._fault = f'{self.title}/class_map holds no classes: {error}'

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._statuses[status.name] = {
                'name': status.name.rpartition(': ')[2], 'message': status.message,
                'level': _LEVELS.get(status.level, 'error')}
            if len(self._statuses) > 100:
                del self._statuses[min(self._statuses)]


def _plane(message: Image | CdrImage) -> np.ndarray:
    """Return a mono8 message's pixels, (H, W) uint8; :raises ValueError: it has others."""
    pixels = np.frombuffer(message.data, np.uint8)
    if message.encoding not in ('mono8', '8UC1') or pixels.size != message.step * message.height \
            or message.step < message.width:
        raise ValueError(f'expected mono8 labels of {message.height}x{message.width}, got '
                         f'{message.encoding} of {pixels.size} bytes')
    return pixels.reshape(message.height, message.step)[:, :message.width]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    words = list(arguments)
    at = words.index('--ros-args') if '--ros-args' in words else len(words)
    parser = argparse.ArgumentParser(
        prog='dgtl view --ros', description='Show the camera and the labels of a running node on '
        'a web page of this machine. What follows --ros-args is for ROS, such as '
        '-r __ns:=/robot.')
    parser.add_argument('--camera', metavar='NAME', help=(
        'show this camera of a node with several: NAME/image and NAME/segmentation'))
    parser.add_argument('--image', metavar='TOPIC', help=(
        'show the pictures of this topic, compressed ones where it ends in /compressed '
        '(default: image)'))
    parser.add_argument('--segmentation', metavar='TOPIC', help=(
        'show the labels of this topic (default: segmentation)'))
    add_page_options(parser)
    args = parser.parse_args(words[:at])
    check_able()
    os.nice(_NICENESS)
    prefix = f'{args.camera}/' if args.camera else ''
    feed = RosFeed(args.image or f'{prefix}image',
                   args.segmentation or f'{prefix}segmentation', words[at:])
    try:
        serve(feed, args)
    finally:
        feed.close()
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
