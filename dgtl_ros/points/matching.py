# SPDX-License-Identifier: Apache-2.0
"""Messages of several topics that belong to one moment, by their stamps."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import threading
import time
from typing import Any

_NANO = 1_000_000_000


def stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * _NANO + int(stamp.nanosec)


class Matcher:
    """
    Puts a set together as soon as nothing better can come. Thread-safe.

    The first topic leads: to each of its messages belongs of each other topic the one whose stamp
    is nearest, and no message belongs to two. It is known once a later one came, or at once where
    stamps are equal. What is farther away than the tolerance does not belong. A leading message is
    given up once a later one found its set, or when there is no room for it; it is counted.

    :param topics: the names, the leading one first.
    :param tolerance_s: the most seconds between the leading message and each other one.
    :param depth: messages of one topic that wait.
    """

    def __init__(self, topics: Sequence[str], tolerance_s: float, depth: int = 10) -> None:
        self._leader, *self._others = topics
        self._tolerance = round(tolerance_s * _NANO)
        self._queues: dict[str, deque[Any]] = {name: deque(maxlen=depth) for name in topics}
        self._lock = threading.Lock()
        self.received = dict.fromkeys(topics, 0)
        self._heard = dict.fromkeys(topics, float('-inf'))  # by the steady clock
        self.unmatched = 0  # leading messages that were given up
        self.apart_s = float('nan')  # between the leading message and the farthest of its set

    def put(self, topic: str, message: Any) -> dict[str, Any] | None:
        """Take a message; return the newest set that it completes, by topic."""
        with self._lock:
            self.received[topic] += 1
            self._heard[topic] = time.monotonic()
            queue = self._queues[topic]
            if topic == self._leader and len(queue) == queue.maxlen:
                self.unmatched += 1
            queue.append(message)
            leaders = self._queues[self._leader]
            for index in reversed(range(len(leaders))):
                found = self._set_of(leaders[index])
                if found is not None:
                    self.unmatched += index
                    self._forget(found)
                    return found
            return None

    def silent(self, seconds: float) -> list[str]:
        """Return the topics on which nothing came for so long."""
        now = time.monotonic()
        return [topic for topic, heard in self._heard.items() if now - heard > seconds]

    def _set_of(self, leader: Any) -> dict[str, Any] | None:
        moment, found, apart = stamp_ns(leader), {self._leader: leader}, 0
        for name in self._others:
            nearest = min(self._queues[name], default=None,
                          key=lambda message: abs(stamp_ns(message) - moment))
            if nearest is None:
                return None
            distance = abs(stamp_ns(nearest) - moment)
            open_end = distance and stamp_ns(self._queues[name][-1]) < moment
            if distance > self._tolerance or open_end:
                return None
            apart = max(apart, distance)
            found[name] = nearest
        self.apart_s = apart / _NANO
        return found

    def _forget(self, used: dict[str, Any]) -> None:
        """Drop what a set holds, and all that came before it."""
        for name, message in used.items():
            queue = self._queues[name]
            while queue.popleft() is not message:
                pass
