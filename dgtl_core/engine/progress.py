# SPDX-License-Identifier: Apache-2.0
"""Show how far TensorRT's builder is, and let Ctrl-C stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading
from typing import Any, TextIO

from dgtl_core.progress import Progress


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """
    Adds up the phases of a build and shows how far it is.

    TensorRT calls it from any of its threads, and an exception would end the process there: so
    none leaves. Where the output is a pipe and its reader is gone, the build is cancelled.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.cancelled = False
        self._shown = Progress(100, '%', stream=stream, title='building the engine')
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
        """Take the bar away."""
        self._tell(self._shown.close)

    def fraction(self, name: str) -> float:
        """Return which part of a phase is done (0..1), the phases inside it included."""
        phase = self._phases[name]
        inner = [self.fraction(n) for n, p in self._phases.items() if p.parent == name]
        return min((phase.done + max(inner, default=0.0)) / phase.steps, 1.0)

    def _show(self) -> None:
        outer = next((n for n, p in self._phases.items() if p.parent not in self._phases), None)
        if outer is not None:
            done, part = round(100 * self.fraction(outer)), next(reversed(self._phases))
            self._tell(lambda: self._shown.reach(done, part[:40]))

    def _tell(self, show: Callable[[], None]) -> None:
        try:
            show()
        except BrokenPipeError:  # nobody waits for the engine any more
            self.cancelled = True
        except (OSError, ValueError):  # no room to write, or the stream was closed
            pass


def monitor(trt: Any, progress: BuildProgress) -> Any:
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
