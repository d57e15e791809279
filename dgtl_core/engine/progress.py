# SPDX-License-Identifier: Apache-2.0
"""Show how far TensorRT's builder is, and let Ctrl-C stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import sys
import threading
import time
from typing import Any, TextIO

_WIDTH = 30


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """
    A bar on a terminal, a line now and then elsewhere.

    TensorRT calls it from any of its threads, and an exception would end the process there: so
    none leaves. Where the output is a pipe and its reader is gone, the build is cancelled.
    """

    def __init__(self, stream: TextIO | None = None, every_s: float = 10.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """
        Start with nothing done.

        :param every_s: seconds between two lines where the output is not a terminal.
        """
        self.cancelled = False
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()
        self._every = 0.1 if self._bar else every_s
        self._clock = clock
        self._shown_at = float('-inf')
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase inside another one, or on its own."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._show()

    def step(self, name: str, number: int) -> bool:
        """Note a finished step, counted from 0; return whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = number + 1
                self._show()
            return not self.cancelled

    def finish(self, name: str) -> None:
        """End a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar and self._shown_at > float('-inf'):
            self._write('\r\x1b[K')

    def fraction(self, name: str) -> float:
        """Return which part of a phase is done (0..1), the phases inside it included."""
        phase = self._phases[name]
        inner = [self.fraction(n) for n, p in self._phases.items() if p.parent == name]
        return min((phase.done + max(inner, default=0.0)) / phase.steps, 1.0)

    def _show(self) -> None:
        now = self._clock()
        if now - self._shown_at < self._every:
            return
        outer = next((n for n, p in self._phases.items() if p.parent not in self._phases), None)
        if outer is None:
            return
        self._shown_at = now
        part = self.fraction(outer)
        text = f'{part:4.0%} {next(reversed(self._phases))}'
        if self._bar:
            bar = '#' * round(part * _WIDTH)
            self._write(f'\r[{bar:.<{_WIDTH}}] {text:.60}\x1b[K')
        else:
            self._write(f'building the engine: {text}\n')

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:  # nobody waits for the engine any more
            self.cancelled = True
        except (OSError, ValueError):  # no room to write, or the stream was closed
            self._every = float('inf')


def monitor(trt: Any, progress: Progress) -> Any:
    """Return TensorRT's own kind of monitor that reports to ``progress``."""
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return progress.step(name, step)

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    return Monitor()
