# SPDX-License-Identifier: Apache-2.0
"""
The main job, shown: a camera and the node as two processes, watched from a third.

``python -m dgtl_ros.show.demo`` plays a drawn street through weather and light (or the pictures of
``--input``) into the node over a real DDS, and writes what came out to a folder.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
import importlib.util
import math
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.pictures import write_image
from dgtl_core.visualize import legend, overlay, sheet
from dgtl_ros.show.children import Child, ChildError, end, isolated_environment
import numpy as np

CONDITIONS = ('clear', 'fog', 'night', 'rain', 'snow')
_KEPT = 64       # pictures that wait for their labels
_SAMPLES = 4     # pictures of each condition that are written
_START = 120.0   # seconds the node gets to load its model, and the first labels to come


@dataclass
class Condition:
    """What was seen under one condition of weather and light."""

    inputs: int = 0
    outputs: int = 0
    latencies: list[float] = field(default_factory=list)
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    next_sample: float = 0.0
    confusion: ConfusionMatrix | None = None


class Recorder:
    """
    Pairs what went into the node with what came out, by time stamp. Knows nothing of ROS.

    :param spacing: least time in seconds between two sample pictures of one condition.
    """

    def __init__(self, spacing: float) -> None:
        self._spacing = spacing
        self._waiting: OrderedDict[int, tuple[np.ndarray, str]] = OrderedDict()
        self._truth: OrderedDict[int, np.ndarray] = OrderedDict()
        self._inputs: dict[int, float] = {}
        self._outputs: dict[int, float] = {}
        self.latencies: list[float] = []  # milliseconds
        self.conditions: dict[str, Condition] = {}
        self.classes: ClassSet | None = None
        self.diagnostics: dict[str, dict[str, str]] = {}

    def add_input(self, stamp: int, image: np.ndarray, condition: str, now: float) -> None:
        """Note a picture of the camera. Times in seconds by the steady clock."""
        self._inputs[stamp] = now
        _keep(self._waiting, stamp, (image, condition))
        self._of(condition).inputs += 1

    def add_truth(self, stamp: int, labels: np.ndarray) -> None:
        """Note what is really to be seen in a picture."""
        _keep(self._truth, stamp, labels)

    def add_output(self, stamp: int, labels: np.ndarray, latency_ms: float, now: float) -> None:
        """Note labels of the node, and how old the picture was when they came."""
        self._outputs[stamp] = now
        self.latencies.append(latency_ms)
        image, name = self._waiting.pop(stamp, (None, ''))
        truth = self._truth.pop(stamp, None)
        if image is None:
            return
        condition = self._of(name)
        condition.outputs += 1
        condition.latencies.append(latency_ms)
        if now >= condition.next_sample and len(condition.samples) < _SAMPLES:
            condition.next_sample = now + self._spacing
            condition.samples.append((image.copy(), labels.copy()))
        if truth is not None and self.classes is not None and (
                self.classes.names == CITYSCAPES.names):
            if condition.confusion is None:
                condition.confusion = ConfusionMatrix(len(CITYSCAPES))
            condition.confusion.update(labels, truth)

    def _of(self, name: str) -> Condition:
        return self.conditions.setdefault(name or 'input', Condition())

    @property
    def outputs(self) -> int:
        """How many label pictures came."""
        return len(self._outputs)

    def dropped(self) -> int:
        """Count the pictures that the node passed over: a newer one has its labels already."""
        newest = max(self._outputs, default=0)
        return sum(s < newest and s not in self._outputs for s in self._inputs)

    def line(self, now: float) -> str:
        """Describe the last seconds in one line."""
        p50, p95 = _percentiles(self.latencies[-100:], 50, 95)
        condition = next(reversed(self.conditions), '')
        return (f'{condition:>9} | in {_recent(self._inputs, now):5.1f} Hz | '
                f'out {_recent(self._outputs, now):5.1f} Hz | latency p50 {p50:6.1f} ms, '
                f'p95 {p95:6.1f} ms | dropped {self.dropped()}')

    def report(self) -> dict[str, Any]:
        """Return all figures, ready for JSON."""
        p50, p95, most = _percentiles(self.latencies, 50, 95, 100)
        return {
            'inputs': len(self._inputs), 'outputs': len(self._outputs),
            'dropped': self.dropped(),
            'input_rate_hz': _rate(self._inputs), 'output_rate_hz': _rate(self._outputs),
            'latency_ms': {'p50': _number(p50), 'p95': _number(p95), 'max': _number(most)},
            'conditions': {name: {
                'inputs': c.inputs, 'outputs': c.outputs,
                'latency_ms_p50': _number(_percentiles(c.latencies, 50)[0]),
                'mean_iou': None if c.confusion is None else _number(c.confusion.mean_iou()),
            } for name, c in self.conditions.items()},
            'node': self.diagnostics}

    def write(self, folder: Path) -> list[Path]:
        """Write the overlays, the contact sheet and the report; return the files."""
        from dgtl_ros.snapshot import write_json

        classes = self.classes or CITYSCAPES
        files, rows, titles = [], [], []
        for name, condition in self.conditions.items():
            for number, (image, labels) in enumerate(condition.samples):
                files.append(folder / f'{name}_{number}.jpg')
                write_image(files[-1], overlay(image, labels, classes, 0.55))
            if condition.samples:
                image, labels = condition.samples[len(condition.samples) // 2]
                rows.append([image, overlay(image, labels, classes, 0.55)])
                iou = condition.confusion and condition.confusion.mean_iou()
                titles.append(name + (f' mIoU {100 * iou:.1f} %' if iou else ''))
        if rows:
            files.append(folder / 'contact_sheet.jpg')
            grid = sheet(rows, ['camera', 'labels'], titles, 512)
            write_image(files[-1], np.vstack([grid, legend(classes, grid.shape[1])]))
        files.append(folder / 'report.json')
        write_json(files[-1], self.report())
        return files


def _keep(place: OrderedDict[int, Any], stamp: int, item: object) -> None:
    place[stamp] = item
    while len(place) > _KEPT:
        place.popitem(last=False)


def _percentiles(values: Sequence[float], *percents: float) -> list[float]:
    return [float(p) for p in np.percentile(values, percents)] if values else [
        math.nan for _ in percents]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)  # JSON knows no nan


def _rate(times: dict[int, float]) -> float:
    span = max(times.values()) - min(times.values()) if times else 0
    return round((len(times) - 1) / span, 3) if span else 0.0


def _recent(times: dict[int, float], now: float, seconds: float = 3.0) -> float:
    return sum(t > now - seconds for t in list(times.values())[-1000:]) / seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(prog='python -m dgtl_ros.show.demo', description=__doc__)
    parser.add_argument('--input', metavar='PLACE',
                        help='a video file or a folder of pictures (a drawn street in five '
                             'conditions of weather and light)')
    parser.add_argument('--model', default='', metavar='FILE', help='(the embedded one)')
    parser.add_argument('--duration', type=float, default=60.0, metavar='SECONDS',
                        help='(%(default)g)')
    parser.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                        help='pictures per second (that of the video, otherwise 10)')
    parser.add_argument('--out', type=Path, default=Path('demo_output'), metavar='FOLDER',
                        help='where results go (%(default)s)')
    options = parser.parse_args(arguments)
    if not 1 <= options.duration <= 86400:
        parser.error(f'--duration must be 1..86400 seconds, got {options.duration:g}')
    if importlib.util.find_spec('rclpy') is None:
        print('demo: there is no rclpy. Source a ROS 2 (. /opt/ros/jazzy/setup.sh), or install '
              "the wheels: pip install '.[ros]' (make demo does that)", file=sys.stderr)
        return 2
    place = next(p for p in (options.out, *options.out.absolute().parents) if p.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        parser.error(f'--out {options.out}: {place} is no folder that can be written to')
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from dgtl_ros.show.observer import Observer

    parts = 1 if options.input else len(CONDITIONS)
    each = options.duration / parts
    recorder = Recorder(each / (_SAMPLES + 1))
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(1))
    environment = isolated_environment()
    # the camera starts after the node, so there is nothing to complain about for a while
    node = ['--ros-args', '-p', 'max_image_age:=5.0', '-p', 'input_timeout:=20.0']
    if options.model:
        node += ['-p', f'model_path:={options.model}']
    player = ['--loop', '--rate', str(options.rate), '--subscribers', '2']  # the node and us
    if options.input:
        player += ['--source', options.input]
    else:
        player += ['--conditions', ','.join(CONDITIONS), '--seconds-per-condition', str(each)]
    children: list[Child] = []
    fault: ChildError | None = None
    print(f'starting the node and the camera as processes; ROS_DOMAIN_ID='
          f'{environment["ROS_DOMAIN_ID"]}, on this machine only', flush=True)
    try:
        with Observer(recorder, environment) as observer:
            children.append(Child('dgtl_ros.segment_node', node, environment))
            _wait(observer, children, stopped, lambda: recorder.classes is not None)
            children.append(Child('dgtl_ros.show.camera_player', player, environment))
            _wait(observer, children, stopped, lambda: recorder.outputs > 0)
            _watch(observer, children, stopped, options.duration, parts)
    except ChildError as error:
        fault = error
        print(f'demo: {error}', file=sys.stderr)
    finally:
        end(children)
    if recorder.outputs:
        files = recorder.write(options.out)
        print(f'{recorder.outputs} label pictures; wrote {len(files)} files to {options.out}')
        return 1 if fault else 0
    if fault:
        return 1
    if stopped:
        print('demo: stopped before the first labels came; nothing was written', file=sys.stderr)
    else:
        print(f'demo: no labels came within {_START:g} s. See the messages above; try a smaller '
              'model, and check that no firewall blocks the loopback interface', file=sys.stderr)
    return 1


def _wait(observer: Any, children: list[Child], stopped: list[int], done: Any) -> None:
    limit = time.monotonic() + _START
    while not (stopped or done()) and time.monotonic() < limit:
        observer.spin(0.1)
        for child in children:
            child.check()


def _watch(observer: Any, children: list[Child], stopped: list[int], seconds: float,
           parts: int) -> None:
    """Show the live line for ``seconds``, and longer where not all parts were to be seen yet."""
    live = sys.stdout.isatty()
    start = shown = time.monotonic()
    while not stopped:
        now = time.monotonic()
        seen = len(observer.recorder.conditions)
        if now - start > (seconds if seen >= parts else 2 * seconds):
            break
        observer.spin(0.1)
        for child in children:
            child.check()
        if now - shown >= (1 if live else 5):
            shown = now
            line = f'{now - start:4.0f} s | {observer.recorder.line(now)}'
            print(f'\r{line}\x1b[K' if live else line, end='' if live else '\n', flush=True)
    if live:
        print()


if __name__ == '__main__':
    sys.exit(main())
