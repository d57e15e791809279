# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: camera pictures in, a class for every pixel out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
import sys
import time

from dgtl_core.classes import ClassSet
from dgtl_core.domain import domain_of
from dgtl_core.predictor import ModelError, Predictor
from dgtl_core.runtime.board import Device
from dgtl_ros.bond import ManagerBond
from dgtl_ros.dds_profile import add_argument
from dgtl_ros.diagnostics import Model, Snapshot, statuses
from dgtl_ros.inference import Inference
from dgtl_ros.loading import advice, batch_of, load_model, rebuild
from dgtl_ros.namesakes import Namesakes
from dgtl_ros.parameters import declare, ParameterError, unknown_parameters, updated
from dgtl_ros.printable import printable
from dgtl_ros.process import own_arguments, run, Ticker
from dgtl_ros.settings import Settings
from dgtl_ros.snapshot import write_snapshots
from dgtl_ros.speed_limit import SpeedLimiter
from dgtl_ros.status import to_message
from dgtl_ros.stream import Stream
from dgtl_ros.transition import DroppedError, guarded, started
from dgtl_ros.triggers import offer
from dgtl_ros.watchdog import Watchdog
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has no other
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

_INFERENCE_END = 5.0  # seconds that a deactivation waits for the inference that is running
_RESTARTS = 3  # without a picture between them; each leaves a thread and a model behind


