# SPDX-License-Identifier: Apache-2.0
"""Latency, throughput and memory of contenders, measured in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import sys
import time

import numpy as np
from training.bench.contenders import Contender
from training.bench.machine import PeakMemory


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    One line of the result; ratios are to the first contender.

    ``ratio`` is of the median latencies. Where other programs share the machine, the best call is
    the one that they disturbed least: ``ratio_of_best``.
    """

    name: str
    batch: int
    runs: int
    best_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float  # processor time of all threads for one call
    gpu_ms: float | None  # of the network alone, where it ran on a GPU through torch
    pictures_per_s: float
    ratio: float
    ratio_of_best: float
    peak_mib: float  # of its first call; on a CPU with everything that the process holds
    gflop: float | None = None  # what follows only where the work is known
    traffic_mb: float | None = None
    roof_ms: float | None = None
    of_roof_percent: float | None = None


def check_numbers(batches: Sequence[int], *, runs: int, warmup: int) -> None:
    """Find out before anything is loaded; :raises ValueError: no number of calls or pictures."""
    if runs < 1 or warmup < 0 or min(batches) < 1:
        raise ValueError(
            'runs and batch must be at least 1 and warmup 0, got '
            f'{runs}, {min(batches)} and {warmup}')


def check_batches(contenders: Sequence[Contender], batches: Sequence[int]) -> None:
    """Find out before anything is timed; :raises ValueError: a batch fits no contender."""
    most = max(c.max_batch for c in contenders)
    if max(batches) > most:
        raise ValueError(
            f'batch {max(batches)} is more than any of these models takes (at most {most})')


def measure_latency(contenders: Sequence[Contender], batches: Sequence[int], *, runs: int,
            warmup: int = 2) -> list[Row]:
    """Time every contender at every batch size that it can take, in turn."""
    rows = []
    for batch in batches:
        able = [c for c in contenders if batch <= c.max_batch]
        pictures = {c.input_size: noise(batch, c.input_size) for c in able}
        begin = time.perf_counter()
        for number in range(warmup + runs):
            for contender in able:
                images = pictures[contender.input_size]
                peak = PeakMemory(contender.device) if number == 0 else None
                wall, cpu = time.perf_counter(), time.process_time()
                contender.call(images)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if peak is not None:
                    contender.peak_mib = peak.mib()
                if number >= warmup:
                    contender.times.setdefault(batch, []).append(wall)
                    contender.cpu.setdefault(batch, []).append(cpu)
                    gpu = getattr(contender.call, 'gpu_s', None)
                    if gpu is not None:
                        contender.gpu.setdefault(batch, []).append(gpu)
            done = number + 1
            left = (time.perf_counter() - begin) / done * (warmup + runs - done)
            _progress(f'batch {batch}: round {done} of {warmup + runs}, {left:.0f} s left')
        rows += [_row(c, batch, able[0]) for c in able]
    _progress('')
    return rows


def _row(contender: Contender, batch: int, first: Contender) -> Row:
    times, reference = np.array(contender.times[batch]), np.array(first.times[batch])
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    gpu = contender.gpu.get(batch)
    return Row(
        name=contender.name, batch=batch, runs=len(times),
        best_ms=times.min() * 1e3, p50_ms=p50 * 1e3, p95_ms=p95 * 1e3,
        p99_ms=p99 * 1e3, cpu_ms=float(np.median(contender.cpu[batch])) * 1e3,
        gpu_ms=None if gpu is None else float(np.median(gpu)) * 1e3,
        pictures_per_s=batch / p50, ratio=p50 / np.median(reference),
        ratio_of_best=times.min() / reference.min(), peak_mib=contender.peak_mib)


def noise(batch: int, size: tuple[int, int]) -> np.ndarray:
    """Return pictures; the time of these networks does not depend on what they see."""
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


def latency_table(rows: Sequence[Row]) -> str:
    """Lay the rows out for people; columns that nobody fills are left out."""
    columns: list[tuple[str, str, str]] = [
        ('model', 'name', ''), ('batch', 'batch', ''), ('runs', 'runs', ''),
        ('best ms', 'best_ms', '.1f'), ('p50 ms', 'p50_ms', '.1f'),
        ('p95 ms', 'p95_ms', '.1f'), ('p99 ms', 'p99_ms', '.1f'),
        ('gpu ms', 'gpu_ms', '.2f'), ('cpu ms', 'cpu_ms', '.1f'),
        ('pictures/s', 'pictures_per_s', '.2f'), ('ratio', 'ratio', '.3f'),
        ('of best', 'ratio_of_best', '.3f'),
        ('peak MiB', 'peak_mib', '.0f'), ('GFLOP', 'gflop', '.0f'), ('roof ms', 'roof_ms', '.1f'),
        ('% of roof', 'of_roof_percent', '.0f')]
    columns = [c for c in columns if any(getattr(row, c[1]) is not None for row in rows)]
    cells = [[title for title, _, _ in columns]]
    for row in rows:
        values = [(getattr(row, key), form) for _, key, form in columns]
        cells.append(['-' if value is None else format(value, form) for value, form in values])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return '\n'.join(
        '  '.join(cell.ljust(w) if i == 0 else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(line, widths))) for line in cells)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f'\r\x1b[K{text}', end='', file=sys.stderr, flush=True)
