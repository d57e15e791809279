# SPDX-License-Identifier: Apache-2.0
"""Find threads that are at one thing for longer than they may."""

from __future__ import annotations

from datetime import datetime
import time
from typing import Any, NamedTuple

from dgtl_ros.worker import Worker


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

    Not at the first look: a process that was stopped sees all its threads late for a moment.
    """

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._bitten: dict[str, float] = {}

    def bites(self, name: str, stuck: Stuck) -> bool:
        """Return whether it is time to act on what hangs below this name."""
        seen, self._seen[name] = self._seen.get(name), stuck.since
        if seen != stuck.since or self._bitten.get(name) == stuck.since:
            return False
        self._bitten[name] = stuck.since
        return True
