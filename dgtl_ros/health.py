# SPDX-License-Identifier: Apache-2.0
"""What the node knows about one camera's topic, and counts about its pictures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading

from dgtl_ros.measures import Durations, Rate

RECENT_S = 60.0  # what the diagnostics judge; the counters go on
STAGES = ('wait', 'decode', 'preprocess', 'infer', 'postprocess', 'publish', 'total')


@dataclass
class Camera:
    """What the graph says about the camera's topic."""

    topic: str = ''
    publishers: int = 0
    offered: str = ''  # reliability of the publishers: reliable, best_effort or mixed
    asked: str = ''    # reliability of our subscription

    @property
    def compatible(self) -> bool:
        """Whether the middleware lets the pictures through."""
        return not (self.asked == 'reliable' and self.offered in ('best_effort', 'mixed'))


class Health:
    """Counters of everything that happens to a picture. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last_input: float | None = None  # by the steady clock
        self._last_stamp = 0
        self.encoding = ''
        self.size = (0, 0)  # of the last picture that could be read, (height, width)
        self.reset()

    def reset(self) -> None:
        """Start counting from zero; what the camera was last seen to send is no count."""
        with self._lock:
            self._counts = dict.fromkeys((
                'received', 'dropped_disabled', 'dropped_superseded', 'dropped_stale',
                'lost_middleware', 'decode_errors', 'header_stamp_zero', 'out_of_order',
                'errors_total', 'publish_errors', 'published'), 0)
            self._past: deque[tuple[float, dict[str, int]]] = deque()
            self.consecutive_errors = 0
            self.last_error = ''
        self.input_rate, self.output_rate = Rate(), Rate()
        self.stages = {name: Durations() for name in STAGES}
        self.pipeline = Durations()  # from the picture's stamp to its labels

    def count(self, name: str, number: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += number

    def counts(self) -> dict[str, int]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)

    def recent(self, now: float) -> dict[str, int]:
        """
        Return what the counters grew by in the last RECENT_S seconds, or since they began.

        It remembers the counters of each call, so it has to be called now and then.
        """
        with self._lock:
            self._past.append((now, dict(self._counts)))
            while len(self._past) > 1 and self._past[1][0] <= now - RECENT_S:
                self._past.popleft()
            then, start = self._past[0]
            before = start if then <= now - RECENT_S else {}
            return {name: value - before.get(name, 0) for name, value in self._counts.items()}

    def image(self, encoding: str, stamp: int, now: float) -> None:
        """Note a picture that arrived; ``stamp`` in nanoseconds, ``now`` by the steady clock."""
        self.input_rate.tick(now)
        with self._lock:
            self._counts['received'] += 1
            self._counts['header_stamp_zero'] += stamp == 0
            self._counts['out_of_order'] += 0 < stamp < self._last_stamp
            self._last_stamp = stamp or self._last_stamp
            self.last_input, self.encoding = now, encoding

    def failed(self, error: BaseException) -> int:
        """Note a failed inference; return how many failed in a row."""
        with self._lock:
            self._counts['errors_total'] += 1
            self.consecutive_errors += 1
            self.last_error = f'{type(error).__name__}: {error}'
            return self.consecutive_errors

    def succeeded(self) -> None:
        """Note an inference that worked, or that a new row of them starts."""
        with self._lock:
            self.consecutive_errors = 0
