# SPDX-License-Identifier: Apache-2.0
"""Read ahead in a thread, so that the next frame is there when the network is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
import queue
import threading
import time
from typing import Any, Generic, TypeVar

T = TypeVar('T')


class ReadAhead(Generic[T]):
    """
    Runs a generator in a thread, up to ``depth`` items ahead, and hands them over in order.

    An item counts as so many as it weighs, where ``weight`` says so: fewer heavy ones are held.
    Iterating waits for the next item and raises what the generator raised. The thread closes the
    generator: it is the one that opened what it reads.
    """

    def __init__(self, items: Generator[T, None, None], depth: int,
                 weight: Callable[[T], int] = lambda item: 1) -> None:
        self._items = items
        self._queue: queue.Queue[T | BaseException | None] = _Weighed(depth, weight)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='read ahead', daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        """Give the items in order; ends when the generator does or :meth:`close` was called."""
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self, timeout: float | None = None) -> bool:
        """Stop reading; return whether the thread ended within ``timeout`` seconds."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # belongs to whoever iterates
            last = error
        self._put(last)
        self._items.close()

    def _put(self, item: T | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class _Weighed(queue.Queue[Any]):
    """Takes items until they weigh ``maxsize`` together; the last may weigh more than is left."""

    def __init__(self, maxsize: int, weight: Callable[[Any], int]) -> None:
        self._weigh, self._weight = weight, 0
        super().__init__(maxsize)

    # The four below are those that queue.Queue has for this, and calls with its lock held.
    def _init(self, maxsize: int) -> None:
        self.queue = deque()

    def _qsize(self) -> int:
        return self._weight

    def _put(self, item: Any) -> None:
        weight = 1 if item is None or isinstance(item, BaseException) else self._weigh(item)
        self.queue.append((item, weight))
        self._weight += weight

    def _get(self) -> Any:
        item, weight = self.queue.popleft()
        self._weight -= weight
        return item


def read_ahead(items: Generator[T, None, None], depth: int,
               weight: Callable[[T], int] = lambda item: 1,
               ) -> Generator[tuple[T, float], None, None]:
    """
    Yield the items in order, each with the milliseconds that it took; what is raised comes here.

    A thread takes up to ``depth`` of them in advance, as many as :class:`ReadAhead` would. It ends
    with this generator.
    """
    ahead = ReadAhead(_timed(items), depth, lambda entry: weight(entry[0]))
    try:
        yield from ahead
    finally:
        ahead.close()


def _timed(items: Generator[T, None, None]) -> Generator[tuple[T, float], None, None]:
    try:
        start = time.perf_counter()
        for item in items:
            yield item, (time.perf_counter() - start) * 1e3
            start = time.perf_counter()
    finally:
        items.close()
