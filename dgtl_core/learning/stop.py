# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM as a wish to stop, which a training run meets at the end of a step."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


class Stop:
    """
    SIGINT and SIGTERM while the block runs; what is ignored (nohup) stays so.

    At first a signal ends the program by SystemExit, so that no half-made file stays behind. After
    :meth:`after_this_step` it is only noted, and a second one ends the program at once.
    """

    TERMINATED = 143  # exit code after SIGTERM, as a shell reports it; 130 after Ctrl-C

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def after_this_step(self) -> None:
        """From now on, finish the step and save."""
        for number in self._before:
            signal.signal(number, self._note)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number; SIGTERM's where another process got the signal."""
        return self.TERMINATED if self.signal is None else 128 + self.signal

    def _leave(self, number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else
                      signal.SIG_DFL)
