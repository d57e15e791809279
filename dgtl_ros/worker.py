# SPDX-License-Identifier: Apache-2.0
"""A place for one item of each sender, where the newest wins, and the thread that empties it."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Generic, TypeVar

from dgtl_ros.printable import complain

T = TypeVar('T')
_LONGEST_S = 0.2  # of one rest between two calls


class Mailbox(Generic[T]):
    """
    Hands the newest item of each sender from one thread to another.

    A newer item takes the place of the sender's older one, also in the order: who was served goes
    to the end of the line, so no sender can keep another waiting, however much it sends.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[str, T] = {}  # in the order in which the senders are served
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        with self._changed:
            return self._closed

    def put(self, item: T, sender: str = '') -> T | None:
        """
        Leave an item and return at once; once closed, nothing is kept.

        :returns: what nobody will take: the sender's older item, which this one superseded; the
            item itself, once closed; else None.
        """
        with self._changed:
            if self._closed:
                return item
            superseded = self._items.get(sender)
            self._items[sender] = item
            self._changed.notify()
            return superseded

    def take(self, timeout: float | None = None, most: int = 1) -> list[T]:
        """
        Wait until there is something, and remove the items of those who wait for the longest time.

        :param timeout: the longest wait in seconds; None waits for as long as it takes.
        :param most: the most items; what is there is not held back until there are so many.
        :returns: at least one item; none if none came in time or the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout)
            return [self._items.pop(sender) for sender in list(self._items)[:most]]

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> list[T]:
        """Return what nobody will take, and wake everybody who waits. May be called again."""
        with self._changed:
            self._closed = True
            left = list(self._items.values())
            self._items.clear()
            self._changed.notify_all()
            return left


class Worker(Generic[T]):
    """
    A thread that calls ``work`` with the newest items of its mailbox until it is stopped.

    ``busy_since`` is when the call that is running began, by the steady clock; None: it rests.

    :param work: called in the thread with one item of each of at most ``most`` senders; it should
        not raise, and the thread goes on where it does.
    :param interval: returns the least time in seconds between the starts of two calls. The wait
        comes before the items are taken, so that what is taken is the newest there is.
    """

    def __init__(self, work: Callable[[list[T]], None], interval: Callable[[], float],
                 most: int = 1, name: str = 'inference') -> None:
        self.mailbox: Mailbox[T] = Mailbox()
        self.busy_since: float | None = None
        self._work = work
        self._interval = interval
        self._most = most
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Take no further item; return whether the thread ended within ``timeout`` seconds."""
        self.mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = float('-inf')
        while not self.mailbox.closed:
            while (rest := started + self._interval() - time.monotonic()) > 0:
                if self.mailbox.closed:
                    return
                self.mailbox.pause(min(rest, _LONGEST_S))  # the interval may change meanwhile
            items = self.mailbox.take(most=self._most)
            if items:
                self.busy_since = started = time.monotonic()
                try:
                    self._work(items)
                except Exception:  # a fault of the work's own care for faults
                    complain(f'the thread {self._thread.name} goes on after a fault')
                self.busy_since = None
