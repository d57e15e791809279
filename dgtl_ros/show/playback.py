# SPDX-License-Identifier: Apache-2.0
"""Pictures from a video file or a folder, read ahead of time so that a rate can be held."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
from dgtl_core.picture_header import PictureError
from dgtl_core.pictures import is_picture, open_video, read_image, SUFFIXES
from dgtl_ros.parameters import ParameterError
import numpy as np


class PlayedPicture(NamedTuple):
    """One picture, and what is known about it."""

    image: np.ndarray                 # (H, W, 3) uint8 RGB
    labels: np.ndarray | None = None  # (H, W) uint8 class ids, where the source knows them
    condition: str = ''               # of the weather and the light, where the source knows it


class Playback(NamedTuple):
    """Pictures, and how they are to be played."""

    frames: Iterator[PlayedPicture]
    rate: float     # how many per second they are meant to be shown at; 0: not known
    ahead: int = 8  # how many are worth reading before they are due


def open_files(path: Path, loop: bool, warn: Callable[[str], object]) -> Playback:
    """
    Open a video file or a folder of pictures.

    :param loop: start again at the end.
    :param warn: called with a message for each picture that cannot be read, once.
    :raises ParameterError: nothing there, or nothing that OpenCV can read.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if is_picture(p) and not p.is_dir())
        if not files:
            raise ParameterError(
                f'source: the folder {str(path)!r} holds no picture; file names must end in one '
                f'of {list(SUFFIXES)}')
        return Playback(_folder(files, loop, warn), 0.0)
    if not path.is_file():
        raise ParameterError(
            f'source: there is no file or folder {str(path)!r}; give a video file, a folder of '
            'pictures, or "streetworld"')
    try:
        video = open_video(path)
    except PictureError as error:
        raise ParameterError(f'source: {error}') from None
    if not video.isOpened() or not video.grab():
        raise ParameterError(
            f'source: {str(path)!r} is not a video that OpenCV can read; convert it, for example '
            'with "ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"')
    return Playback(_video(path, loop), float(video.get(cv2.CAP_PROP_FPS)))


def _folder(files: list[Path], loop: bool,
            warn: Callable[[str], object]) -> Iterator[PlayedPicture]:
    broken: set[Path] = set()
    while True:
        for file in files:
            if file in broken:
                continue
            try:
                image = read_image(file)
            except (ValueError, OSError) as error:
                warn(f'picture left out: {error}')
                broken.add(file)
                continue
            yield PlayedPicture(image)
        if len(broken) == len(files):
            raise ParameterError(
                f'source: none of the {len(files)} pictures in {str(files[0].parent)!r} can be '
                'read by OpenCV')
        if not loop:
            return


def _video(path: Path, loop: bool) -> Iterator[PlayedPicture]:
    while True:
        video = open_video(path)
        count = 0
        while True:
            good, image = video.read()
            if not good:
                break
            count += 1
            yield PlayedPicture(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        video.release()
        if not count:
            raise ParameterError(f'source: the video {str(path)!r} cannot be read any more')
        if not loop:
            return


def resized(frames: Iterator[PlayedPicture], height: int,
            width: int) -> Generator[PlayedPicture, None, None]:
    """Bring pictures (and their labels) to a size; 0 keeps that side's proportion or size."""
    for frame in frames:
        h, w = frame.image.shape[:2]
        size = (height or max(round(h * (width or w) / w), 1),
                width or max(round(w * (height or h) / h), 1))
        if size == (h, w):
            yield frame
            continue
        shrinks = size[0] < h and size[1] < w
        image = cv2.resize(frame.image, size[::-1],
                           interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        labels = frame.labels
        if labels is not None:
            labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        yield frame._replace(image=image, labels=labels)
