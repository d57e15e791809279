# SPDX-License-Identifier: Apache-2.0
"""Write videos that every browser plays: H.264 in MP4, 4:2:0, the index in front."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
from dgtl_core.files import put, workshop
import numpy as np

_TICK = Fraction(1, 90_000)  # of a second, the clock of MPEG
_RATE = 10  # of frames without a stamp, per second


def encoder() -> Any:
    """Return PyAV; :raises ImportError: it is not installed."""
    try:
        import av
    except ImportError:
        raise ImportError('writing videos needs PyAV: pip install av') from None
    return av


class WebVideo:
    """
    A video that is in its place when it is finished.

    Frames keep their times; where there are none, ten go to a second. The size is made even, as
    4:2:0 wants it: the last row or column is doubled where it is odd. Other sizes are fitted in.

    :param path: of the file, .mp4.
    :param size: (height, width) of its frames, pixels.
    :raises ImportError: PyAV is not installed.
    """

    def __init__(self, path: Path, size: tuple[int, ...]) -> None:
        self._av, self._path = encoder(), path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._part = self._stack.enter_context(workshop(path.parent)) / path.name
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._container = self._av.open(
            str(self._part), 'w', format='mp4', options={'movflags': 'faststart'})
        self._stream = self._container.add_stream(
            'libx264', rate=30, options={'preset': 'veryfast', 'crf': '20'})
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.time_base = _TICK
        self._first: int | None = None
        self._last, self._count = -1, 0

    def add(self, picture: np.ndarray, stamp: int | None) -> None:
        """
        Take the next frame, (H, W, 3) uint8 RGB.

        :param stamp: its time, nanoseconds; the first one is the start of the video.
        """
        frame = self._av.VideoFrame.from_ndarray(_fit(picture, self._size), format='rgb24')
        if stamp is None:
            seconds = Fraction(self._count, _RATE)
        else:
            self._first = stamp if self._first is None else self._first
            seconds = Fraction(stamp - self._first, 1_000_000_000)
        self._last = max(round(seconds / _TICK), self._last + 1)  # a clock can jump back
        frame.pts, frame.time_base = self._last, _TICK
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> Path:
        """Put the video in its place."""
        self._container.mux(self._stream.encode())
        self._container.close()
        put({self._part: self._path})
        self._stack.close()
        return self._path

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._container.close()
        self._stack.close()


def _fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a picture to a size: doubled by a row and a column at most, else with black bars."""
    (height, width), (h, w) = size, picture.shape[:2]
    if 0 <= height - h <= 1 and 0 <= width - w <= 1:
        return cv2.copyMakeBorder(
            picture, 0, height - h, 0, width - w, cv2.BORDER_REPLICATE)
    scale = min(height / h, width / w)
    h, w = min(max(round(h * scale), 1), height), min(max(round(w * scale), 1), width)
    picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    top, left = (height - h) // 2, (width - w) // 2
    return cv2.copyMakeBorder(
        picture, top, height - h - top, left, width - w - left, cv2.BORDER_CONSTANT)
