# SPDX-License-Identifier: Apache-2.0
"""A recording for the rerun viewer: pictures, labels with names and colours, confidence."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dgtl_core.classes import ClassSet, IGNORE_INDEX
from dgtl_core.files import put, workshop
from dgtl_core.recorded.labels import Labelled
from dgtl_core.recorded.sink import SinkError
import numpy as np

_QUALITY = 85  # of the pictures, JPEG
_SINCE_EPOCH = 10**17  # nanoseconds; a smaller stamp is the time since the start of a video


class RerunSink:
    """
    Writes one file; open it with ``rerun FILE``.

    :param path: of the file, without its ``.rrd``.
    """

    def __init__(self, path: Path, classes: ClassSet, alpha: float) -> None:
        try:
            import rerun
        except ImportError:
            raise SinkError('writing .rrd files needs rerun: pip install rerun-sdk') from None
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.with_name(f'{path.name}.rrd')
        self._rerun, self._path, self._alpha = rerun, path, alpha
        self._stack = ExitStack()
        self._part = self._stack.enter_context(workshop(path.parent)) / path.name
        self._recording = rerun.RecordingStream('dgtl predict')
        self._recording.save(self._part)
        names = [rerun.AnnotationInfo(e.id, e.name, e.color) for e in classes]
        names.append(rerun.AnnotationInfo(IGNORE_INDEX, 'unlabelled', (0, 0, 0, 0)))
        self._recording.log('/', rerun.AnnotationContext(names), static=True)
        self._count = 0

    def add(self, labelled: Labelled) -> None:
        """Log one frame."""
        rerun, frame = self._rerun, labelled.frame
        camera = (frame.message.topic if frame.message else '').strip('/') or 'camera'
        self._recording.set_time('frame', sequence=self._count)
        if frame.stamp is not None:
            if frame.stamp >= _SINCE_EPOCH:
                self._recording.set_time('time', timestamp=np.datetime64(frame.stamp, 'ns'))
            else:
                self._recording.set_time('time', duration=np.timedelta64(frame.stamp, 'ns'))
        self._count += 1
        self._recording.log(
            f'{camera}/image', rerun.Image(frame.image).compress(jpeg_quality=_QUALITY))
        self._recording.log(
            f'{camera}/labels', rerun.SegmentationImage(labelled.labels, opacity=self._alpha))
        self._recording.log(f'{camera}_confidence', rerun.Image(labelled.confidence))

    def finish(self) -> list[Path]:
        """Put the recording in its place."""
        self._recording.disconnect()
        if self._count:
            put({self._part: self._path})
        self._stack.close()
        return [self._path] * bool(self._count)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._recording.disconnect()
        self._stack.close()
