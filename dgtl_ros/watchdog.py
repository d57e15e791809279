# SPDX-License-Identifier: Apache-2.0
"""Find threads that are at one thing for longer than they may."""

from __future__ import annotations

from datetime import datetime
import math
import time
from typing import Any, NamedTuple

from dgtl_ros.worker import Worker

_PATIENCE = 0.4  # seconds that threads get after a first look

class Stuck(NamedTuple):
    """What hangs, and since when by the steady clock."""

    what: str
    since: float

    def text(self, now: float) -> str:
        """Say it, with the time of day for whoever looks into other logs."""
        began = datetime.fromtimestamp(time.time() - (now - self.since))
        return f'{self.what} for {now - self.since:.1f} s, since {began:%H:%M:%S}'


def overdue(worker: Worker[Any] | None, what: str, timeout: float, now: float) -> Stuck | None:
    """
    Return since when a worker is busy, if for longer than it may.

    :param what: a sentence about it that a duration may follow.
    :param timeout: seconds; 0: it may be busy for as long as it likes.
    """
    since = worker.busy_since if worker is not None else None
    if since is None or not timeout or now - since <= timeout:
        return None
    return Stuck(what, since)


class Watchdog:
    """
    Decides when to do something about what hangs: once for each time it hangs.

    Not at the first look, nor right after it: a process that was stopped sees all its threads
    late for a moment, and its timers come one upon the other.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # since when it hangs, the first look
        self._bitten: dict[str, float] = {}

    def bites(self, name: str, stuck: Stuck, now: float) -> bool:
        """Return whether it is time, by the steady clock, to act on what hangs below this name."""
        since, looked = self._seen.get(name, (math.nan, math.nan))
        if since != stuck.since:
            self._seen[name] = (stuck.since, now)
            return False
        if now - looked < _PATIENCE or self._bitten.get(name) == stuck.since:
            return False
        self._bitten[name] = stuck.since
        return True
