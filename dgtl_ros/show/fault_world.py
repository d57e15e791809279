# SPDX-License-Identifier: Apache-2.0
"""Two cameras and what can go wrong with them, their consumers and their operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
import random
import signal
import time
from typing import Any

from dgtl_ros.image_codec import mono8, rgb8
from dgtl_ros.show.children import Child, ChildError
from dgtl_ros.show.participant import Participant
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
import numpy as np
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

CAMERAS = ('front', 'rear')
_PERIOD = 1 / 30
_SIZE = (360, 640)
_PATIENCE = 60.0


class FaultWorld(Participant):
    """
    The observer's node; all of it runs in the thread that calls it.

    ``labels`` counts the label pictures that came, ``faults`` what was done wrong, by name.
    """

    def __init__(self, node: Child, environment: Mapping[str, str], seed: int) -> None:
        self._child, self._random = node, random.Random(seed)
        super().__init__('soak', environment)
        self.labels, self.faults = 0, Counter[str]()
        self._latencies: list[float] = []
        self._status: dict[str, dict[str, str]] = {}
        self._cameras = {name: self._camera(name) for name in CAMERAS}
        self._pictures = [np.random.default_rng(seed).integers(
            0, 150, (*_SIZE, 3), np.uint8) for _ in range(4)]
        self._viewer: Any = None
        self._enabled: Any = self._node.create_client(SetBool, 'segmenter/enable')
        self._state: Any = self._node.create_client(ChangeState, 'segmenter/change_state')
        self._parameters: Any = self._node.create_client(
            SetParametersAtomically, 'segmenter/set_parameters_atomically')
        for name in CAMERAS:
            self._node.create_subscription(Image, f'{name}/segmentation', self._on_labels, 50)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._due = time.monotonic()
        self._left: list[Callable[[], object]] = []

    def wait_for_labels(self) -> None:
        """Play until the node answers. :raises ChildError: it ended, or does not."""
        limit = time.monotonic() + _PATIENCE
        while not self.labels:
            self.play(0.2)
            self._child.check()
            if time.monotonic() > limit:
                raise ChildError(f'the node gave no labels within {_PATIENCE:g} s')

    def play(self, seconds: float) -> list[float]:
        """Play both cameras; return the latencies in milliseconds of the labels that came."""
        self._latencies = []
        limit = time.monotonic() + seconds
        while (now := time.monotonic()) < limit:
            if now >= self._due:
                self._due = max(self._due + _PERIOD, now - _PERIOD)
                for camera in self._cameras.values():
                    camera.publish(rgb8(self._random.choice(self._pictures), self._header()))
            self._executor.spin_once(timeout_sec=max(min(self._due, limit) - now, 0.0))
        return self._latencies

    def settle(self) -> None:
        """Take back the last fault, and wait until the node has said what became of everything."""
        self._take_back()
        self.play(1.0)
        self.spin(4.0)  # no pictures any more

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counters of each camera from the newest diagnostics."""
        found: dict[str, dict[str, int]] = {name: {} for name in CAMERAS}
        for task, values in self._status.items():
            for name in CAMERAS:
                if name in task:
                    found[name] |= {k: int(v) for k, v in values.items() if v.isdecimal()}
        return found

    def fault(self) -> None:
        """Take the last fault back where that is needed, and do the next one."""
        self._take_back()
        fault = self._random.choice((
            self._short, self._unknown, self._empty, self._old, self._other_camera,
            self._other_size, self._viewer_comes_or_goes, self._set_parameters, self._disable,
            self._pause, self._deactivate))
        self.faults[fault.__name__.strip('_')] += 1
        fault()

    def _take_back(self) -> None:
        while self._left:
            self._left.pop()()

    def _one(self) -> Any:
        return self._cameras[self._random.choice(CAMERAS)]

    def _camera(self, name: str, reliable: bool = True) -> Any:
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return self._node.create_publisher(
            Image, f'{name}/image', QoSProfile(depth=2, reliability=reliability))

    def _header(self, age: float = 0.0) -> Header:
        now = self._node.get_clock().now().nanoseconds - int(age * 1e9)
        header = Header(frame_id='camera')
        header.stamp.sec, header.stamp.nanosec = divmod(now, 1_000_000_000)
        return header

    def _short(self) -> None:
        message = rgb8(self._pictures[0], self._header())
        message.data = message.data[:1000]
        self._one().publish(message)

    def _unknown(self) -> None:
        message = rgb8(self._pictures[0], self._header())
        message.encoding = 'lidar7'
        self._one().publish(message)

    def _empty(self) -> None:
        self._one().publish(Image(header=self._header(), encoding='rgb8'))

    def _old(self) -> None:
        self._one().publish(rgb8(self._pictures[0], self._header(60.0)))

    def _other_camera(self) -> None:
        name = self._random.choice(CAMERAS)
        self._node.destroy_publisher(self._cameras[name])
        self._cameras[name] = self._camera(name, self._random.random() < 0.5)

    def _other_size(self) -> None:
        plane = np.zeros((240, 320), np.uint8)
        for _ in range(3):
            self._one().publish(mono8(plane, self._header()))

    def _viewer_comes_or_goes(self) -> None:
        if self._viewer is None:
            self._viewer = self._node.create_subscription(
                Image, 'front/segmentation/overlay', lambda _: None, 1)
        else:
            self._node.destroy_subscription(self._viewer)
            self._viewer = None

    def _set_parameters(self) -> None:
        for value in (1.0, 'much'):  # of the second pair one member is bad
            self._parameters.call_async(SetParametersAtomically.Request(parameters=[
                Parameter('overlay_max_rate', value=5.0).to_parameter_msg(),
                Parameter('input_timeout', value=value).to_parameter_msg()]))

    def _disable(self) -> None:
        self._enabled.call_async(SetBool.Request(data=False))
        self._left.append(lambda: self._enabled.call_async(SetBool.Request(data=True)))

    def _pause(self) -> None:
        self._child.process.send_signal(signal.SIGSTOP)
        self.play(0.5)
        self._child.process.send_signal(signal.SIGCONT)

    def _deactivate(self) -> None:
        self._change('deactivate')
        self._left.append(lambda: self._change('activate'))

    def _change(self, label: str) -> None:
        request = ChangeState.Request()
        request.transition.label = label
        self._state.call_async(request)

    def _on_labels(self, message: Image) -> None:
        self.labels += 1
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self._latencies.append((self._node.get_clock().now().nanoseconds - stamp) / 1e6)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._status[status.name] = {v.key: v.value for v in status.values}
