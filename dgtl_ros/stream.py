# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: what comes from it, what goes out for it, and how it does."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.classes import ClassSet
from dgtl_core.encodings import ImageError
from dgtl_ros.diagnostics import CameraSnapshot, starvation
from dgtl_ros.domain_monitor import DomainMonitor
from dgtl_ros.health import Camera, Health
from dgtl_ros.image_codec import Picture
from dgtl_ros.image_input import ImageInput
from dgtl_ros.outputs import Outputs
from dgtl_ros.settings import Settings
import numpy as np

if TYPE_CHECKING:
    from rclpy.node import Node

_THROTTLE, _COMPLAINTS = 5.0, 10.0  # seconds between two log lines of a fault, of a silence


class Result(NamedTuple):
    """A picture that went through, for ~/snapshot."""

    image: np.ndarray       # (H, W, 3) uint8 RGB
    labels: np.ndarray      # (H, W) uint8, as published
    confidence: np.ndarray  # (H, W) uint8
    stamp_ns: int


class Stream:
    """
    The topics of one camera, and everything counted about them.

    :param name: of the camera, which its topics are below; empty where there is only one.
    :param settings: returns the parameters as they are now.
    """

    def __init__(self, node: Node, name: str, classes: ClassSet,
                 settings: Callable[[], Settings]) -> None:
        self.name = name
        self.health = Health()
        self.camera = Camera()
        self.monitor = DomainMonitor(len(classes))
        self.outputs = Outputs(node, settings(), classes, f'{name}/' if name else '')
        self.last: Result | None = None
        self._node, self._settings = node, settings
        self._input: ImageInput | None = None
        self._put: Callable[[Arrival], bool] | None = None
        self._active_since, self._complained = 0.0, float('-inf')

    def open(self, put: Callable[[Arrival], bool]) -> None:
        """
        Subscribe.

        :param put: takes what arrives; returns whether that superseded something.
        """
        self._put = put
        self.health.succeeded()  # errors of the last activation are not in a row with the next
        self._active_since = time.monotonic()
        self._input = ImageInput(
            self._node, self._settings(), f'{self.name}/image' if self.name else 'image',
            self._on_image, self._on_broken,
            lambda lost: self.health.count('lost_middleware', lost))
        self.camera = self._input.probe()

    def pause(self) -> None:
        """Unsubscribe."""
        if self._input is not None:
            self._input.close()
            self._input = None

    def close(self) -> None:
        """Unsubscribe and take the outputs back."""
        self.pause()
        self.outputs.close()

    def reset(self) -> None:
        """Count from zero."""
        self.health.reset()
        self.monitor.reset()

    def supervise(self) -> None:
        """Look for the camera, and complain where it is silent."""
        if self._input is None:
            return
        self.camera = self._input.probe()
        now = time.monotonic()
        silent = now - max(self.health.last_input or 0.0, self._active_since)
        # Not throttled by rclpy, which counts all cameras as one.
        if silent > self._settings().input_timeout and now - self._complained > _COMPLAINTS:
            self._complained = now
            self._node.get_logger().warning(starvation(self.camera, silent))

    def snapshot(self) -> CameraSnapshot:
        """Return what the diagnostics are made from; any thread may ask."""
        return CameraSnapshot(
            self.name, self.health, self.camera, self.monitor.report(self._settings()),
            self.outputs.subscribers(), self._active_since)

    def _on_image(self, message: Picture) -> None:
        now, stamp = time.monotonic(), message.header.stamp
        self.health.image(
            getattr(message, 'encoding', '') or getattr(message, 'format', ''),
            stamp.sec * 1_000_000_000 + stamp.nanosec, now)
        if not self._settings().enabled:
            self.health.count('dropped_disabled')
        elif self._put is not None and self._put(Arrival(self, message, now)):
            self.health.count('dropped_superseded')

    def _on_broken(self, error: ImageError) -> None:
        self.health.count('received')
        self.broken(error)

    def broken(self, error: ImageError) -> None:
        """Note a message that holds no picture."""
        self.health.count('decode_errors')
        self._node.get_logger().error(
            f'picture of {self.camera.topic} dropped: {error}', throttle_duration_sec=_THROTTLE)


class Arrival(NamedTuple):
    """A message, whose it is and when it came, by the steady clock."""

    stream: Stream
    message: Picture
    time: float
