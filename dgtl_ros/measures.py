# SPDX-License-Identifier: Apache-2.0
"""Rates and durations over the recent past. Safe to use from several threads."""

from __future__ import annotations

from collections import deque
import threading
import time

import numpy as np


class Rate:
    """How often something happened per second, over the last few seconds."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def tick(self, now: float | None = None) -> float | None:
        """Note one event; return the seconds since the one before, None for the first."""
        now = time.monotonic() if now is None else now
        with self._lock:
            gap = now - self._times[-1] if self._times else None
            self._times.append(now)
            self._forget(now)
            return gap

    def hz(self, now: float | None = None) -> float:
        """Return events per second; falls to 0 when they stop coming."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._forget(now)
            if len(self._times) < 2:
                return 0.0
            if now - self._times[-1] > max(self._window, 2 * (self._times[-1] - self._times[-2])):
                return 0.0
            span = self._times[-1] - self._times[0]
            # A gap longer than the usual one already means a lower rate.
            span += max(now - self._times[-1] - span / (len(self._times) - 1), 0.0)
            return (len(self._times) - 1) / span if span > 0 else 0.0

    def _forget(self, now: float) -> None:
        while len(self._times) > 2 and self._times[0] < now - self._window:
            self._times.popleft()  # two stay, for rates below that of the window


class Durations:
    """
    The durations of the last seconds in milliseconds, and their percentiles.

    :param window: seconds; so what was fast an hour ago does not hide what is slow now.
    :param least: the number that is kept in any case.
    """

    def __init__(self, window: float = 10.0, least: int = 10) -> None:
        self._window, self._least = window, least
        self._values: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def add(self, milliseconds: float, now: float | None = None) -> None:
        """Note one duration, ``now`` by the steady clock."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._values.append((now, milliseconds))
            while len(self._values) > self._least and self._values[0][0] < now - self._window:
                self._values.popleft()

    def percentile(self, percent: float) -> float:
        """Return the value that so many percent, 0..100, lie below; nan where there is none."""
        with self._lock:
            values = [value for _, value in self._values]
        return float(np.percentile(values, percent)) if values else float('nan')
