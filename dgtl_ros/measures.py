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
    """The most recent durations in milliseconds, and their percentiles."""

    def __init__(self, size: int = 300) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, milliseconds: float) -> None:
        """Note one duration."""
        with self._lock:
            self._values.append(milliseconds)

    def percentile(self, percent: float) -> float:
        """Return the value that so many percent, 0..100, lie below; nan where there is none."""
        with self._lock:
            values = list(self._values)
        return float(np.percentile(values, percent)) if values else float('nan')
