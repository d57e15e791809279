# SPDX-License-Identifier: Apache-2.0
"""
Draws StreetWorld in a process of its own, so that the player's process only has to publish.

The process writes to a pipe: one line of JSON (``rate``, or ``error``), then for each picture one
byte (which of the conditions), the pixels and the labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
import json
import math
import subprocess
import sys
import time
from typing import BinaryIO, IO
import weakref

from dgtl_core.engine.child import tied
from dgtl_ros.parameters import ParameterError
from dgtl_ros.show.playback import Playback, PlayedPicture
import numpy as np

_RATES = (5.0, 10.0)  # pictures per second, least and most
_SHARE = 0.3  # of what the machine can draw alone: the node needs the processor too
_TRIAL = 4     # pictures that are drawn to find that out
_AHEAD = (16, 128 << 20)  # pictures, and bytes of them, that are drawn before they are due


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """
    What is to be drawn.

    :param rate: pictures per second of the drive; 0: 5 to 10, a third of what this machine draws.
    """

    size: tuple[int, int]
    rate: float
    conditions: tuple[str, ...]
    seconds_per_condition: float
    loop: bool
    seed: int


def draw_ahead(drawing: Drawing) -> Playback:
    """
    Start to draw; the process ends with the last picture, or when nobody reads any more.

    :raises ParameterError: a condition is not known, or the process failed.
    """
    process = subprocess.Popen(
        [*tied(), sys.executable, '-m', __name__, json.dumps(vars(drawing))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        start_new_session=True)  # Ctrl-C is for the player, which then stops reading
    assert process.stdout is not None
    head = json.loads(process.stdout.readline() or b'{"error": "the drawing process ended"}')
    if 'error' in head:
        process.wait()
        raise ParameterError(f'source streetworld: {head["error"]}')
    count, size = _AHEAD
    ahead = max(2, min(count, size // (4 * math.prod(drawing.size))))
    frames = _read(process, process.stdout, drawing)
    weakref.finalize(frames, process.kill)  # what nobody starts to read has no `finally`
    return Playback(frames, head['rate'], ahead)


def _read(process: subprocess.Popen[bytes], pipe: IO[bytes],
          drawing: Drawing) -> Iterator[PlayedPicture]:
    height, width = drawing.size
    try:
        while number := pipe.read(1):
            image = pipe.read(3 * height * width)
            labels = pipe.read(height * width)
            if len(labels) == height * width:
                yield PlayedPicture(
                    np.frombuffer(image, np.uint8).reshape(height, width, 3),
                    np.frombuffer(labels, np.uint8).reshape(height, width),
                    drawing.conditions[number[0]])
        if process.wait():
            raise ParameterError(
                f'the process that draws the street ended with exit code {process.returncode}')
    finally:
        process.kill()
        process.wait()
        pipe.close()


def _draw(drawing: Drawing, out: BinaryIO) -> None:
    from dgtl_core.streetworld import StreetWorld

    def stream(rate: float, loop: bool) -> Iterator[PlayedPicture]:
        frames = StreetWorld(seed=drawing.seed, size=drawing.size).stream(
            fps=rate, conditions=drawing.conditions,
            seconds_per_condition=drawing.seconds_per_condition, loop=loop)
        return (PlayedPicture(f.image, f.labels, f.condition) for f in frames)

    rate = drawing.rate
    try:
        if not rate:
            trial = stream(max(_RATES), True)
            next(trial)  # draws the textures, once and for all
            start = time.monotonic()
            for _ in range(_TRIAL):
                next(trial)
            able = _TRIAL / (time.monotonic() - start)
            rate = round(min(max(_SHARE * able, min(_RATES)), max(_RATES)), 1)
        frames = stream(rate, drawing.loop)
    except ValueError as error:
        out.write(json.dumps({'error': str(error)}).encode() + b'\n')
        return
    out.write(json.dumps({'rate': rate}).encode() + b'\n')
    out.flush()
    for frame in frames:
        assert frame.labels is not None
        out.write(bytes([drawing.conditions.index(frame.condition)]))
        out.write(frame.image.tobytes())
        out.write(frame.labels.tobytes())
        out.flush()


def main() -> int:
    """Draw what the one argument describes; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m dgtl_ros.show.drawing', description='Part of camera_player: '
        'draw a street and write the pixels to the standard output.')
    parser.add_argument('drawing', type=json.loads, help='the fields of Drawing as JSON')
    fields = parser.parse_args().drawing
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    try:
        _draw(Drawing(**fields), sys.stdout.buffer)
    except BrokenPipeError:  # the player has what it wanted
        sys.stdout = None  # or the interpreter would flush it again
    return 0


if __name__ == '__main__':
    sys.exit(main())
