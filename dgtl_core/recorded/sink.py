# SPDX-License-Identifier: Apache-2.0
"""What takes the labelled frames of a whole source, in order, and makes one file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dgtl_core.recorded.labels import Labelled


class SinkError(ValueError):
    """A file that cannot be made; the message says why and what to do."""


class Sink(Protocol):
    """Makes its file under another name, which it gets when the source is at its end."""

    def add(self, labelled: Labelled) -> None:
        """
        Take the next frame.

        :raises OSError: it cannot be written.
        :raises SinkError: it does not fit.
        """

    def finish(self) -> list[Path]:
        """Put what was made in its place and return where; nothing where no frame came."""

    def abandon(self) -> None:
        """Leave nothing behind."""
