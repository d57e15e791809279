# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: camera pictures in, a class for every pixel out."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from functools import wraps
import hashlib
from pathlib import Path
import sys
import time
import traceback

from dgtl_core.predictor import default_model, ModelError, Predictor
from dgtl_ros.diagnostics import Camera, Health, Model, Snapshot, starvation, statuses, to_message
from dgtl_ros.domain_monitor import DomainMonitor
from dgtl_ros.image_input import ImageInput, Picture
from dgtl_ros.mailbox import Worker
from dgtl_ros.outputs import Outputs
from dgtl_ros.parameters import declare, ParameterError, Settings, unknown_parameters, updated
from dgtl_ros.pipeline import Arrival, Pipeline
from dgtl_ros.process import run, Ticker
from dgtl_ros.snapshot import write_snapshot
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has no other
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

_INFERENCE_END = 5.0  # seconds that a deactivation waits for the inference that is running


def guarded(method: Callable[[SegmentNode], None]) -> Callable[..., TransitionCallbackReturn]:
    """Make a lifecycle callback of a method: rclpy would swallow what it raises."""
    name = method.__name__.removeprefix('on_')

    @wraps(method)
    def callback(self: SegmentNode, _: object) -> TransitionCallbackReturn:
        try:
            method(self)
        except (ModelError, ParameterError) as error:  # the message is made for the user
            self.get_logger().error(f'cannot {name}: {error}')
            self.model_error = str(error)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.get_logger().error(f'cannot {name}:\n{traceback.format_exc()}')
            self.model_error = f'{type(error).__name__}: {error}'
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return callback