class SegmentNode(LifecycleNode):
    """
    Labels the newest picture of a camera, or of several.

    :param leave: ends the process with an exit code; called when autostart cannot go on.
    :raises ParameterError: a parameter has a value that it cannot have.
    """

    def __init__(self, leave: Callable[[int], None]) -> None:
        super().__init__('segmenter')
        self._leave = leave
        self._bond = ManagerBond(self)
        self._settings = declare(self, Settings)
        for line in unknown_parameters(self, getattr(self, '_parameter_overrides', {})):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._state = 'unconfigured'
        self.model_error = ''
        self._device = Device('cpu')
        self._model: Model | None = None
        self._predict: Predictor | None = None
        self._streams: list[Stream] = []
        self._inference: Inference | None = None
        self._hung: list[Inference] = []  # that did not end when they should
        self._namesakes = Namesakes(self)
        self._watchdog = Watchdog()
        self._restarts = self._published = 0  # how often in a row, after how many pictures

        self.create_service(SetBool, '~/enable', self._on_enable)
        offer(self, '~/reset_stats', self._reset)
        offer(self, '~/rebuild_engine', self._rebuild)
        offer(self, '~/snapshot', self._snapshot)
        self._limiter = SpeedLimiter(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # runs on when simulated time stands
        self._ticker = Ticker(1.0, self._diagnose)
        self.create_timer(0.5, self._supervise, clock=steady)
        if self._settings.autostart or self._settings.build_only:
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
        self.model_error = ''
        self._restarts = 0
        self._begin()
        for stream in self._streams:
            self.get_logger().info(f'labels of {stream.camera.topic} go to '
                                   f'{self.resolve_topic_name(stream.outputs.topic)}')
        if not self._settings.autostart:
            self._bond.form()
        self._state = 'active'

    @guarded
    def on_deactivate(self) -> None:
        """Unsubscribe and stop to infer."""
        self._bond.end()
        if not self._pause(_INFERENCE_END):
            raise DroppedError(
                f'the running inference did not end within {_INFERENCE_END:g} s; its engine is '
                'dropped')
        if self._predict is None:  # dropped before, and there is no other
            raise DroppedError(self.model_error)
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
        """End all inference threads; return whether they did within ``timeout`` seconds."""
        self._ticker.stop(timeout / 2)
        inference = self._inference
        ended = inference is None or inference.stop(timeout / 2)
        return ended and all(hung.stop(0.0) for hung in self._hung)

    def destroy_node(self) -> None:
        """Leave the graph; nothing of ours publishes any more."""
        self._bond.end()
        super().destroy_node()

    def _load(self) -> None:
        settings = self._settings
        self.get_logger().info(f'loading {settings.model_path or "the embedded model"}')
        self._predict, self._model = predict, model = load_model(settings)
        self._device.close()
        self._device = Device(settings.device)
        self._streams = [Stream(self, name, predict.classes, lambda: self._settings,
                                self._limiter, domain_of(predict.metadata))
                         for name in settings.camera_names]
        self._announce()
        for line in predict.metadata.uncalibrated():
            self.get_logger().info(line)
        self.get_logger().info(
            f'model {model.name}: {model.num_classes} classes, input '
            f'{model.input_size[0]}x{model.input_size[1]}, {predict.backend_name}, ready after '
            f'{model.load_s:.1f} s')
        for line in advice(predict, model, settings):
            self.get_logger().warning(line)
        if not self._streams[0].outputs.announces_label_info:
            self.get_logger().warning(
                'vision_msgs is not installed: no segmentation/label_info; the classes are on '
                'segmentation/class_map', once=True)

    def _announce(self) -> None:
        for stream in self._streams:
            stream.outputs.announce(self._settings.confidence_threshold)

    def _pause(self, timeout: float) -> bool:
        for stream in self._streams:
            stream.pause()
        inference, self._inference = self._inference, None
        ended = inference is None or inference.stop(timeout)
        if inference is not None and not ended:
            inference.abandon()
            self._hung.append(inference)
            self._predict = self._model = None
        for stream in self._streams:
            stream.health.settle()
        return ended

    def _release(self) -> None:
        self._bond.end()
        self._pause(_INFERENCE_END)
        self._device.close()
        for stream in self._streams:
            stream.close()
        self._limiter.forget()
        if self._predict is not None:
            self._predict.close()
        self._streams = []
        self._predict = self._model = None
        self._state = 'unconfigured'

    # --- what runs while active --------------------------------------------------------------

    def _class_named(self) -> str:
        """Return the name of the published class that has the id of pixels without one."""
        classes = [c for stream in self._streams[:1] for c in stream.finish.classes]
        return next((c.name for c in classes if c.id == self._settings.unlabeled_id), '')

    def _clock_stands(self) -> bool:
        """Whether the time is simulated, and nobody says what it is."""
        simulated = self.get_parameter('use_sim_time').value
        return bool(simulated) and not self.get_clock().now().nanoseconds

    def _begin(self) -> None:
        assert self._predict is not None
        self._inference = inference = Inference(
            self._predict, lambda: self._settings, self.get_clock(), self.get_logger())
        for stream in self._streams:
            stream.subscribe(inference.put, inference.interval)

    def _supervise(self) -> None:
        self._namesakes.look()
        for stream in self._streams:
            stream.supervise()
        if self._inference is not None and self._inference.gave_up:
            self._give_up(self._inference.gave_up)
        if self._inference is not None:
            self._watch(self._inference)

    def _give_up(self, why: str) -> None:
        self.model_error = why
        self.get_logger().error(why)
        self.trigger_deactivate()

    def _watch(self, inference: Inference) -> None:
        """Say what hangs, and do about it what on_timeout asks for."""
        now, todo = time.monotonic(), self._settings.on_timeout
        hanging = [(stream.name, stream.stuck(now), stream.restart_decoder)
                   for stream in self._streams]
        for name, stuck, restart in [*hanging, ('/', inference.stuck(now), self._restart)]:
            if stuck is None or not self._watchdog.bites(name, stuck, now):
                continue
            self.get_logger().error(f'{stuck.text(now)}; on_timeout is "{todo}"')
            if todo == 'exit':
                self._leave(1)
            elif todo == 'restart':
                restart()

    def _restart(self) -> None:
        """Leave the inference that hangs to itself, and load the model again."""
        published = sum(stream.health.counts()['published'] for stream in self._streams)
        self._restarts = self._restarts + 1 if published == self._published else 1
        self._published = published
        self._pause(0.0)
        if self._restarts > _RESTARTS:
            self._give_up(f'the inference hung {self._restarts} times in a row: deactivating')
            return
        try:
            self._adopt(*load_model(self._settings, classes=self._announced()))
        except (ModelError, OSError, RuntimeError) as error:
            self._give_up(f'the model cannot be loaded again: {printable(error)}')
            return
        self._begin()

    def _adopt(self, predict: Predictor, model: Model) -> None:
        """Use a model that was loaded again, and judge the pictures by what its file knows."""
        self._predict, self._model = predict, model
        for stream in self._streams:
            stream.watch.adopt(domain_of(predict.metadata))

    def _announced(self) -> ClassSet:
        return self._streams[0].finish.model_classes

    def _diagnose(self) -> None:  # in a thread of its own
        predict, device = self._predict, self._device.read()
        inference, now = self._inference, time.monotonic()
        backend = predict.backend_name if predict is not None else ''
        found = statuses(Snapshot(
            state=self._state, settings=self._settings, model=self._model,
            model_error=self.model_error, backend=backend,
            engine=predict.engine if predict is not None else None,
            batch=batch_of(predict, self._settings) if predict is not None else 0,
            cameras=[stream.snapshot(now) for stream in self._streams],
            device=device, stuck=inference.stuck(now) if inference is not None else None,
            twins=self._namesakes.count, clock_stands=self._clock_stands(),
            unlabeled=self._class_named()), now)
        for status in found:
            self.get_logger().debug(printable(f'{status.task}: {status.message}'))
        message = to_message(
            found, self.get_fully_qualified_name(), str(device.get('gpu') or backend),
            self.get_clock().now().to_msg())
        with contextlib.suppress(RuntimeError):  # the node is just being destroyed
            self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self.destroy_timer(self._start)
        only = self._settings.build_only
        if not started(self, self.trigger_configure, *([] if only else [self.trigger_activate])):
            self._leave(1)
        elif only:
            self.get_logger().info('build_only: the engine is there, the node ends')
            self._leave(0)

    # --- parameters and services -------------------------------------------------------------

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            settings = updated(self._settings, changes, self._state != 'unconfigured')
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        threshold_changed = settings.confidence_threshold != self._settings.confidence_threshold
        self._settings = settings
        self.get_logger().debug(f'set {", ".join(f"{c.name}: {c.value}" for c in changes)}')
        if threshold_changed:
            self._announce()
        return SetParametersResult(successful=True)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter('enabled', value=request.data)])[0]
        response.success = result.successful
        response.message = result.reason or ('enabled' if request.data else 'disabled')
        return response

    def _reset(self) -> str:
        for stream in self._streams:
            stream.reset()
        return 'all counters are zero'

    def _rebuild(self) -> str:
        """Build the engine again; return what happens, raise where it cannot."""
        old = self._predict
        if old is None:
            raise ModelError('no model is loaded: configure the node first')
        predict, model = rebuild(old, self._settings, self._announced())
        inference = self._inference
        if inference is not None and not inference.replace(predict, _INFERENCE_END):
            predict.close()
            raise RuntimeError(f'the running inference did not end within {_INFERENCE_END:g} s')
        self._adopt(predict, model)
        old.close()
        return f'{predict.backend_name}; /diagnostics says when it is there'

    def _snapshot(self) -> str:
        """Return the folders that were written; raise where there are none."""
        model, folder = self._model, self._settings.snapshot_dir
        try:
            written = write_snapshots(
                self._streams, model.name, self._settings) if model is not None else []
        except OSError as error:
            raise RuntimeError(f'cannot write to {folder}: {error}; set snapshot_dir') from error
        if not written:
            raise RuntimeError('no picture was segmented since the node was configured')
        return '\n'.join(map(str, written))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    args = sys.argv if args is None else args
    parser = argparse.ArgumentParser(
        prog='segment_node', description='Label the pictures on the topic "image". Everything is '
        'a ROS parameter: --ros-args -p model_path:=/models/dgtl.onnx -r image:=/camera/image_raw '
        '(docs/node.md and config/segment.yaml list them)',
        usage='segment_node [--help] [--dds-profile NAME] [--ros-args ...]')
    add_argument(parser)
    options = parser.parse_args(own_arguments(args))
    return run('segmenter', SegmentNode, args, options.dds_profile)


if __name__ == '__main__':
    sys.exit(main())
