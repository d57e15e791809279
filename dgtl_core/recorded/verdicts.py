# SPDX-License-Identifier: Apache-2.0
"""What is to be thought of the frames of a source: the domain verdict, frame by frame."""

from __future__ import annotations

from typing import Any

from dgtl_core.domain import domain_of, DomainLimits, DomainMonitor, WINDOW
from dgtl_core.predictor import Predictor, Segmentation
from dgtl_core.recorded.frame import Frame
import numpy as np

_LIMITS = DomainLimits(window=WINDOW)
_NOMINAL_S = 0.1  # between frames that have no time


class Verdicts:
    """
    The verdicts on one source; its cameras are judged apart.

    :raises DomainError: what the model file says of normal drives is broken.
    """

    def __init__(self, predict: Predictor) -> None:
        self._classes, self._model = len(predict.classes), domain_of(predict.metadata)
        self._monitors: dict[str, DomainMonitor] = {}
        self._stamps: dict[str, int | None] = {}

    def look(self, frame: Frame, image: np.ndarray, result: Segmentation) -> dict[str, Any]:
        """
        Return ``{'state', 'score', 'causes'}`` with this frame, the next one of its camera.

        :param image: as the model saw it.
        :param result: as the model gave it, before any rules.
        """
        camera = frame.message.topic if frame.message else ''
        monitor = self._monitors.setdefault(camera, DomainMonitor(self._classes, self._model))
        before, self._stamps[camera] = self._stamps.get(camera), frame.stamp
        seconds = _NOMINAL_S
        if frame.stamp is not None and before is not None and frame.stamp > before:
            seconds = (frame.stamp - before) / 1e9
        monitor.look(image, result, seconds)
        verdict = monitor.report(_LIMITS)
        return {'state': verdict.state, 'score': round(verdict.score, 3),
                'causes': list(verdict.causes)}