class SegmentNode(LifecycleNode):
    """
    Labels the newest picture of a camera.

    :param leave: ends the process with an exit code; called when autostart cannot go on.
    :raises ParameterError: a parameter has a value that it cannot have.
    """

    def __init__(self, leave: Callable[[int], None]) -> None:
        super().__init__('segmenter')
        self._leave = leave
        self._settings = declare(self, Settings)
        for line in unknown_parameters(self, getattr(self, '_parameter_overrides', {})):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._state = 'unconfigured'
        self.model_error = ''
        self._health = Health()
        self._camera = Camera()
        self._model: Model | None = None
        self._predict: Predictor | None = None
        self._outputs: Outputs | None = None
        self._monitor: DomainMonitor | None = None
        self._input: ImageInput | None = None
        self._pipeline: Pipeline | None = None
        self._worker: Worker[Arrival] | None = None
        self._active_since = 0.0

        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/reset_stats', self._on_reset)
        self.create_service(Trigger, '~/snapshot', self._on_snapshot)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # runs on when simulated time stands
        self._ticker = Ticker(1.0, self._diagnose)
        self.create_timer(0.5, self._supervise, clock=steady)
        if self._settings.autostart:
            self._start = self.create_timer(0.0, self._autostart, clock=steady)

    # --- lifecycle -------------------------------------------------------------------------

    @guarded
    def on_configure(self) -> None:
        """Load the model and announce its classes."""
        self._state, self.model_error = 'configuring', ''
        try:
            self._load()
        except BaseException:
            self._release()
            raise
        self._state = 'inactive'

    @guarded
    def on_activate(self) -> None:
        """Subscribe and start to infer."""
        predict, outputs, monitor = self._predict, self._outputs, self._monitor
        assert predict is not None and outputs is not None and monitor is not None
        self._pipeline = pipeline = Pipeline(
            predict, outputs, self._health, monitor, lambda: self._settings, self.get_clock(),
            self.get_logger())
        self._worker = Worker(pipeline, self._interval)
        self._active_since = time.monotonic()
        self._input = ImageInput(self, self._settings, self._on_image,
                                 lambda lost: self._health.count('lost_middleware', lost))
        self._camera = self._input.probe()
        self._state = 'active'
        self.get_logger().info(
            f'labels of {self._camera.topic} go to {self.resolve_topic_name("segmentation")}')

    @guarded
    def on_deactivate(self) -> None:
        """Unsubscribe and stop to infer."""
        if not self._pause(_INFERENCE_END):
            raise RuntimeError(
                f'the running inference did not end within {_INFERENCE_END:g} s; its engine is '
                'dropped')
        self._state = 'inactive'

    @guarded
    def on_cleanup(self) -> None:
        """Free the model."""
        self._release()

    @guarded
    def on_shutdown(self) -> None:
        """Free everything."""
        self._release()
        self._state = 'finalized'

    @guarded
    def on_error(self) -> None:
        """Free everything; the node can be configured again."""
        self._release()

    def stop(self, timeout: float) -> bool:
        """End the inference thread; return whether it did within ``timeout`` seconds."""
        self._ticker.stop(timeout / 2)
        return self._stop_inference(timeout / 2)

    def _load(self) -> None:
        settings, start = self._settings, time.monotonic()
        path = Path(settings.model_path).expanduser() if settings.model_path else default_model()
        self._predict = predict = Predictor.load(
            path, settings.backend, settings.device, settings.threads, settings.resize_mode)
        empty = np.zeros((*predict.input_size, 3), np.uint8)
        for _ in range(settings.warmup_iterations):
            predict(empty)
        with path.open('rb') as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        self._model = Model(
            name=predict.metadata.name, path=str(path), sha256=digest.hexdigest(),
            num_classes=len(predict.classes), input_size=predict.input_size,
            backend=predict.backend_name, load_s=time.monotonic() - start,
            embedded=not settings.model_path)
        self._monitor = DomainMonitor(len(predict.classes))
        self._outputs = Outputs(self, settings, predict.classes)
        self._outputs.announce(settings.confidence_threshold)
        self.get_logger().info(
            f'model {self._model.name}: {self._model.num_classes} classes, input '
            f'{predict.input_size[0]}x{predict.input_size[1]}, {predict.backend_name}, ready '
            f'after {self._model.load_s:.1f} s')
        if self._model.embedded:
            self.get_logger().warning(
                'no model_path is set: the embedded model is for demonstration, not for driving')
        if not self._outputs.announces_label_info:
            self.get_logger().warning(
                'vision_msgs is not installed: no segmentation/label_info; the classes are on '
                'segmentation/class_map', once=True)

    def _stop_inference(self, timeout: float) -> bool:
        if self._pipeline is not None:
            self._pipeline.stopped = True
        return self._worker is None or self._worker.stop(timeout)

    def _pause(self, timeout: float) -> bool:
        if self._input is not None:
            self._input.close()
        ended = self._stop_inference(timeout)
        self._input = self._worker = self._pipeline = None
        return ended

    def _release(self) -> None:
        self._pause(_INFERENCE_END)
        if self._outputs is not None:
            self._outputs.close()
        if self._predict is not None:
            self._predict.close()
        self._outputs = self._predict = self._monitor = self._model = None
        self._state = 'unconfigured'

    # --- what runs while active --------------------------------------------------------------

    def _on_image(self, message: Picture) -> None:
        now, stamp = time.monotonic(), message.header.stamp
        self._health.image(
            getattr(message, 'encoding', '') or getattr(message, 'format', ''),
            stamp.sec * 1_000_000_000 + stamp.nanosec, now)
        if not self._settings.enabled:
            self._health.count('dropped_disabled')
        elif self._worker is not None and self._worker.mailbox.put(Arrival(message, now)):
            self._health.count('dropped_superseded')

    def _interval(self) -> float:
        rate = self._settings.max_rate
        return 1 / rate if rate else 0.0

    def _supervise(self) -> None:
        if self._input is None or self._pipeline is None:
            return
        self._camera = self._input.probe()
        last = self._health.last_input
        silent = time.monotonic() - max(last or 0.0, self._active_since)
        if silent > self._settings.input_timeout:
            self.get_logger().warning(
                starvation(self._camera, silent), throttle_duration_sec=10.0)
        if self._pipeline.gave_up:
            self.get_logger().error(
                f'{self._health.consecutive_errors} inferences in a row failed: deactivating '
                '(on_inference_error)')
            self.model_error = self._health.last_error
            self.trigger_deactivate()

    def _diagnose(self) -> None:  # in a thread of its own
        monitor, outputs, model = self._monitor, self._outputs, self._model
        found = statuses(Snapshot(
            state=self._state, settings=self._settings, health=self._health, camera=self._camera,
            model=model, model_error=self.model_error,
            domain=monitor.report(self._settings) if monitor is not None else ({}, []),
            subscribers=outputs.subscribers() if outputs is not None else 0,
            active_since=self._active_since))
        message = to_message(found, self.get_fully_qualified_name(),
                             model.backend if model else '', self.get_clock().now().to_msg())
        with contextlib.suppress(RuntimeError):  # the node is just being destroyed
            self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self.destroy_timer(self._start)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                self.get_logger().fatal('cannot start; see the error above')
                self._leave(1)
                return

    # --- parameters and services -------------------------------------------------------------

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            settings = updated(self._settings, changes, self._state != 'unconfigured')
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        threshold_changed = settings.confidence_threshold != self._settings.confidence_threshold
        self._settings = settings
        if threshold_changed and self._outputs is not None:
            self._outputs.announce(settings.confidence_threshold)
        return SetParametersResult(successful=True)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter('enabled', value=request.data)])[0]
        response.success = result.successful
        response.message = result.reason or ('enabled' if request.data else 'disabled')
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._health.reset()
        if self._monitor is not None:
            self._monitor.reset()
        response.success, response.message = True, 'all counters are zero'
        return response

    def _on_snapshot(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        last = self._pipeline.last if self._pipeline is not None else None
        if last is None or self._predict is None:
            response.success = False
            response.message = 'no picture was segmented since the node was activated'
            return response
        parent = Path(self._settings.snapshot_dir).expanduser()
        try:
            folder = write_snapshot(parent, last, self._predict.classes, {
                'model': self._model and self._model.name, 'counts': self._health.counts(),
                'stages_ms_p50': {n: d.percentile(50) for n, d in self._health.stages.items()},
                'domain': self._monitor.report(self._settings)[0] if self._monitor else {}})
        except OSError as error:
            response.success = False
            response.message = f'cannot write to {parent}: {error}; set snapshot_dir'
            return response
        response.success, response.message = True, str(folder)
        return response


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    return run('segmenter', SegmentNode, sys.argv if args is None else args)


if __name__ == '__main__':
    sys.exit(main())
