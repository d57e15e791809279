# SPDX-License-Identifier: Apache-2.0
"""
Run the node for long under faults: two cameras at 30 Hz, something wrong every second.

It writes soak.json and soak.html and ends with 0 only if the node held: no unhandled exception,
every picture counted, memory, threads and descriptors as after the first minute, steady latency.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import importlib.util
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from dgtl_core.engine.child import tied
from dgtl_ros.health import OUTCOMES
from dgtl_ros.show.children import Child, ChildError, end, isolated_environment
from dgtl_ros.show.plots import line_plot, STYLE
import numpy as np

_SETTLED = 60.0     # seconds after which memory is expected to stay as it is
_GROWTH = 1.05      # of the memory after that
_LONG = 180.0       # seconds; in a shorter run some things happen for the first time after that
_FIRST_MIB = 16.0   # what those may take: a dozen pictures of the size that is played
_SPARE = 3          # threads and descriptors, which DDS takes for participants that come and go
_SLOWER = 2.0       # p99 of the last third beside that of the first
_ARRIVED = 0.99     # of the labels that the node says it published
_OUTCOMES = (*OUTCOMES, 'waiting')


class Reading(NamedTuple):
    """
    What the node's process took at one moment, and how old the labels of that second were.

    Pages of shared memory become resident when they are first written, until every segment of
    Fast DDS is; the segments have a fixed size. So a leak shows in the private memory, or in the
    size of the segments that are mapped, and not in the resident memory.
    """

    seconds: float
    memory_mib: float    # private, resident
    shared_mib: float    # mapped
    resident_mib: float  # private, shared and files
    threads: int
    descriptors: int
    latency_p99_ms: float | None


class Finding(NamedTuple):
    """One thing that had to hold."""

    what: str
    good: bool
    figures: str


def judge(readings: list[Reading], counts: dict[str, dict[str, int]], labels: int,
          log: str) -> list[Finding]:
    """
    Say what held.

    :param counts: of the diagnostics, of each camera.
    :param labels: how many label pictures arrived.
    :param log: everything that the node printed.
    """
    settled = [s for s in readings if s.seconds >= min(_SETTLED, readings[-1].seconds / 2)]
    first, last = settled[0], readings[-1]
    findings = [Finding('no unhandled exception', 'Traceback' not in log,
                        f'{log.count("Traceback")} tracebacks')]
    for camera, c in counts.items():
        ended = sum(c[name] for name in _OUTCOMES)
        findings.append(Finding(f'every picture of {camera} is counted once',
                                0 < c['received'] == ended, f'{c["received"]} = {ended}'))
    published = sum(c['published'] for c in counts.values())
    most = _GROWTH * first.memory_mib + (_FIRST_MIB if last.seconds < _LONG else 0.0)
    findings += [
        Finding('labels arrive', labels >= _ARRIVED * published > 0, f'{labels} of {published}'),
        Finding('memory is steady', last.memory_mib <= most,
                f'{first.memory_mib:.0f} -> {last.memory_mib:.0f} MiB, at most {most:.0f}'),
        Finding('shared memory is steady', last.shared_mib <= _GROWTH * first.shared_mib,
                f'{first.shared_mib:.0f} -> {last.shared_mib:.0f} MiB'),
        Finding('threads are steady', last.threads <= first.threads + _SPARE,
                f'{first.threads} -> {last.threads}'),
        Finding('descriptors are steady', last.descriptors <= first.descriptors + _SPARE,
                f'{first.descriptors} -> {last.descriptors}')]
    known = [s.latency_p99_ms for s in readings if s.latency_p99_ms is not None]
    third = len(known) // 3
    if third:
        start, finish = np.median(known[:third]), np.median(known[-third:])
        findings.append(Finding('latency is steady', bool(finish <= _SLOWER * start),
                                f'p99 {start:.0f} -> {finish:.0f} ms'))
    return findings


def read_process(pid: int, seconds: float, latencies: list[float]) -> Reading:
    """Read what a process takes from /proc."""
    folder = Path(f'/proc/{pid}')
    fields = dict(line.split(':', 1) for line in (folder / 'status').read_text().splitlines())
    private, resident = (int(fields[name].split()[0]) / 1024 for name in ('RssAnon', 'VmRSS'))
    return Reading(
        round(seconds, 1), private, _mapped_mib(folder / 'maps'), resident,
        int(fields['Threads']), sum(1 for _ in (folder / 'fd').iterdir()),
        float(np.percentile(latencies, 99)) if latencies else None)


def _mapped_mib(maps: Path) -> float:
    """Return how much shared memory a process maps, from its list of mappings."""
    sizes = [0]
    for line in maps.read_text().splitlines():
        if ' /dev/shm/' in line:
            start, _, end = line.split()[0].partition('-')
            sizes.append(int(end, 16) - int(start, 16))
    return sum(sizes) / 2**20


def page(readings: list[Reading], findings: list[Finding], faults: dict[str, int]) -> str:
    """Return the results as one HTML file."""
    def plot(title: str, field: str) -> str:
        points = [(s.seconds, value) for s in readings if (value := getattr(s, field)) is not None]
        return line_plot(title, 'seconds', [('', points)])

    rows = ''.join(f'<tr><td>{"good" if v.good else "FAILED"}<td>{v.what}<td>{v.figures}'
                   for v in findings)
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>soak</title><style>'
            f'body {{ margin: 1.5rem auto; max-width: 46rem; font: 1rem system-ui, sans-serif; }} '
            f'td {{ padding: .2rem 1rem .2rem 0; }}{STYLE}</style><h1>Soak</h1><table>{rows}'
            f'</table>{plot("private memory in MiB", "memory_mib")}'
            f'{plot("latency p99 in milliseconds", "latency_p99_ms")}'
            f'{plot("threads", "threads")}{plot("descriptors", "descriptors")}<p>Faults: '
            f'{", ".join(f"{name} {count}" for name, count in faults.items())}</p></html>\n')


def main(arguments: list[str] | None = None) -> int:
    """Run for the given time; return the exit code."""
    parser = argparse.ArgumentParser(prog='python -m dgtl_ros.show.soak', description=__doc__)
    parser.add_argument('--minutes', type=float, default=30.0, help='(%(default)g)')
    parser.add_argument('--model', default='', metavar='FILE', help='(the embedded one)')
    parser.add_argument('--busy', type=int, default=0, metavar='N',
                        help='busy loops that take processor time away (%(default)d)')
    parser.add_argument('--seed', type=int, default=0, help='order of the faults (%(default)d)')
    parser.add_argument('--out', type=Path, default=Path('soak_output'), metavar='FOLDER',
                        help='where results go (%(default)s)')
    options = parser.parse_args(arguments)
    if not 0.1 <= options.minutes <= 10080:
        parser.error(f'--minutes must be 0.1..10080, got {options.minutes:g}')
    if importlib.util.find_spec('rclpy') is None or not Path('/proc/self/status').exists():
        print('soak: needs rclpy and Linux', file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    busy = [subprocess.Popen([*tied(), sys.executable, '-c', 'while True: pass'])
            for _ in range(options.busy)]
    try:
        return _run(options)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _run(options: argparse.Namespace) -> int:
    from dgtl_ros.show.fault_world import CAMERAS, FaultWorld
    from dgtl_ros.snapshot import write_json

    environment = isolated_environment()
    node = ['--ros-args', '-p', f'cameras:=[{", ".join(CAMERAS)}]', '-p', 'max_image_age:=5.0']
    node += ['-p', f'model_path:={options.model}'] if options.model else []
    with tempfile.TemporaryFile() as log:
        child = Child('dgtl_ros.segment_node', node, environment, log.fileno())
        try:
            with FaultWorld(child, environment, options.seed) as world:
                readings = _watch(world, child, 60 * options.minutes)
                counts, labels, faults = world.counts(), world.labels, dict(world.faults)
        except ChildError as error:
            print(f'soak: {error}', file=sys.stderr)
            return 1
        finally:
            end([child])
            log.seek(0)
            text = log.read().decode(errors='replace')
            (options.out / 'soak.log').write_text(text, encoding='utf-8')
    findings = judge(readings, counts, labels, text)
    write_json(options.out / 'soak.json', {
        'minutes': options.minutes, 'busy': options.busy, 'faults': faults, 'labels': labels,
        'counts': counts, 'findings': [v._asdict() for v in findings],
        'readings': [s._asdict() for s in readings]})
    (options.out / 'soak.html').write_text(page(readings, findings, faults), encoding='utf-8')
    for v in findings:
        print(f'{"good" if v.good else "FAILED":>6}  {v.what}: {v.figures}')
    print(f'{sum(faults.values())} faults; open {options.out / "soak.html"} in a browser')
    return 0 if all(v.good for v in findings) else 1


def _watch(world: Any, child: Child, seconds: float) -> list[Reading]:
    """Play and sample once a second; the last seconds are quiet, so that all is accounted for."""
    readings = []
    world.wait_for_labels()
    for second in _seconds(seconds):
        latencies = world.play(1.0)
        child.check()
        readings.append(read_process(child.process.pid, second + 1, latencies))
        if second and second % 60 == 0:
            print(f'{second // 60} min: {readings[-1]}', flush=True)
        world.fault()
    world.settle()
    return [*readings, read_process(child.process.pid, seconds + 1, [])]


def _seconds(seconds: float) -> Iterable[int]:
    return range(max(round(seconds), 1))


if __name__ == '__main__':
    sys.exit(main())
