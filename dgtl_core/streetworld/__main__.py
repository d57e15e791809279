# SPDX-License-Identifier: Apache-2.0
"""
Write pictures of many streets with labels, or those of one drive, or measure how fast pictures are
drawn on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import time

import cv2
from dgtl_core.files import write_atomically
from dgtl_core.streetworld import CONDITIONS, StreetWorld
import numpy as np


def _write(path: Path, picture: np.ndarray) -> None:
    ok, data = cv2.imencode('.png', picture)
    if not ok:
        raise RuntimeError(f'OpenCV could not code a picture of {picture.shape} as PNG')
    write_atomically(path, data.tobytes())


def _previews(world: StreetWorld, folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        sample = world.picture(index)
        stem = f'{world.condition}_{world.seed}_{index:03d}'
        _write(folder / f'{stem}.png', cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))
        _write(folder / f'{stem}_labels.png', sample.labels)
    print(f'{count} pictures and their labels (train ids) are in {folder}')


def _drive(world: StreetWorld, folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shot in world.stream(2.0, (world.condition,), count / 2.0):
        _write(folder / f'{shot.index:06d}.png', cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR))
    print(f'{count} pictures of a drive are in {folder}')


def _benchmark(seed: int, size: tuple[int, int], severity: int, count: int) -> None:
    cv2.setNumThreads(1)
    print(f'{size[0]}x{size[1]}, one thread; pictures/s by the clock and by processor time')
    for condition in CONDITIONS:
        world = StreetWorld(seed, size, condition, severity)
        for index in range(40):  # textures are drawn once
            world.picture(10_000 + index) if index < 2 * count else None
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(count):
            world.picture(index)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f'{condition:8s} {count / wall:6.1f} {count / cpu:6.1f}')
    stream = StreetWorld(seed, size, severity=severity).stream(10.0, CONDITIONS[:5], count / 10)
    next(stream)
    wall, cpu = time.perf_counter(), time.process_time()
    frames = sum(1 for _ in stream)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f'{"stream":8s} {frames / wall:6.1f} {frames / cpu:6.1f}')


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog='python -m dgtl_core.streetworld',
                                     description=__doc__)
    parser.add_argument('--out', type=Path, help='write PNG files to this folder')
    parser.add_argument('--drive', action='store_true',
                        help='of one drive, two a second, without labels')
    parser.add_argument('--benchmark', action='store_true', help='measure pictures per second')
    parser.add_argument('--condition', choices=CONDITIONS, default='clear')
    parser.add_argument('--severity', type=int, choices=range(1, 6), default=3)
    parser.add_argument('--count', type=int, default=16)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, nargs=2, default=(512, 1024),
                        metavar=('HEIGHT', 'WIDTH'))
    options = parser.parse_args()
    if options.out is None and not options.benchmark:
        parser.error('nothing to do; give --out DIR, --benchmark or both')
    if options.count < 1:
        parser.error(f'--count must be at least 1, got {options.count}')
    size = (options.size[0], options.size[1])
    if options.out is not None:
        world = StreetWorld(options.seed, size, options.condition, options.severity)
        (_drive if options.drive else _previews)(world, options.out, options.count)
    if options.benchmark:
        _benchmark(options.seed, size, options.severity, options.count)
    return 0


if __name__ == '__main__':
    sys.exit(main())
