# SPDX-License-Identifier: Apache-2.0
"""
How fast is a model, and what does it need? ``python -m training.benchmark MODEL... [--json]``.

A MODEL is a file that a backend runs. Several models are timed in turn, call by call, so that
their ratios are of one run on one machine in one state; compare nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
import json
import os
from pathlib import Path
import platform
import resource
import sys
import time

from dgtl_core.runtime.backend import BACKENDS, open_backend
from dgtl_core.runtime.metadata import ModelError
import numpy as np

Call = Callable[[np.ndarray], object]


@dataclass
class Contender:
    """Something that labels a batch of uint8 pictures, and what was measured of it."""

    name: str
    call: Call
    input_size: tuple[int, int]
    max_batch: int = 1
    load_s: float = 0.0
    times: dict[int, list[float]] = field(default_factory=dict)  # batch -> seconds of each call
    cpu: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result; the ratio is of median latencies, to the first contender."""

    name: str
    batch: int
    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float  # processor time of all threads for one call
    pictures_per_s: float
    ratio: float


def measure(contenders: Sequence[Contender], batches: Sequence[int], *, runs: int,
            warmup: int = 2) -> list[Row]:
    """
    Time every contender at every batch size that it can take, in turn.

    :raises ValueError: ``runs`` is not positive, or a batch fits no contender.
    """
    if runs < 1:
        raise ValueError(f'runs must be at least 1, got {runs}')
    rows = []
    for batch in batches:
        able = [c for c in contenders if batch <= c.max_batch]
        if not able:
            raise ValueError(
                f'batch {batch} is more than any of these models takes '
                f'(at most {max(c.max_batch for c in contenders)})')
        pictures = {c.input_size: _pictures(batch, c.input_size) for c in able}
        for number in range(warmup + runs):
            for contender in able:
                images = pictures[contender.input_size]
                wall, cpu = time.perf_counter(), time.process_time()
                contender.call(images)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if number >= warmup:
                    contender.times.setdefault(batch, []).append(wall)
                    contender.cpu.setdefault(batch, []).append(cpu)
        reference = float(np.median(able[0].times[batch]))
        rows += [_row(c, batch, reference) for c in able]
    return rows


def _row(contender: Contender, batch: int, reference: float) -> Row:
    times = np.array(contender.times[batch])
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return Row(
        name=contender.name, batch=batch, runs=len(times), p50_ms=p50 * 1e3, p95_ms=p95 * 1e3,
        p99_ms=p99 * 1e3, cpu_ms=float(np.median(contender.cpu[batch])) * 1e3,
        pictures_per_s=batch / p50, ratio=p50 / reference)


def _pictures(batch: int, size: tuple[int, int]) -> np.ndarray:
    """Noise: the time of these networks does not depend on what they see."""
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


def machine() -> dict[str, object]:
    """Say where the numbers come from."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith('model name')]
        cpu = names[0] if names else cpu
    return {'cpu': cpu, 'cores': os.cpu_count(), 'python': platform.python_version(),
            'load_before': round(os.getloadavg()[0], 2)}


def peak_rss_mib() -> float:
    """Return the most memory that this process ever held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def open_file(path: str, backend: str, device: str, threads: int) -> Contender:
    """Open a model file as a contender."""
    start = time.perf_counter()
    runner = open_backend(path, backend, device, threads)
    return Contender(
        name=f'{Path(path).name}: {runner.name}', call=runner,
        input_size=runner.metadata.input_size, max_batch=runner.max_batch,
        load_s=time.perf_counter() - start)


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out for people."""
    head = ('model', 'batch', 'runs', 'p50 ms', 'p95 ms', 'p99 ms', 'cpu ms', 'pictures/s',
            'ratio')
    cells = [head, *((r.name, str(r.batch), str(r.runs), f'{r.p50_ms:.1f}', f'{r.p95_ms:.1f}',
                      f'{r.p99_ms:.1f}', f'{r.cpu_ms:.1f}', f'{r.pictures_per_s:.2f}',
                      f'{r.ratio:.3f}') for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return '\n'.join(
        '  '.join(cell.ljust(w) if i == 0 else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(row, widths))) for row in cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    parser = argparse.ArgumentParser(prog='python -m training.benchmark', description=__doc__)
    parser.add_argument('model', nargs='+', help='.onnx, .engine or .safetensors')
    parser.add_argument('--backend', default='auto', choices=BACKENDS)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=0, help="CPU threads; 0: the engine's own")
    parser.add_argument('--batch', type=int, nargs='+', default=[1])
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--json', action='store_true', help='print one JSON object, no table')
    options = parser.parse_args(argv)
    where = machine()
    try:
        contenders = [open_file(path, options.backend, options.device, options.threads)
                      for path in options.model]
        rows = measure(contenders, options.batch, runs=options.runs)
    except (ModelError, ValueError) as error:
        print(f'benchmark: {error}', file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({
            'machine': where, 'threads': options.threads, 'peak_rss_mib': round(peak_rss_mib(), 1),
            'models': [{'name': c.name, 'input_size': c.input_size, 'load_s': round(c.load_s, 3)}
                       for c in contenders],
            'rows': [asdict(row) for row in rows]}))
    else:
        print(f'{where["cpu"]}, {where["cores"]} cores, load {where["load_before"]}')
        print(table(rows))
        print(f'peak memory of the process: {peak_rss_mib():.0f} MiB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
