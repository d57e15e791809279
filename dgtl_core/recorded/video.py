# SPDX-License-Identifier: Apache-2.0
"""
Video files and cameras, through OpenCV.

A video is seen as players show it: where a phone noted that it was held upright, its frames are
turned upright. Each frame has its own time, so a video of a varying rate keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import time

import cv2
from dgtl_core.pictures import open_video
from dgtl_core.recorded.frame import Frame, Item, SourceError

SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ts', '.webm', '.wmv')
_WHOLE = 0.9  # of the frames that a file announces; containers are a few frames off


class Video:
    """The frames of a video file."""

    cameras: tuple[str, ...] = ('',)

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @property
    def total(self) -> int | None:
        """How many frames the file announces; None where it does not."""
        count = int(open_video(self.path).get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def items(self) -> Iterator[Item]:
        """Give the frames in order; named by their number in the file, from 0."""
        capture = open_video(self.path)
        try:
            if not capture.isOpened():
                raise SourceError(
                    f'{self.path} is not a video that OpenCV can read: it is damaged, cut short '
                    'or of an unknown kind; convert it, for example with "ffmpeg -i INPUT '
                    '-c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"')
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            number = 0
            while capture.grab():
                yield _item(capture, f'{self.name}/{number:06d}',
                            round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6))
                number += 1
            if number < _WHOLE * announced or not number:
                raise SourceError(
                    f'{self.path} ends after {number} of {announced} frames: it is damaged or cut '
                    'short')
        finally:
            capture.release()


class Camera:
    """A camera of this computer, until it stops or the caller does; stamps are of the clock."""

    cameras: tuple[str, ...] = ('',)
    total: int | None = None

    def __init__(self, number: int) -> None:
        self.number, self.name = number, f'camera_{number}'

    def items(self) -> Iterator[Item]:
        """Give the frames as they come."""
        capture = cv2.VideoCapture(self.number)
        try:
            if not capture.isOpened():
                raise SourceError(
                    f'camera:{self.number} cannot be opened: check that it is plugged in (ls '
                    '/dev/video*), that no other program uses it, and that you may (group video)')
            number = 0
            while capture.grab():
                yield _item(capture, f'{self.name}/{number:06d}', time.time_ns())
                number += 1
            raise SourceError(f'camera:{self.number} gives no more pictures')
        finally:
            capture.release()


def _item(capture: cv2.VideoCapture, name: str, stamp: int) -> Item:
    def read() -> Frame:
        good, image = capture.retrieve()
        if not good:
            raise SourceError('the frame cannot be decoded')
        return Frame(name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), stamp)

    return Item(name, read)
