# SPDX-License-Identifier: Apache-2.0
"""What the node knows about one camera's topic, and counts about its pictures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import itertools
import threading

from dgtl_ros.measures import Durations, Rate
from dgtl_ros.printable import described

RECENT_S = 60.0  # what the diagnostics judge; the counters go on
# How a picture can end; each ends in exactly one of these ways, or is still on its way.
OUTCOMES = ('published', 'unpublished', 'dropped_domain', 'dropped_disabled', 'dropped_superseded',
            'dropped_stale', 'dropped_inactive', 'decode_errors', 'errors_total')
EVENTS = ('received', 'publish_errors', 'lost_middleware', 'not_delivered', 'damaged',
          'header_stamp_zero', 'stamp_in_future', 'out_of_order')
STAGES = ('wait', 'decode', 'preprocess', 'infer', 'postprocess', 'publish', 'total')


@dataclass
class Camera:
    """What the graph says about the camera's topic."""

    topic: str = ''
    publishers: int = 0
    offered: str = ''  # reliability of the publishers: reliable, best_effort or mixed
    asked: str = ''    # reliability of our subscription
    other: str = ''    # what to do where it publishes the other type of picture
    since: float | None = None  # when a publisher was seen first, by the steady clock

    @property
    def compatible(self) -> bool:
        """Whether the middleware lets the pictures through."""
        return not (self.asked == 'reliable' and self.offered in ('best_effort', 'mixed'))


class Health:
    """
    Counters of everything that happens to a picture. Safe to use from several threads.

    A picture that arrives opens a ticket, and whatever ends it closes the ticket, which works
    once: at any time ``received`` is the sum of all OUTCOMES and of those still on their way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._open: set[int] = set()
        self.last_input: float | None = None  # by the steady clock
        self.last_read = self.last_unread = float('-inf')  # when one held a picture, or none
        self._last_stamp = 0
        self.encoding = ''
        self.size = (0, 0)  # of the last picture that could be read, (height, width)
        self.reset()

    def reset(self) -> None:
        """Start counting from zero; what the camera was last seen to send is no count."""
        with self._lock:
            self._counts = dict.fromkeys((*EVENTS, *OUTCOMES), 0)
            self._counts['received'] = len(self._open)  # they will end after this
            self._past: deque[tuple[float, dict[str, int]]] = deque()
            self.consecutive_errors = 0
            self.last_error = ''
        self.reasons = dict.fromkeys(('decode_errors', 'publish_errors'), '')  # of the last one
        self.input_rate, self.output_rate = Rate(), Rate()
        self.stages = {name: Durations() for name in STAGES}
        self.pipeline = Durations()  # from the picture's stamp to its labels

    def count(self, name: str, number: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += number

    def counts(self) -> dict[str, int]:
        """Return all counters, and how many pictures are still on their way (waiting)."""
        with self._lock:
            return {**self._counts, 'waiting': len(self._open)}

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

    def arrive(self) -> int:
        """Note that a picture came; return the ticket that its end has to show."""
        with self._lock:
            return self._arrive()

    def image(self, encoding: str, stamp: int, now: float) -> int:
        """
        Note a picture that can be read on the outside.

        :param stamp: in nanoseconds; ``now`` by the steady clock.
        :returns: its ticket.
        """
        self.input_rate.tick(now)
        with self._lock:
            self._counts['header_stamp_zero'] += stamp == 0
            self._counts['out_of_order'] += 0 < stamp < self._last_stamp
            self._last_stamp = stamp or self._last_stamp
            self.last_input, self.encoding = now, encoding
            return self._arrive()

    def end(self, ticket: int, outcome: str) -> bool:
        """Note how a picture ended, one of OUTCOMES; return whether that was still open."""
        with self._lock:
            if ticket not in self._open:
                return False
            self._open.remove(ticket)
            self._counts[outcome] += 1
            return True

    def settle(self) -> None:
        """Note that nothing which is still on its way will get anywhere."""
        with self._lock:
            self._counts['dropped_inactive'] += len(self._open)
            self._open.clear()

    def failed(self, error: BaseException) -> int:
        """Note that an inference failed; return how many failed in a row."""
        with self._lock:
            self.consecutive_errors += 1
            self.last_error = described(error)
            return self.consecutive_errors

    def succeeded(self) -> None:
        """Note an inference that worked, or that a new row of them starts."""
        with self._lock:
            self.consecutive_errors = 0

    def _arrive(self) -> int:
        self._counts['received'] += 1
        ticket = next(self._tickets)
        self._open.add(ticket)
        return ticket
