# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: what comes from it, what goes out for it, and how it does."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.classes import ClassSet
from dgtl_core.domain import DomainModel
from dgtl_core.encodings import ImageError
from dgtl_ros.diagnostics import CameraSnapshot
from dgtl_ros.domain_watch import DomainWatch
from dgtl_ros.finishing import Finishing
from dgtl_ros.health import Camera, Health
from dgtl_ros.image_codec import Picture
from dgtl_ros.image_input import ImageInput
from dgtl_ros.outputs import Outputs
from dgtl_ros.printable import printable
from dgtl_ros.reader import Decoded, Reader
from dgtl_ros.settings import Settings
from dgtl_ros.silence import discovered, starvation
from dgtl_ros.speed_limit import SpeedLimiter
from dgtl_ros.watchdog import overdue, Stuck
from dgtl_ros.worker import Worker
import numpy as np

if TYPE_CHECKING:
    from rclpy.node import Node

_COMPLAINTS = 10.0  # seconds between two log lines of a silence
_MOST_HUNG = 3  # decoders of one camera that are left to themselves


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
    :param limiter: of the node's speed, by what all cameras see.
    :param domain: what the model file knows about normal drives.
    """

    def __init__(self, node: Node, name: str, classes: ClassSet,
                 settings: Callable[[], Settings], limiter: SpeedLimiter,
                 domain: DomainModel | None = None) -> None:
        self.name = name
        self.health = Health()
        self.camera = Camera()
        self.finish = Finishing(classes, settings(), name)
        self.outputs = Outputs(
            node, settings(), self.finish.classes, f'{name}/' if name else '')
        self.watch = DomainWatch(name, len(classes), settings, self.outputs, limiter, domain)
        self.last: Result | None = None
        topic = node.resolve_topic_name(f'{name}/image' if name else 'image')
        self.reader = Reader(topic, self.health, settings, node.get_logger())
        self._node, self._settings = node, settings
        self._input: ImageInput | None = None
        self._decoder: Worker[Arrival] | None = None
        self._decoding: Arrival | None = None
        self._hung: list[Worker[Arrival]] = []
        self._put: Callable[[Arrival], Arrival | None]
        self._interval: Callable[[], float]
        self._active_since, self._complained = 0.0, float('-inf')

    def subscribe(self, put: Callable[[Arrival], Arrival | None],
                  interval: Callable[[], float]) -> None:
        """
        Subscribe.

        :param put: takes what arrives; returns what nobody will take for it, as a mailbox does.
        :param interval: returns the least time in seconds between two pictures that are wanted.
        """
        self._put, self._interval = put, interval
        self.health.succeeded()  # errors of the last activation are not in a row with the next
        self._active_since = time.monotonic()
        settings = self._settings()
        if settings.image_transport == 'compressed':
            self._decoder = self._new_decoder()
        self._input = ImageInput(
            self._node, settings, f'{self.name}/image' if self.name else 'image',
            self._on_image, self._on_broken, self.health.count)
        self.camera = self._input.probe()

    def pause(self) -> None:
        """Unsubscribe."""
        if self._input is not None:
            self._input.close()
            self._input = None
        if self._decoder is not None:
            self._decoder.mailbox.close()  # its thread ends after the picture that it is at
            self._decoder = None

    def close(self) -> None:
        """Unsubscribe and take the outputs back."""
        self.pause()
        self.outputs.close()

    def reset(self) -> None:
        """Count from zero."""
        self.health.reset()
        self.watch.reset()

    def supervise(self) -> None:
        """Look for the camera, and complain where it is silent."""
        if self._input is None:
            return
        self.camera = self._input.probe()
        now = time.monotonic()
        silent = now - max(self.health.last_input or 0.0, self._active_since)
        # Not throttled by rclpy, which counts all cameras as one.
        late = silent > self._settings().input_timeout and not discovered(self.camera, now)
        if late and now - self._complained > _COMPLAINTS:
            self._complained = now
            self._node.get_logger().warning(starvation(
                self.camera, silent, self.health.size, now))

    def stuck(self, now: float) -> Stuck | None:
        """Return since when the decoder is at one picture, if for longer than it may."""
        return overdue(
            self._decoder, f'the decoder of {self.camera.topic} has been at one picture',
            self._settings().inference_timeout, now)

    def restart_decoder(self) -> None:
        """Leave a decoder that hangs to itself, and decode the next picture in a new thread."""
        if self._decoder is None or self._decoding is None:
            return
        self._hung = [worker for worker in self._hung if worker.busy_since is not None]
        if len(self._hung) >= _MOST_HUNG:
            return  # the diagnostics say that it hangs
        self._hung.append(self._decoder)
        hung, self._decoding = self._decoding, None
        self.reader.broken(hung.ticket, 'its decoder does not come to an end')
        left = self._decoder.mailbox.close()
        self._decoder = self._new_decoder()
        for arrival in left:
            self._hand_on(arrival, self._decoder.mailbox.put)

    def snapshot(self, now: float) -> CameraSnapshot:
        """Return what the diagnostics are made from; any thread may ask."""
        return CameraSnapshot(
            self.name, self.health, self.camera, self.watch.verdict,
            self.outputs.subscribers(), self._active_since, self.stuck(now),
            self.outputs.faults(now))

    def _new_decoder(self) -> Worker[Arrival]:
        # A compressed picture may take its time; nobody else waits for it in this thread.
        return Worker(self._decode, self._interval, name=f'decoder {self.name}'.strip())

    def _on_image(self, message: Picture) -> None:
        now, stamp = time.monotonic(), message.header.stamp
        ticket = self.health.image(
            getattr(message, 'encoding', '') or getattr(message, 'format', ''),
            stamp.sec * 1_000_000_000 + stamp.nanosec, now)
        if not self._settings().enabled:
            self.health.end(ticket, 'dropped_disabled')
            return
        arrival, decoder = Arrival(self, message, now, ticket), self._decoder
        self._hand_on(arrival, decoder.mailbox.put if decoder is not None else self._put)

    def _on_broken(self, error: ImageError) -> None:
        self.reader.broken(self.health.arrive(), printable(error))

    def _decode(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self._decoding = arrival
            decoded = self.reader.read(arrival.message, arrival.ticket)
            if decoded is not None and self._decoding is arrival:  # else given up meanwhile
                self._hand_on(arrival._replace(decoded=decoded), self._put)

    def _hand_on(self, arrival: Arrival, put: Callable[[Arrival], Arrival | None]) -> None:
        left = put(arrival)
        if left is not None:
            left.end('dropped_inactive' if left is arrival else 'dropped_superseded')


class Arrival(NamedTuple):
    """A message, whose it is and when it came, by the steady clock."""

    stream: Stream
    message: Picture
    time: float
    ticket: int  # of its camera's account
    decoded: Decoded | None = None  # where that was done on the way

    def end(self, outcome: str) -> bool:
        """Note how it ended; return whether that was still open."""
        return self.stream.health.end(self.ticket, outcome)
