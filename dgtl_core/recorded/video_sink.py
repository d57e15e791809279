# SPDX-License-Identifier: Apache-2.0
"""
A video of the overlays that every browser plays: H.264 in MP4, 4:2:0, the index in front.

Frames keep their times; where there are none, ten go to a second. The first frame says the size,
which 4:2:0 wants even: the last row or column is doubled where it is odd. Others are fitted in.
"""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
from dgtl_core.classes import ClassSet
from dgtl_core.files import put, workshop
from dgtl_core.recorded.labels import Labelled
from dgtl_core.recorded.sink import SinkError
from dgtl_core.visualize import overlay
import numpy as np

_TICK = Fraction(1, 90_000)  # of a second, the clock of MPEG
_RATE = 10  # of frames without a stamp, per second


class VideoSink:
    """
    Writes one video for each camera of a source.

    :param path: of the file, without its ``.mp4``; with several cameras a folder, in which each
        has a file with the name of its topic.
    """

    def __init__(self, path: Path, cameras: int, classes: ClassSet, alpha: float) -> None:
        try:
            import av
        except ImportError:
            raise SinkError('writing videos needs PyAV: pip install av') from None
        self._av, self._path, self._several = av, path, cameras > 1
        self._classes, self._alpha = classes, alpha
        self._videos: dict[str, _Video] = {}

    def add(self, labelled: Labelled) -> None:
        """Take the next frame."""
        frame = labelled.frame
        topic = frame.message.topic if frame.message and self._several else ''
        if topic not in self._videos:
            path = self._path / topic.strip('/').replace('/', '_') if topic else self._path
            self._videos[topic] = _Video(
                self._av, path.with_name(f'{path.name}.mp4'), frame.image.shape[:2])
        picture = overlay(frame.image, labelled.labels, self._classes, self._alpha)
        self._videos[topic].add(picture, frame.stamp)

    def finish(self) -> list[Path]:
        """Put the videos in their places."""
        return [video.finish() for video in self._videos.values()]

    def abandon(self) -> None:
        """Leave nothing behind."""
        for video in self._videos.values():
            video.abandon()


class _Video:
    def __init__(self, av: Any, path: Path, size: tuple[int, ...]) -> None:
        self._av, self._path = av, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._part = self._stack.enter_context(workshop(path.parent)) / path.name
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._container = av.open(
            str(self._part), 'w', format='mp4', options={'movflags': 'faststart'})
        self._stream = self._container.add_stream(
            'libx264', rate=30, options={'preset': 'veryfast', 'crf': '20'})
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.time_base = _TICK
        self._first: int | None = None
        self._last, self._count = -1, 0

    def add(self, picture: np.ndarray, stamp: int | None) -> None:
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
        self._container.mux(self._stream.encode())
        self._container.close()
        put({self._part: self._path})
        self._stack.close()
        return self._path

    def abandon(self) -> None:
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
