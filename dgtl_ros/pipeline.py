# SPDX-License-Identifier: Apache-2.0
"""The way of pictures through the node: message, picture, labels, messages."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import traceback
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.encodings import ImageError
from dgtl_core.predictor import Predictor, Segmentation, Timing
from dgtl_ros.image_codec import to_rgb
from dgtl_ros.settings import Settings
from dgtl_ros.stream import Arrival, Result, Stream
import numpy as np

if TYPE_CHECKING:
    from rclpy.clock import Clock
    from rclpy.impl.rcutils_logger import RcutilsLogger
    from std_msgs.msg import Header

_THROTTLE = 5.0  # seconds between two log lines of the same fault


class _Frame(NamedTuple):
    """A picture on its way."""

    stream: Stream
    header: Header
    image: np.ndarray  # (H, W, 3) uint8 RGB
    stamp_ns: int
    arrived: float  # these by the steady clock
    started: float
    decoded: float


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
        self.gave_up = ''      # what failed too often, if the parameters say to deactivate then

    def __call__(self, arrivals: list[Arrival]) -> None:
        """Take pictures through all stages, in one call of the network."""
        settings = self._settings()
        frames = []
        for arrival in arrivals:
            try:
                frame = self._read(arrival, settings)
            except ImageError as error:
                arrival.stream.broken(error)
            except Exception as error:  # such as no memory for a very large one
                self._failed([arrival.stream], error, settings)
            else:
                frames += [frame] if frame is not None else []
        try:
            if frames:
                self._label(frames, settings)
        except Exception as error:  # an engine may raise anything; the next picture may be fine
            self._failed([frame.stream for frame in frames], error, settings)

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

    def _label(self, frames: list[_Frame], settings: Settings) -> None:
        with self._inferring:
            results, timing = self._predict.timed_many([frame.image for frame in frames])
        if self.stopped:
            return
        inferred = time.monotonic()
        published = []
        for frame, result in zip(frames, results):
            labels = finish(result.labels, result.confidence, settings)
            if self._publish(frame, labels, result, timing, inferred, settings):
                published.append((frame, labels, result))
        for frame, labels, result in published:  # from here on nobody waits
            if settings.domain_enabled:
                frame.stream.monitor.look(frame.image, result.labels, result.confidence)
            frame.stream.outputs.publish_pictures(frame.header, frame.image, labels, settings)

    def _read(self, arrival: Arrival, settings: Settings) -> _Frame | None:
        """Return the picture of a message, if it is worth an inference."""
        stream, header = arrival.stream, arrival.message.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        if self._stale(stream, stamp_ns, settings):
            return None
        start = time.monotonic()
        encoding = settings.input_encoding
        image = to_rgb(arrival.message, '' if encoding == 'auto' else encoding)
        stream.health.size = image.shape[0], image.shape[1]
        if settings.output_size == 'network':  # what the labels belong to is the small picture
            image = self._predict.seen(image)
        return _Frame(stream, header, image, stamp_ns, arrival.time, start, time.monotonic())

    def _stale(self, stream: Stream, stamp_ns: int, settings: Settings) -> bool:
        if not settings.max_image_age or not stamp_ns:
            return False
        age = (self._clock.now().nanoseconds - stamp_ns) / 1e9
        if age <= settings.max_image_age:
            return False
        drop = settings.on_stale == 'drop'
        stream.health.count('dropped_stale', drop)
        self._logger.warning(
            f'picture is {age:.2f} s old, more than max_image_age ({settings.max_image_age:g} s); '
            'for bags use --clock and use_sim_time, between machines synchronise the clocks; '
            'max_rate makes pictures wait too; or set max_image_age to 0',
            throttle_duration_sec=_THROTTLE)
        return drop

    def _failed(self, streams: list[Stream], error: Exception, settings: Settings) -> None:
        if self.stopped:
            return
        in_a_row = max(stream.health.failed(error) for stream in streams)
        self._logger.error(
            f'inference failed ({in_a_row} in a row):\n{traceback.format_exc()}',
            throttle_duration_sec=_THROTTLE)
        if (settings.on_inference_error == 'deactivate' and
                in_a_row >= settings.max_consecutive_errors):
            self.gave_up = (f'{in_a_row} inferences in a row failed: deactivating '
                            f'(on_inference_error); the last: {type(error).__name__}: {error}')

    def _publish(self, frame: _Frame, labels: np.ndarray, result: Segmentation, timing: Timing,
                 inferred: float, settings: Settings) -> bool:
        """Publish the labels and note the times; return whether that was possible."""
        health, outputs = frame.stream.health, frame.stream.outputs
        health.succeeded()
        try:
            outputs.publish(frame.header, labels, result.confidence)
        except RuntimeError as error:  # what rclpy's errors have in common
            if not self.stopped:
                health.count('publish_errors')
                self._logger.error(f'cannot publish: {error}', throttle_duration_sec=_THROTTLE)
            return False
        end = time.monotonic()
        health.count('published')
        frame.stream.last = Result(frame.image, labels, result.confidence, frame.stamp_ns)
        stages = {
            'wait': (frame.started - frame.arrived) * 1e3,
            'decode': (frame.decoded - frame.started) * 1e3,
            'preprocess': timing.preprocess_ms, 'infer': timing.infer_ms,
            'postprocess': timing.postprocess_ms, 'publish': (end - inferred) * 1e3,
            'total': (end - frame.arrived) * 1e3}
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
        return True


def finish(labels: np.ndarray, confidence: np.ndarray, settings: Settings) -> np.ndarray:
    """
    Take the class from pixels below the threshold, and give the classless their label.

    Shape: (h, w) uint8 each -> (h, w) uint8; the arguments stay as they are.
    """
    limit = settings.confidence_threshold * 255
    if not limit and settings.unlabeled_id == 255:
        return labels
    classless = (labels == 255) | (confidence < limit)
    return np.where(classless, np.uint8(settings.unlabeled_id), labels)
