# SPDX-License-Identifier: Apache-2.0
"""The verdict on the pictures of one camera, and what the node does about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dgtl_core.domain import DomainModel, DomainMonitor, Verdict
from dgtl_core.predictor import Segmentation
from dgtl_ros.diagnostics import domain as status_of
from dgtl_ros.settings import limits, Settings
from dgtl_ros.speed_limit import FULL, SpeedLimiter
import numpy as np

if TYPE_CHECKING:
    from dgtl_ros.outputs import Outputs

_HEALTH_S = 1.0  # between two messages on the health where nothing changes


class DomainWatch:
    """
    Judges the pictures of one camera, one after the other.

    :param camera: its name.
    :param settings: returns the parameters as they are now.
    :param domain: what the model file knows about normal drives.
    """

    def __init__(self, camera: str, num_classes: int, settings: Callable[[], Settings],
                 outputs: Outputs, limiter: SpeedLimiter, domain: DomainModel | None) -> None:
        self.verdict = Verdict()
        self._camera, self._num_classes = camera, num_classes
        self._settings, self._outputs, self._limiter = settings, outputs, limiter
        self._domain, self._monitor = domain, DomainMonitor(num_classes, domain)
        self._looked = self._told = float('-inf')

    def adopt(self, domain: DomainModel | None) -> None:
        """Judge by what another model file knows; what was seen stays where it is the same."""
        if _stored(domain) != _stored(self._domain):
            self._domain, self._monitor = domain, DomainMonitor(self._num_classes, domain)

    def reset(self) -> None:
        """Forget what was seen."""
        self._monitor.reset()
        self.verdict = Verdict()

    def judge(self, image: np.ndarray, result: Segmentation, now: float,
              ignored: np.ndarray | None = None) -> None:
        """
        Look whether a picture is one that the model can judge, and tell of a change.

        Shape: image (H, W, 3) uint8 RGB.

        :param result: of the model, before thresholds.
        :param now: by the steady clock.
        :param ignored: (H, W) bool, pixels that show the robot itself.
        """
        settings, before = self._settings(), self.verdict
        if not settings.domain_enabled:
            if before.values:
                self.reset()
                self._limiter.ask(self._camera, FULL, now)
                self._tell(now, settings)  # who comes late must not hear what was
            return
        self._monitor.look(image, result, now - self._looked, ignored)
        self._looked = now
        self.verdict = verdict = self._monitor.report(limits(settings))
        percent = {'familiar': FULL, 'shifted': settings.domain_speed_shifted,
                   'unusable': settings.domain_speed_unusable}[verdict.state]
        self._limiter.ask(self._camera, percent, now)
        if (before.state, before.causes) != (verdict.state, verdict.causes) or (
                now - self._told > _HEALTH_S):
            self._tell(now, settings)

    def _tell(self, now: float, settings: Settings) -> None:
        self._told = now
        self._outputs.publish_health(self.verdict, status_of(self.verdict, settings))

    def allowed(self, finished: Segmentation) -> Segmentation | None:
        """
        Apply ``domain.action``, by the verdict on the pictures before this one.

        :returns: what may be published; None: nothing.
        """
        settings = self._settings()
        if not settings.domain_enabled or self.verdict.state == 'familiar':
            return finished
        if settings.domain_action == 'zero_confidence':
            return Segmentation(finished.labels, np.zeros_like(finished.confidence))
        if settings.domain_action == 'ignore_labels':
            nothing = np.full_like(finished.labels, settings.unlabeled_id)
            return Segmentation(nothing, finished.confidence)
        return None if settings.domain_action == 'stop_publishing' else finished


def _stored(domain: DomainModel | None) -> object:
    return None if domain is None else domain.to_dict()
