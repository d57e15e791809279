# SPDX-License-Identifier: Apache-2.0
"""Writes what the demonstration saw: pictures, videos, a report, and one page with all of it."""

from __future__ import annotations

from pathlib import Path

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.pictures import write_image
from dgtl_core.visualize import legend, overlay, sheet
from dgtl_core.web_video import WebVideo
from dgtl_ros.show.page import Clip, page
from dgtl_ros.show.recorder import Condition, Recorder
from dgtl_ros.snapshot import write_json
import numpy as np

_ALPHA = 0.55


def write_results(recorder: Recorder, folder: Path) -> list[Path]:
    """
    Write overlays, a contact sheet, a video of each condition, the report and ``index.html``.

    :returns: the files.
    :raises OSError: the folder cannot be written.
    """
    classes = recorder.classes or CITYSCAPES
    files: list[Path] = []
    rows, titles, clips = [], [], []
    for name, condition in recorder.conditions.items():
        for number, (image, labels) in enumerate(condition.samples):
            files.append(folder / f'{name}_{number}.jpg')
            write_image(files[-1], overlay(image, labels, classes, _ALPHA))
        iou = condition.confusion and condition.confusion.mean_iou()
        if condition.samples:
            image, labels = condition.samples[len(condition.samples) // 2]
            rows.append([image, overlay(image, labels, classes, _ALPHA)])
            titles.append(name + (f' mIoU {100 * iou:.1f} %' if iou else ''))
        video = _write_clip(condition, classes, folder / f'{name}.mp4')
        files += [video] if video else []
        clips.append(Clip(name, video, files[-1] if not video and condition.samples else None))
    grid = None
    if rows:
        grid = folder / 'contact_sheet.jpg'
        files.append(grid)
        picture = sheet(rows, ['camera', 'labels'], titles, 512)
        write_image(grid, np.vstack([picture, legend(classes, picture.shape[1])]))
    files += [folder / 'report.json', folder / 'index.html']
    write_json(files[-2], recorder.report())
    files[-1].write_text(page(recorder, classes, clips, grid), encoding='utf-8')
    return files


def _write_clip(condition: Condition, classes: ClassSet, path: Path) -> Path | None:
    """Write camera and overlay side by side; nothing without PyAV, or where too little came."""
    times = condition.clip_times
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    height, width = condition.clip[0][0].shape[:2]
    try:
        video = WebVideo(path, (height, 2 * width))
    except ImportError as error:
        print(f'demo: no video: {error}')
        return None
    for time, (image, labels) in zip(times, condition.clip):
        video.add(np.hstack([image, overlay(image, labels, classes, _ALPHA)]), round(time * 1e9))
    return video.finish()
