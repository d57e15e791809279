# SPDX-License-Identifier: Apache-2.0
"""The way of one picture through the node: message, picture, labels, messages."""

from __future__ import annotations

from collections.abc import Callable
import time
import traceback
from typing import NamedTuple, TYPE_CHECKING

import cv2
from dgtl_core.predictor import Predictor
from dgtl_ros.diagnostics import Health
from dgtl_ros.domain_monitor import DomainMonitor
from dgtl_ros.image_codec import ImageError, to_rgb
from dgtl_ros.image_input import Picture
from dgtl_ros.outputs import Outputs
from dgtl_ros.parameters import Settings
import numpy as np

if TYPE_CHECKING:
    from rclpy.clock import Clock
    from rclpy.impl.rcutils_logger import RcutilsLogger

_THROTTLE = 5.0  # seconds between two log lines of the same fault


class Arrival(NamedTuple):
    """A message and when it came, by the steady clock."""

    message: Picture
    time: float


class Result(NamedTuple):
    """The last picture that went through, for ~/snapshot."""

    image: np.ndarray       # (H, W, 3) uint8 RGB
    labels: np.ndarray      # (H, W) uint8, as published
    confidence: np.ndarray  # (H, W) uint8
    stamp_ns: int


class Pipeline:
    """
    Called by the worker thread with one arrival at a time; nothing that happens here is fatal.

    :param settings: returns the parameters as they are now.
    """

    def __init__(self, predict: Predictor, outputs: Outputs, health: Health,
                 monitor: DomainMonitor, settings: Callable[[], Settings], clock: Clock,
                 logger: RcutilsLogger) -> None:
        self._predict, self._outputs, self._health = predict, outputs, health
        self._monitor, self._settings = monitor, settings
        self._clock, self._logger = clock, logger
        self.stopped = False   # set to True: publish nothing any more
        self.gave_up = False   # too many errors, and the parameters say to deactivate then
        self.last: Result | None = None

    def __call__(self, arrival: Arrival) -> None:
        """Take one picture through all stages."""
        settings = self._settings()
        stamp = arrival.message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if self._stale(stamp_ns, settings):
            return
        try:
            self._segment(arrival, stamp_ns, settings)
        except ImageError as error:
            self._health.count('decode_errors')
            self._logger.error(f'picture dropped: {error}', throttle_duration_sec=_THROTTLE)
        except Exception as error:  # an engine may raise anything; the next picture may be fine
            if self.stopped:
                return
            in_a_row = self._health.failed(error)
            self._logger.error(
                f'inference failed ({in_a_row} in a row):\n{traceback.format_exc()}',
                throttle_duration_sec=_THROTTLE)
            if (settings.on_inference_error == 'deactivate' and
                    in_a_row >= settings.max_consecutive_errors):
                self.gave_up = True

    def _stale(self, stamp_ns: int, settings: Settings) -> bool:
        if not settings.max_image_age or not stamp_ns:
            return False
        age = (self._clock.now().nanoseconds - stamp_ns) / 1e9
        if age <= settings.max_image_age:
            return False
        self._health.count('dropped_stale')
        self._logger.warning(
            f'picture is {age:.2f} s old, more than max_image_age ({settings.max_image_age:g} s); '
            'for bags use --clock and use_sim_time, between machines synchronise the clocks, or '
            'set max_image_age to 0', throttle_duration_sec=_THROTTLE)
        return settings.on_stale == 'drop'

    def _segment(self, arrival: Arrival, stamp_ns: int, settings: Settings) -> None:
        header = arrival.message.header
        start = time.monotonic()
        image = to_rgb(arrival.message)
        self._health.size = image.shape[0], image.shape[1]
        if settings.output_size == 'network':  # what the labels belong to is the small picture
            image = cv2.resize(image, self._predict.input_size[::-1], interpolation=cv2.INTER_AREA)
        decoded = time.monotonic()
        segmentation, timing = self._predict.timed(image)
        if self.stopped:
            return
        self._health.succeeded()
        inferred = time.monotonic()
        labels = finish(segmentation.labels, segmentation.confidence, settings)
        try:
            self._outputs.publish(header, labels, segmentation.confidence)
        except RuntimeError as error:  # what rclpy's errors have in common
            if not self.stopped:
                self._health.count('publish_errors')
                self._logger.error(f'cannot publish: {error}', throttle_duration_sec=_THROTTLE)
            return
        end = time.monotonic()
        self._health.count('published')
        self._note(settings, stamp_ns, {
            'wait': (start - arrival.time) * 1e3, 'decode': (decoded - start) * 1e3,
            'preprocess': timing.preprocess_ms, 'infer': timing.infer_ms,
            'postprocess': timing.postprocess_ms, 'publish': (end - inferred) * 1e3,
            'total': (end - arrival.time) * 1e3})
        # From here on nobody waits.
        self.last = Result(image, labels, segmentation.confidence, stamp_ns)
        if settings.domain_enabled:
            self._monitor.look(image, segmentation.labels, segmentation.confidence)
        self._outputs.publish_pictures(header, image, labels, settings)

    def _note(self, settings: Settings, stamp_ns: int, stages: dict[str, float]) -> None:
        for name, value in stages.items():
            self._health.stages[name].add(value)
        latency = None
        if stamp_ns:
            latency = (self._clock.now().nanoseconds - stamp_ns) / 1e6
            self._health.pipeline.add(latency)
        gap = self._health.output_rate.tick()
        if settings.publish_debug:
            self._outputs.publish_times({
                'processing_time': stages['total'] - stages['wait'],
                'pipeline_latency': latency, 'cyclic_time': None if gap is None else gap * 1e3})


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
