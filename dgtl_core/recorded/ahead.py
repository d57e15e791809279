# SPDX-License-Identifier: Apache-2.0
"""Read ahead in a thread, so that the next frame is there when the network is free."""

from __future__ import annotations

from collections.abc import Generator
import queue
import threading
import time
from typing import TypeVar

T = TypeVar('T')


def read_ahead(items: Generator[T, None, None],
               depth: int) -> Generator[tuple[T, float], None, None]:
    """
    Yield the items in order, each with the milliseconds that it took; what is raised comes here.

    A thread takes up to ``depth`` of them in advance. It ends with this generator.
    """
    ready: queue.Queue[tuple[T, float] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[T, float] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        last: BaseException | None = None
        try:
            start = time.perf_counter()
            for item in items:
                if not put((item, (time.perf_counter() - start) * 1e3)):
                    return
                start = time.perf_counter()
        except BaseException as error:  # belongs to whoever iterates
            last = error
        put(last)

    def read_and_close() -> None:
        read()
        items.close()  # in the thread that opened what it reads

    thread = threading.Thread(target=read_and_close, name='read ahead', daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stop.set()
        thread.join()
