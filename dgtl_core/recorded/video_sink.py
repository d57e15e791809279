# SPDX-License-Identifier: Apache-2.0
"""Videos of the overlays, one for each camera of a source."""

from __future__ import annotations

from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.recorded.labels import Labelled
from dgtl_core.visualize import overlay
from dgtl_core.web_video import encoder, WebVideo


class VideoSink:
    """
    Writes one video for each camera of a source; the first frame says its size.

    :param path: of the file, without its ``.mp4``; with several cameras a folder, in which each
        has a file with the name of its topic.
    :raises ImportError: PyAV is not installed.
    """

    def __init__(self, path: Path, cameras: int, classes: ClassSet, alpha: float) -> None:
        encoder()  # before the first frame is labelled
        self._path, self._several = path, cameras > 1
        self._classes, self._alpha = classes, alpha
        self._videos: dict[str, WebVideo] = {}

    def add(self, labelled: Labelled) -> None:
        """Take the next frame."""
        frame = labelled.frame
        topic = frame.message.topic if frame.message and self._several else ''
        if topic not in self._videos:
            path = self._path / topic.strip('/').replace('/', '_') if topic else self._path
            self._videos[topic] = WebVideo(
                path.with_name(f'{path.name}.mp4'), frame.image.shape[:2])
        picture = overlay(frame.image, labelled.labels, self._classes, self._alpha)
        self._videos[topic].add(picture, frame.stamp)

    def finish(self) -> list[Path]:
        """Put the videos in their places."""
        return [video.finish() for video in self._videos.values()]

    def abandon(self) -> None:
        """Leave nothing behind."""
        for video in self._videos.values():
            video.abandon()
