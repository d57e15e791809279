# SPDX-License-Identifier: Apache-2.0
"""The way of pictures through the node: message, picture, labels, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import threading
import time
import traceback
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.predictor import Predictor, Segmentation, Timing
from dgtl_ros.printable import described, printable
from dgtl_ros.settings import Settings
from dgtl_ros.silence import old
from dgtl_ros.stream import Arrival, Result, Stream
import numpy as np

if TYPE_CHECKING:
    from rclpy.clock import Clock
    from rclpy.impl.rcutils_logger import RcutilsLogger
    from std_msgs.msg import Header

_THROTTLE = 5.0  # seconds between two log lines of the same fault
_FUTURE = 0.5  # seconds that a clock may be ahead of ours
_BOOT = 1e8  # seconds; so old is no picture, its stamp counts from another start


class _Picture(NamedTuple):
    """A picture on its way."""

    arrival: Arrival
    mounted: np.ndarray  # (H, W, 3) uint8 RGB, as the camera gives it
    image: np.ndarray  # the same, upright
    stamp_ns: int
    taken: float    # by the steady clock
    decode: float   # seconds

    @property
    def stream(self) -> Stream:
        return self.arrival.stream

    @property
    def header(self) -> Header:
        return self.arrival.message.header


class Pipeline:
    """
    Called by the worker thread, with one arrival of each of some cameras at a time.

    Nothing that happens here is fatal, and what happens to one picture does not touch the others.

    :param settings: returns the parameters as they are now.
    """

    def __init__(self, predict: Predictor, settings: Callable[[], Settings], clock: Clock,
                 logger: RcutilsLogger) -> None:
        self._predict, self._settings = predict, settings
        self._clock, self._logger = clock, logger
        self._inferring = threading.Lock()
        self.stopped = False   # set to True: publish nothing any more
        self.doing = ''        # the stage of the pictures that are on their way
        self.gave_up = ''      # what failed too often, if the parameters say to deactivate then

    def __call__(self, arrivals: list[Arrival]) -> None:
        """Take pictures through all stages, in one call of the network."""
        settings = self._settings()
        self.doing = 'reading'
        frames = []
        for arrival in arrivals:
            try:
                frame = self._read(arrival, settings)
            except Exception as error:  # such as no memory
                self._failed([arrival], error, settings)
            else:
                frames += [frame] if frame is not None else []
        try:
            if frames:
                self._label(frames, settings)
        except Exception as error:  # an engine may raise anything; the next picture may be fine
            self._failed([frame.arrival for frame in frames], error, settings)

    def replace(self, predict: Predictor, timeout: float) -> bool:
        """
        Use another predictor from the next picture on.

        :returns: whether the running inference ended in time; else the old one is kept.
        """
        if not self._inferring.acquire(timeout=timeout):
            return False
        self._predict = predict
        self._inferring.release()
        return True

    def abandon(self) -> None:
        """Close the predictor as soon as the running inference has ended, and do not wait."""
        def close() -> None:
            with self._inferring:
                self._predict.close()

        threading.Thread(target=close, name='abandoned model', daemon=True).start()

    def _label(self, frames: list[_Picture], settings: Settings) -> None:
        self.doing = 'inference'
        with self._inferring:
            results, timing = self._predict.timed_many([frame.image for frame in frames])
        if self.stopped:
            return
        inferred = time.monotonic()
        self.doing = 'publishing'
        finished: list[tuple[_Picture, Segmentation | None, Segmentation]] = []
        for frame, result in zip(frames, results):
            frame.stream.health.succeeded()
            with self._publishing(frame):
                shown = frame.stream.watch.allowed(frame.stream.finish(result, settings))
                if shown is None:
                    frame.arrival.end('dropped_domain')
                else:
                    self._publish(frame, shown, timing, inferred, settings)
                finished.append((frame, shown, result))
        for frame, shown, result in finished:  # from here on nobody waits
            with self._publishing(frame):
                stream = frame.stream
                stream.watch.judge(frame.image, result, inferred,
                                   stream.finish.ignored(frame.mounted.shape[:2]))
                if shown is not None:
                    stream.outputs.publish_pictures(
                        frame.header, frame.mounted, shown.labels, settings)

    @contextlib.contextmanager
    def _publishing(self, frame: _Picture) -> Iterator[None]:
        """Make what fails after the inference an error of that camera alone."""
        try:
            yield
        except Exception as error:  # the middleware, a drawing, a full memory: this camera's
            if self.stopped:
                return
            health, why = frame.stream.health, described(error)
            health.reasons['publish_errors'] = why
            health.count('publish_errors')
            frame.arrival.end('unpublished')  # unless its labels are out
            self._logger.error(f'cannot publish: {why}', throttle_duration_sec=_THROTTLE)

    def _read(self, arrival: Arrival, settings: Settings) -> _Picture | None:
        """Return the picture of a message, if it is worth an inference."""
        stamp = arrival.message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if self._stale(arrival, stamp_ns, settings):
            return None
        taken = time.monotonic()
        decoded = arrival.decoded or arrival.stream.reader.read(arrival.message, arrival.ticket)
        if decoded is None:
            return None
        mounted = decoded.image
        image = arrival.stream.finish.upright(mounted)
        if settings.output_size == 'network':  # what the labels belong to is the small picture
            image = self._predict.seen(image)
            mounted = arrival.stream.finish.as_mounted(image)
        return _Picture(arrival, mounted, image, stamp_ns, taken, decoded.seconds)

    def _stale(self, arrival: Arrival, stamp_ns: int, settings: Settings) -> bool:
        if not stamp_ns:
            return False
        age = (self._clock.now().nanoseconds - stamp_ns) / 1e9
        arrival.stream.health.count('stamp_in_future', age < -_FUTURE)
        if age <= settings.max_image_age or not settings.max_image_age:
            return False
        drop = settings.on_stale == 'drop'
        if drop:
            arrival.end('dropped_stale')
        self._logger.warning(
            f'picture is {age:.2f} s old, {old(settings, age > _BOOT)}',
            throttle_duration_sec=_THROTTLE)
        return drop

    def _failed(self, arrivals: list[Arrival], error: Exception, settings: Settings) -> None:
        if self.stopped:
            return
        for arrival in arrivals:
            arrival.end('errors_total')
        in_a_row = max(arrival.stream.health.failed(error) for arrival in arrivals)
        self._logger.error(
            f'inference failed ({in_a_row} in a row):\n{printable(traceback.format_exc())}',
            throttle_duration_sec=_THROTTLE)
        if (settings.on_inference_error == 'deactivate' and
                in_a_row >= settings.max_consecutive_errors):
            self.gave_up = (f'{in_a_row} inferences in a row failed: deactivating '
                            f'(on_inference_error); the last: {described(error)}')

    def _publish(self, frame: _Picture, shown: Segmentation, timing: Timing, inferred: float,
                 settings: Settings) -> None:
        """Publish the labels and note the times."""
        health, outputs = frame.stream.health, frame.stream.outputs
        outputs.publish(frame.header, shown.labels, shown.confidence)
        end = time.monotonic()
        frame.arrival.end('published')
        frame.stream.last = Result(
            frame.mounted, shown.labels, shown.confidence, frame.stamp_ns)
        done_before = frame.decode if frame.arrival.decoded is not None else 0.0
        stages = {
            'wait': (frame.taken - frame.arrival.time - done_before) * 1e3,
            'decode': frame.decode * 1e3,
            'preprocess': timing.preprocess_ms, 'infer': timing.infer_ms,
            'postprocess': timing.postprocess_ms, 'publish': (end - inferred) * 1e3,
            'total': (end - frame.arrival.time) * 1e3}
        for name, value in stages.items():
            health.stages[name].add(value)
        latency = None
        if frame.stamp_ns:
            latency = (self._clock.now().nanoseconds - frame.stamp_ns) / 1e6
            health.pipeline.add(latency)
        gap = health.output_rate.tick()
        if settings.publish_debug:
            outputs.publish_times({
                'processing_time': stages['total'] - stages['wait'],
                'pipeline_latency': latency, 'cyclic_time': None if gap is None else gap * 1e3})
