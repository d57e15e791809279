# SPDX-License-Identifier: Apache-2.0
"""How the labelling of points does: counters, times and the status made from them."""

from __future__ import annotations

import threading
import time

from dgtl_ros.measures import Durations, Rate
from dgtl_ros.points.matching import Matcher
from dgtl_ros.points.settings import PointsSettings
from dgtl_ros.printable import printable
from dgtl_ros.status import ERROR, OK, Status, WARN

_MANY_SKIPPED = 0.1  # of the sets that are labelled, lately


class Report:
    """What is counted since the node was activated, and the status made from it."""

    def __init__(self, settings: PointsSettings) -> None:
        self.settings = settings
        self.matcher = Matcher(settings.topics, settings.sync_tolerance, settings.queue_size)
        self.last_error = ''
        self._counts = dict.fromkeys(('published', 'failed', 'superseded'), 0)
        self._lock = threading.Lock()
        self._rate, self._skipped, self._times = Rate(), Rate(), Durations()
        self._last = time.monotonic()

    def superseded(self) -> None:
        """Count a set whose place a newer one took."""
        self._count('superseded')
        self._skipped.tick()

    def failed(self, error: Exception) -> None:
        """Count a set of messages that could not be labelled, and keep why."""
        self.last_error = printable(error) or type(error).__name__
        self._count('failed')

    def done(self, milliseconds: float) -> None:
        """Count one that was published, and how long it took."""
        self.last_error = ''
        self._count('published')
        self._last = time.monotonic()
        self._rate.tick()
        self._times.add(milliseconds)

    def status(self, state: str, fault: str) -> Status:
        """Return what the diagnostics say."""
        matcher = self.matcher
        values = {
            'state': state, 'source': self.settings.source, 'rate_hz': self._rate.hz(),
            'points_ms_p50': self._times.percentile(50),
            'points_ms_p95': self._times.percentile(95), **self._counts,
            'unmatched': matcher.unmatched, 'apart_s': matcher.apart_s,
            **{f'received {name}': number for name, number in matcher.received.items()}}
        if fault:
            return Status('points', ERROR, fault, values)
        if state != 'active':
            return Status('points', OK, f'not active ({state})', values)
        if self.last_error:
            return Status('points', ERROR, self.last_error, values)
        silent = time.monotonic() - self._last
        if silent > self.settings.input_timeout:
            return Status('points', ERROR, self._missing(silent), values)
        if self._skipped.hz() > _MANY_SKIPPED * self._rate.hz():
            return Status('points', WARN, (
                'points come faster than they are labelled; the newest ones are taken'), values)
        return Status('points', OK, f'{values["rate_hz"]:.1f} Hz', values)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _missing(self, silent: float) -> str:
        topics = self.matcher.silent(self.settings.input_timeout)
        if topics:
            return (f'nothing came on {", ".join(topics)} for {silent:.0f} s; map the topic, '
                    'start its node')
        return (f'no labels and points of one moment for {silent:.0f} s: their stamps must lie '
                f'within sync_tolerance ({self.settings.sync_tolerance:g} s); do both sensors '
                'stamp by the same clock?')
