# SPDX-License-Identifier: Apache-2.0
"""What a source gives: frames with a name and a stamp, read only when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np


class SourceError(ValueError):
    """A source that cannot be read; the message says why and what to do."""


class Message(NamedTuple):
    """The message of a bag that a frame was in."""

    topic: str
    time: int  # at which it was recorded, nanoseconds
    content: Any  # the message itself, as ``rosbags`` reads it


class Item(NamedTuple):
    """A frame that is known of, but not decoded yet."""

    name: str  # a relative path without a suffix, for results to be called by; different for each
    read: Callable[[], Frame]  # to be called before the next item is asked for, or not at all
    camera: str = ''  # the topic, where a source has several cameras


class Frame(NamedTuple):
    """One picture of a source."""

    name: str
    image: np.ndarray  # (H, W, 3) uint8 RGB
    stamp: int | None = None  # nanoseconds; of a video from its start; None: not known
    message: Message | None = None  # of a bag


class Source(Protocol):
    """Something that frames come out of, one after the other."""

    name: str  # a relative path without a suffix: what results of the whole source are called
    cameras: tuple[str, ...]  # the topics of a bag; elsewhere one without a name

    @property
    def total(self) -> int | None:
        """How many frames there are, a guess for some videos; None: that shows at the end."""

    def items(self) -> Iterator[Item]:
        """
        Give the frames in order.

        :raises SourceError: the source cannot be read, or not any further.
        """
