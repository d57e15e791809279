# SPDX-License-Identifier: Apache-2.0
"""How far a command is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import TextIO

_EVERY = 10.0  # seconds between two lines where the output is not a terminal


class Progress:
    """
    Counts what is done, on standard error.

    :param total: how much there is to do; None: not known.
    :param unit: of it: ``frame``, ``%``, or ``B`` for bytes, which are shown as MB.
    :param quiet: show nothing but notes.
    :param done: how much an earlier run had done.
    :param title: what is being done, where the unit does not say it; shown at once.
    :raises OSError: from any method: nobody reads the stream any more.
    """

    def __init__(self, total: int | None, unit: str, quiet: bool = False,
                 stream: TextIO | None = None, done: int = 0, title: str = '') -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._unit, self._quiet = total, unit, quiet
        self._done = self._before = done
        self._title, self._part = title, ''
        self._start = time.monotonic()
        self._shown = self._start if not title else -math.inf
        self._bar = None
        if self._stream.isatty() and not quiet:
            from tqdm import tqdm

            columns, lines = shutil.get_terminal_size()  # some terminals say 0, and mean unknown
            self._bar = tqdm(total=total, unit=unit, unit_scale=unit == 'B', file=self._stream,
                             ncols=columns - 1, nrows=lines, leave=False, initial=done,
                             desc=title or None)

    def advance(self, count: int = 1) -> None:
        """Note that so much more is done."""
        self.reach(self._done + count)

    def reach(self, done: int, part: str = '') -> None:
        """Note that so much is done in all, and which part is being done."""
        count, self._done, self._part = done - self._done, done, part
        if self._bar is not None:
            if part:
                self._bar.set_postfix_str(part, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._shown >= _EVERY:
            self._shown = time.monotonic()
            self._print(self.line())

    def note(self, text: str) -> None:
        """Say something that is to stay, above the bar."""
        if self._bar is not None:
            self._bar.clear()
        self._print(text)
        if self._bar is not None:
            self._bar.refresh()

    def line(self) -> str:
        """Return how far it is, for people."""
        if self._unit == '%':
            return f'{self._title}: {self._done} % {self._part}'.rstrip()
        scale, unit = (1e6, 'MB') if self._unit == 'B' else (1, f'{self._unit}s')
        rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
        done = f'{self._done / scale:.0f}'
        if self._total is None:
            return f'{done} {unit}, {rate / scale:.1f} {unit}/s'
        left = (self._total - self._done) / rate if rate else float('inf')
        return (f'{done} of {self._total / scale:.0f} {unit}, {rate / scale:.1f} {unit}/s, '
                f'{max(left, 0):.0f} s left')

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
