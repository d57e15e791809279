# SPDX-License-Identifier: Apache-2.0
"""What the page shows: the newest frame with its labels, from a recording or from a robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import threading
import time
from typing import Any, Protocol

from dgtl_core.classes import ClassSet
import numpy as np

_LOOKS = 3.0  # seconds that somebody counts as looking after having asked


@dataclass(frozen=True, kw_only=True)
class Shown:
    """
    One frame and what was made of it.

    Shape: image (H, W, 3) uint8 RGB; labels (h, w) uint8; confidence (h, w) uint8 or None.
    """

    number: int  # rises by one with each
    name: str  # of the frame
    image: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray | None
    classes: ClassSet
    times_ms: Mapping[str, float] = field(default_factory=dict)  # {'inference': ...}
    domain: Mapping[str, Any] | None = None  # score, verdict (a word), causes
    position: int | None = None  # in the recording


class Feed(Protocol):
    """Where frames come from."""

    title: str

    @property
    def state(self) -> dict[str, Any]:
        """Whether it plays, where it is, and what is wrong: plain values for the page."""

    @property
    def diagnostics(self) -> list[dict[str, str]]:
        """``[{'name', 'level', 'message'}]``; a level is ok, warn or error."""

    def newest(self) -> Shown | None:
        """Return the newest frame; None: there is none yet."""

    def wait(self, number: int, seconds: float) -> bool:
        """Wait until there is a frame above that number; return whether there is."""

    def command(self, command: Mapping[str, Any]) -> None:
        """Do what the page asks, such as ``{'do': 'pause'}``; what does not apply is ignored."""

    def close(self) -> None:
        """End it."""


class Slot:
    """Holds the newest frame, for any number of readers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shown: Shown | None = None
        self._asked = float('-inf')  # when somebody last waited

    def put(self, shown: Shown) -> None:
        """Show this one from now on."""
        with self._changed:
            self._shown = shown
            self._changed.notify_all()

    def newest(self) -> Shown | None:
        """Return the newest frame; None: there is none yet."""
        return self._shown

    def watched(self) -> bool:
        """Return whether somebody waited for a frame in the last seconds."""
        return time.monotonic() - self._asked < _LOOKS

    def wait(self, number: int, seconds: float) -> bool:
        """Wait until there is a frame above that number; return whether there is."""
        self._asked = time.monotonic()
        with self._changed:
            return self._changed.wait_for(
                lambda: self._shown is not None and self._shown.number > number, seconds)
