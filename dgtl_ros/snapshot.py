# SPDX-License-Identifier: Apache-2.0
"""Write what went last through the node, for a bug report or a data set."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.pictures import write_image
from dgtl_core.visualize import overlay
from dgtl_ros.settings import Settings
from dgtl_ros.stream import Result, Stream


def write_snapshot(stream: Stream, last: Result, classes: ClassSet, model: str,
                   settings: Settings) -> Path:
    """
    Write a camera's last picture, its labels, confidence, overlay and statistics.

    :returns: their new folder.
    :raises OSError: the folder cannot be made or written.
    """
    health = stream.health
    folder = Path(settings.snapshot_dir).expanduser() / stream.name.strip('/') / str(last.stamp_ns)
    write_image(folder / 'image.png', last.image)
    write_image(folder / 'labels.png', last.labels)
    write_image(folder / 'confidence.png', last.confidence)
    write_image(folder / 'overlay.jpg', overlay(last.image, last.labels, classes))
    write_json(folder / 'statistics.json', {
        'stamp_ns': last.stamp_ns, 'model': model, 'counts': health.counts(),
        'stages_ms_p50': {name: d.percentile(50) for name, d in health.stages.items()},
        'domain': stream.monitor.report(settings)[0]})
    return folder


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write a JSON file, which appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        part.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
