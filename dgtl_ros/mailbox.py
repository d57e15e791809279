# SPDX-License-Identifier: Apache-2.0
"""A place for one item, where the newest wins, and the thread that empties it."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """Hands the newest item from one thread to another and says when one was not taken in time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        with self._changed:
            return self._closed

    def put(self, item: T) -> bool:
        """
        Leave an item and return at once; once closed, nothing is kept.

        :returns: whether the item superseded one that nobody had taken.
        """
        if item is None:
            raise ValueError('a mailbox cannot hold None, which take() returns for "nothing came"')
        with self._changed:
            if self._closed:
                return False
            superseded = self._item is not None
            self._item = item
            self._changed.notify()
            return superseded

    def take(self, timeout: float | None = None) -> T | None:
        """
        Wait for an item and remove it.

        :param timeout: the longest wait in seconds; None waits for as long as it takes.
        :returns: the newest item, or None if none came in time or the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None, timeout)
            item, self._item = self._item, None
            return item

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> None:
        """Throw away what is left and wake everybody who waits. May be called again."""
        with self._changed:
            self._closed, self._item = True, None
            self._changed.notify_all()


class Worker(Generic[T]):
    """
    A thread that calls ``work`` with the newest item of its mailbox until it is stopped.

    :param work: called in the thread; it must not raise.
    :param interval: returns the least time in seconds between the starts of two calls. The wait
        comes before the item is taken, so that what is taken is the newest there is.
    """

    def __init__(self, work: Callable[[T], None], interval: Callable[[], float]) -> None:
        self.mailbox: Mailbox[T] = Mailbox()
        self._work = work
        self._interval = interval
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Take no further item; return whether the thread ended within ``timeout`` seconds."""
        self.mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = float('-inf')
        while not self.mailbox.closed:
            rest = started + self._interval() - time.monotonic()
            if rest > 0:
                self.mailbox.pause(rest)
            item = self.mailbox.take()
            if item is not None:
                started = time.monotonic()
                self._work(item)
