# SPDX-License-Identifier: Apache-2.0
"""The model at work: the thread that runs it for all cameras, while the node is active."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dgtl_core.predictor import Predictor
from dgtl_ros.loading import batch_of
from dgtl_ros.pipeline import Pipeline
from dgtl_ros.settings import Settings
from dgtl_ros.stream import Arrival
from dgtl_ros.watchdog import overdue, Stuck
from dgtl_ros.worker import Worker

if TYPE_CHECKING:
    from rclpy.clock import Clock
    from rclpy.impl.rcutils_logger import RcutilsLogger

_STAGES = {'': 'the worker has been waiting for its first picture',
           'reading': 'the worker has been reading a picture',
           'inference': 'the inference has been running',
           'publishing': 'the labels have been about to be published'}


class Inference:
    """
    Takes pictures until stopped.

    :param settings: returns the parameters as they are now.
    """

    def __init__(self, predict: Predictor, settings: Callable[[], Settings], clock: Clock,
                 logger: RcutilsLogger) -> None:
        self._settings = settings
        self._pipeline = Pipeline(predict, settings, clock, logger)
        self._worker: Worker[Arrival] = Worker(
            self._pipeline, self.interval, batch_of(predict, settings()))

    def interval(self) -> float:
        """Return the least time in seconds between two inferences."""
        rate = self._settings().max_rate
        return 1 / rate if rate else 0.0

    @property
    def gave_up(self) -> str:
        """What failed too often, if the parameters say to deactivate then."""
        return self._pipeline.gave_up

    def put(self, arrival: Arrival) -> Arrival | None:
        """Take what arrives; return what will never be looked at for it."""
        return self._worker.mailbox.put(arrival, arrival.stream.name)

    def stuck(self, now: float) -> Stuck | None:
        """Return what hangs, if something does for longer than it may."""
        return overdue(self._worker, _STAGES[self._pipeline.doing],
                       self._settings().inference_timeout, now)

    def replace(self, predict: Predictor, timeout: float) -> bool:
        """Use another predictor from the next picture on; return whether that was possible."""
        return self._pipeline.replace(predict, timeout)

    def stop(self, timeout: float) -> bool:
        """Publish nothing any more; return whether the thread ended within so many seconds."""
        self._pipeline.stopped = True
        return self._worker.stop(timeout)

    def abandon(self) -> None:
        """Close the predictor as soon as what hangs has ended, and do not wait for it."""
        self._pipeline.abandon()
