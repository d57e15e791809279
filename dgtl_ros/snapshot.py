# SPDX-License-Identifier: Apache-2.0
"""Write what went last through the node, for a bug report or a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
from pathlib import Path

from dgtl_core.files import put, workshop, write_atomically
from dgtl_core.pictures import write_image
from dgtl_core.visualize import overlay
from dgtl_ros.settings import Settings
from dgtl_ros.stream import Result, Stream


def write_snapshots(streams: Iterable[Stream], model: str, settings: Settings) -> list[Path]:
    """
    Write each camera's last picture, its labels, confidence, overlay and statistics.

    :returns: their new folders, one for each camera of which a picture was segmented.
    :raises OSError: a folder cannot be made or written; it is not there then.
    """
    last = {stream: stream.last for stream in streams}  # of one moment
    return [_write(stream, result, model, settings)
            for stream, result in last.items() if result is not None]


def _write(stream: Stream, last: Result, model: str, settings: Settings) -> Path:
    place = Path(settings.snapshot_dir).expanduser() / stream.name.strip('/')
    place.mkdir(parents=True, exist_ok=True)
    health = stream.health
    with workshop(place) as temporary:
        part = temporary / str(last.stamp_ns)
        part.mkdir()
        write_image(part / 'image.png', last.image)
        write_image(part / 'labels.png', last.labels)
        write_image(part / 'confidence.png', last.confidence)
        write_image(part / 'overlay.jpg', overlay(last.image, last.labels, stream.outputs.classes))
        write_json(part / 'statistics.json', {
            'stamp_ns': last.stamp_ns, 'model': model, 'counts': health.counts(),
            'stages_ms_p50': {name: d.percentile(50) for name, d in health.stages.items()},
            'domain': stream.watch.verdict.values})
        folder, number = place / part.name, 1
        while folder.exists():  # of pictures without stamps, or twice of one
            folder, number = place / f'{part.name}-{number}', number + 1
        put({part: folder})
    return folder


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write a JSON file, which appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(data, indent=2) + '\n').encode())
