# SPDX-License-Identifier: Apache-2.0
"""The second lifecycle node: labels of a picture on the points that a robot measures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
from functools import partial
import sys
import time
from typing import Any

from dgtl_ros.bond import ManagerBond
from dgtl_ros.parameters import declare, ParameterError, unknown_parameters, updated
from dgtl_ros.points.labelling import Labelling
from dgtl_ros.points.matching import Matcher
from dgtl_ros.points.report import Report
from dgtl_ros.points.settings import PointsSettings
from dgtl_ros.points.transforms import StaticTransform, TfTransforms, TransformError, Transforms
from dgtl_ros.process import own_arguments, run, Ticker
from dgtl_ros.status import to_message
from dgtl_ros.transition import guarded, started
from dgtl_ros.worker import Worker
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has no other
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

_LOG_S = 5.0  # seconds between two log lines of one fault
_KINDS = {'points': PointCloud2}  # the others are pictures


class LabelPoints(LifecycleNode):
    """
    Publishes a labelled cloud for each set of labels and points of one moment.

    :param leave: ends the process with an exit code; called when autostart cannot go on.
    :raises ParameterError: a parameter has a value that it cannot have.
    """

    def __init__(self, leave: Callable[[int], None]) -> None:
        super().__init__('label_points')
        self._leave = leave
        self._bond = ManagerBond(self)
        self._settings = declare(self, PointsSettings)
        for line in unknown_parameters(self, getattr(self, '_parameter_overrides', {})):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._state, self.model_error = 'unconfigured', ''
        self._label: Labelling | None = None
        self._tf: TfTransforms | None = None  # once it was needed
        self._info: CameraInfo | None = None
        self._inputs: list[Any] = []
        self._output: Any = None
        self._worker: Worker[dict[str, Any]] | None = None
        self._report = Report(self._settings)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._ticker = Ticker(1.0, self._diagnose)
        if self._settings.autostart:
            self._start = self.create_timer(
                0.0, self._autostart, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @guarded
    def on_configure(self) -> None:
        """Find out where the transforms come from."""
        self.model_error = ''
        transforms: Transforms | None = None
        if self._settings.source == 'lidar':
            try:
                transforms = (StaticTransform(self._settings.extrinsic)
                              if self._settings.extrinsic else self._listening())
            except TransformError as error:
                raise ParameterError(str(error)) from None
        self._label = Labelling(self._settings, transforms)
        self._output = self.create_publisher(
            PointCloud2, 'segmentation/points', QoSProfile(depth=5),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._state = 'inactive'

    @guarded
    def on_activate(self) -> None:
        """Subscribe to labels, points and CameraInfo."""
        settings = self._settings
        self._report = Report(settings)
        self._worker = Worker(self._work, lambda: 0.0)
        matcher = self._report.matcher
        # What a sensor and a node of either reliability offer.
        qos = QoSProfile(
            depth=settings.queue_size, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic in settings.topics:
            self._inputs.append(self.create_subscription(
                _KINDS.get(topic, Image), topic,
                partial(self._on_message, matcher, self._worker, topic), qos))
        if settings.source != 'cloud':
            self._inputs.append(self.create_subscription(
                CameraInfo, 'camera_info', self._on_info, qos))
        if not self._settings.autostart:
            self._bond.form()
        self._state = 'active'

    @guarded
    def on_deactivate(self) -> None:
        """Unsubscribe."""
        self._pause()
        self._state = 'inactive'

    @guarded
    def on_cleanup(self) -> None:
        """Take the output back."""
        self._release('unconfigured')

    @guarded
    def on_shutdown(self) -> None:
        """End everything."""
        self._release('finalized')

    @guarded
    def on_error(self) -> None:
        """End everything; the node can be configured again."""
        self._release('unconfigured')

    def stop(self, timeout: float) -> bool:
        """End all own threads; return whether they did within ``timeout`` seconds."""
        self._ticker.stop(timeout / 2)
        worker = self._worker
        return worker is None or worker.stop(timeout / 2)

    def destroy_node(self) -> None:
        """Leave the graph; nothing of ours publishes any more."""
        self._bond.end()
        super().destroy_node()

    def _listening(self) -> TfTransforms:
        self._tf = self._tf or TfTransforms(self)
        return self._tf

    def _pause(self) -> None:
        self._bond.end()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop(1.0)

    def _release(self, state: str) -> None:
        self._pause()
        if self._output is not None:
            self.destroy_publisher(self._output)
        self._output = self._label = self._info = None
        self._state = state

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_message(self, matcher: Matcher, worker: Worker[dict[str, Any]], topic: str,
                    message: Any) -> None:
        found = matcher.put(topic, message)
        if found is not None and worker.mailbox.put(found):
            self._report.superseded()

    def _work(self, items: list[dict[str, Any]]) -> None:  # in the worker's thread
        label, output, report = self._label, self._output, self._report
        if label is None or output is None:
            return
        start = time.monotonic()
        try:
            cloud = label(items[0], self._info)
            if output.get_subscription_count():
                output.publish(cloud)
        except Exception as error:  # one message must not end the thread
            report.failed(error)
            self.get_logger().error(
                f'points dropped: {report.last_error}', throttle_duration_sec=_LOG_S)
        else:
            report.done((time.monotonic() - start) * 1e3)

    def _diagnose(self) -> None:  # in a thread of its own
        status = self._report.status(self._state, self.model_error)
        message = to_message([status], self.get_fully_qualified_name(), '',
                             self.get_clock().now().to_msg())
        with contextlib.suppress(RuntimeError):  # the node is just being destroyed
            self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self.destroy_timer(self._start)
        if not started(self, self.trigger_configure, self.trigger_activate):
            self._leave(1)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._settings = updated(self._settings, changes, self._state != 'unconfigured')
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._report.settings = self._settings
        return SetParametersResult(successful=True)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    args = sys.argv if args is None else args
    argparse.ArgumentParser(
        prog='label_points', description='Put the labels of segment_node on points: of a depth '
        'image, of an organised cloud, or of a lidar. Everything is a ROS parameter: --ros-args '
        '-p source:=lidar -r points:=/lidar/points -r camera_info:=/camera/camera_info',
        usage='label_points [--help] [--ros-args ...]').parse_args(own_arguments(args))
    return run('label_points', LabelPoints, args)


if __name__ == '__main__':
    sys.exit(main())
