# SPDX-License-Identifier: Apache-2.0
"""Write videos that every browser plays, with nothing but OpenCV: VP8 in WebM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import itertools
import os
from pathlib import Path
import sys

import cv2
from dgtl_core.files import placing
import numpy as np


def write_web_video(path: Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """
    Write pictures to a ``.webm`` file, which appears as a whole or not at all.

    A picture that differs from the first in size is brought to the first one's. Odd sides lose
    their last pixel: VP8 stores colours for two by two.

    :param frames: (H, W, 3) uint8 RGB each, at least 16 x 16 pixels.
    :param rate: pictures per second.
    :returns: how many pictures there were.
    :raises ValueError: the name does not end in ``.webm``; there is no picture, or too small ones.
    :raises OSError: this OpenCV was built without a VP8 encoder, or the place cannot be written.
    """
    if path.suffix != '.webm':
        raise ValueError(f'the video must be a file that ends in .webm, got {path}')
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f'there are no pictures for {path}')
    height, width = (side // 2 * 2 for side in first.shape[:2])
    if min(height, width) < 16:
        raise ValueError(f'a video needs at least 16 x 16 pixels, got {height} x {width}')
    with placing(path) as part:
        with _quiet():  # OpenCV 4 and 5 print a warning for every WebM file
            writer = cv2.VideoWriter(
                str(part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*'VP80'), rate, (width, height))
        if not writer.isOpened():
            raise OSError(
                f'OpenCV {cv2.__version__} here has no VP8 encoder, so it cannot write {path}; '
                'the wheels opencv-python and opencv-python-headless have one')
        count = 0
        try:
            for picture in itertools.chain([first], pictures):
                if picture.shape != first.shape:
                    picture = cv2.resize(picture, first.shape[1::-1])
                writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))
                count += 1
        finally:
            writer.release()
    return count


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a C library prints to the standard error out of sight."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
