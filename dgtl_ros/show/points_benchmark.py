# SPDX-License-Identifier: Apache-2.0
"""How long labels on points take on one core, beside a plain loop that gives the same."""

from __future__ import annotations

from collections.abc import Callable
import time

import cv2
from dgtl_core.points import from_depth, label_points, moved, PinholeCamera, UNSEEN
from dgtl_ros.points.cloud import organised
from dgtl_ros.process import keep_memory
import numpy as np
from std_msgs.msg import Header

_SIZE = (720, 1280)
_BEAMS, _COLUMNS = 128, 2048
_LOOPED = 20_000  # points that the loop does; it is counted up to all


def measure_points(runs: int = 20) -> list[tuple[str, float, float]]:
    """Return for each task its name, milliseconds (median) and those of a plain Python loop."""
    keep_memory()  # as the node does
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [_depth(runs), _lidar(runs)]
    finally:
        cv2.setNumThreads(threads)


def points_table(rows: list[tuple[str, float, float]]) -> str:
    """Return the rows for people."""
    lines = [f'{"":<42}{"ms":>8}{"loop, ms":>11}{"times":>8}']
    lines += [f'{name:<42}{ours:>8.1f}{loop:>11.0f}{loop / ours:>8.0f}'
              for name, ours, loop in rows]
    return '\n'.join(lines)


def _camera() -> PinholeCamera:
    height, width = _SIZE
    return PinholeCamera(_SIZE, 900.0, 900.0, width / 2, height / 2, 'plumb_bob',
                         (-0.3, 0.1, 1e-3, 1e-3, -0.02))


def _pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels, confidence = generator.integers(0, 19, (2, *_SIZE), dtype=np.uint8)
    rgb = generator.integers(0, 256, (*_SIZE, 3), dtype=np.uint8)
    return labels, confidence, rgb, generator.integers(500, 20_000, _SIZE, dtype=np.uint16)


def _depth(runs: int) -> tuple[str, float, float]:
    labels, confidence, rgb, depth = _pictures()
    camera = _camera()
    rays = camera.rays  # computed once, as in the node

    def loop() -> None:
        for v in range(_LOOPED // _SIZE[1]):
            for u in range(_SIZE[1]):
                z = float(depth[v, u]) / 1000
                float(rays[0, v, u]) * z, float(rays[1, v, u]) * z
                int(labels[v, u]), int(confidence[v, u]), rgb[v, u]

    ours = _median(runs, lambda: organised(
        from_depth(depth, camera), rgb, labels, confidence, Header()))
    done = _LOOPED // _SIZE[1] * _SIZE[1]
    return (f'depth image {_SIZE[1]}x{_SIZE[0]} to a cloud', ours,
            _median(1, loop) * depth.size / done)


def _lidar(runs: int) -> tuple[str, float, float]:
    labels, confidence, _, _ = _pictures()
    camera = _camera()
    around = np.linspace(-np.pi, np.pi, _COLUMNS, endpoint=False)
    up = np.radians(np.linspace(-22.5, 22.5, _BEAMS))[:, None]
    distance = np.random.default_rng(1).uniform(3, 60, (_BEAMS, _COLUMNS))
    points = (distance * np.stack([
        np.cos(up) * np.sin(around), -np.sin(up) * np.ones(_COLUMNS), np.cos(up) * np.cos(around)
    ])).reshape(3, -1).astype(np.float32)
    eye = np.eye(4)

    def loop() -> None:
        nearest: dict[tuple[int, int], float] = {}
        for x, y, z in points.T[:_LOOPED].tolist():
            if z <= 0:
                continue
            u, v = round(x / z * camera.fx + camera.cx), round(y / z * camera.fy + camera.cy)
            if 0 <= u < _SIZE[1] and 0 <= v < _SIZE[0]:
                cell = u // 4, v // 4
                nearest[cell] = min(nearest.get(cell, float('inf')), z)
                int(labels[v, u]) if nearest[cell] >= z else UNSEEN

    ours = _median(runs, lambda: label_points(moved(points, eye), camera, labels, confidence))
    return (f'lidar of {_BEAMS} beams, {points.shape[1]} points', ours,
            _median(1, loop) * points.shape[1] / _LOOPED)


def _median(runs: int, call: Callable[[], object]) -> float:
    """Return the median of the processor time of this thread, ms: other programs do not count."""
    times = []
    for _ in range(runs):
        start = time.thread_time()
        call()
        times.append((time.thread_time() - start) * 1e3)
    return float(np.median(times))
