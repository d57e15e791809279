# SPDX-License-Identifier: Apache-2.0
"""
What the node costs on top of pure inference, measured in the live node.

A camera and the node run as processes; the node times the stages of each picture itself, and what
is reported here are its own medians.
``python -m dgtl_ros.show.benchmark --json`` prints JSON alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import importlib.util
import json
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

import cv2
from dgtl_core.pictures import write_image
from dgtl_core.predictor import ModelError, Predictor
from dgtl_ros.show.children import Child, ChildError, end, isolated_environment
import numpy as np

STAGES = {
    'wait': 'in the mailbox, and waking the worker',
    'decode': 'message to RGB picture',
    'preprocess': "to the network's size",
    'infer': 'the network',
    'postprocess': "back to the camera's size",
    'publish': 'message, DDS',
}
_SHARE, _FLOOR_MS = 0.15, 5.0  # what the rest may cost: of the inference, or in any case
_START = 120.0


def summary(values: Mapping[str, str]) -> dict[str, Any]:
    """
    Make the result from the node's inference status (medians in milliseconds, as text).

    ``beyond_ms`` is all that is not the network; it may be ``allowed_ms``.
    """
    stages = {name: float(values[f'{name}_ms_p50']) for name in STAGES}
    beyond = sum(stages.values()) - stages['infer']
    allowed = max(_SHARE * stages['infer'], _FLOOR_MS)
    return {'stages_ms': stages, 'beyond_ms': round(beyond, 3), 'infer_ms': stages['infer'],
            'beyond_share': round(beyond / stages['infer'], 4), 'allowed_ms': round(allowed, 3),
            'within': beyond <= allowed, 'backend': values['backend']}


def stage_table(result: Mapping[str, Any]) -> str:
    """Return the result as text for people."""
    lines = [f'{result["width"]}x{result["height"]} at {result["rate_hz"]:g} Hz, '
             f'{result["pictures"]} pictures, {result["backend"]}']
    lines += [f'  {name:<12}{value:8.2f} ms  {STAGES[name]}'
              for name, value in result['stages_ms'].items()]
    lines.append(
        f'  {"beyond":<12}{result["beyond_ms"]:8.2f} ms  all but the network: '
        f'{100 * result["beyond_share"]:.1f} % of it; allowed are {result["allowed_ms"]:.2f} ms '
        f'({100 * _SHARE:.0f} %, at least {_FLOOR_MS:g} ms): '
        f'{"met" if result["within"] else "NOT met"}')
    lines.append(f'  {"end to end":<12}{result["end_to_end_ms_p50"]:8.2f} ms  from the stamp of '
                 'the picture to its labels in another process')
    return '\n'.join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m dgtl_ros.show.benchmark', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='', metavar='FILE', help='(the embedded one)')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='of the inference (all cores)')
    parser.add_argument('--width', type=int, default=1280, metavar='N',
                        help='of the pictures (%(default)s)')
    parser.add_argument('--height', type=int, default=720, metavar='N',
                        help='of the pictures (%(default)s)')
    parser.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                        help='pictures per second (few enough that none waits for the one before)')
    parser.add_argument('--pictures', type=int, default=100, metavar='N',
                        help='how many are measured (%(default)s)')
    parser.add_argument('--points', action='store_true',
                        help='measure label_points instead: one core, beside a plain loop')
    parser.add_argument('--view', action='store_true',
                        help='measure the rate of the node alone, and while "dgtl view --ros" '
                             'shows it')
    parser.add_argument('--json', action='store_true', help='print JSON alone')
    options = parser.parse_args(arguments)
    if importlib.util.find_spec('rclpy') is None:
        print("benchmark: there is no rclpy. Source a ROS 2, or pip install '.[ros]'",
              file=sys.stderr)
        return 2
    if options.points:
        from dgtl_ros.show import points_benchmark
        rows = points_benchmark.measure_points()
        print(json.dumps(rows) if options.json else points_benchmark.points_table(rows))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.height, options.width)
        text: Callable[[Mapping[str, Any]], str] = stage_table
        try:
            if options.view:
                from dgtl_ros.show.view_benchmark import measure_view, view_text
                result, text = measure_view(options, folder), view_text
            else:
                options.rate = options.rate or unhurried(options)
                result = measure_node(options, folder)
        except (ChildError, ImportError, ModelError) as error:
            print(f'benchmark: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print('benchmark: stopped', file=sys.stderr)
            return 130
    print(json.dumps(result) if options.json else text(result))
    return 0


def draw(folder: Path, height: int, width: int) -> None:
    """Write a few smooth pictures; what they show does not matter for the time."""
    rng = np.random.default_rng(0)
    for number in range(4):
        coarse = rng.integers(0, 255, (9, 16, 3)).astype(np.uint8)
        write_image(folder / f'{number}.jpg', cv2.resize(coarse, (width, height)))


def unhurried(options: argparse.Namespace) -> float:
    """
    Return a rate, at most 5 Hz, at which inference has time to spare.

    :raises ModelError: the model cannot be loaded.
    """
    predict = Predictor.load(options.model or None, threads=options.threads)
    image = np.zeros((options.height, options.width, 3), np.uint8)
    times = []
    for _ in range(6):
        start = time.monotonic()
        predict(image)
        times.append(time.monotonic() - start)
    return round(min(5.0, 0.4 / float(np.median(times))), 2)


def measure_node(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """
    Run camera and node and return what was measured.

    :raises ChildError: one of them ended, or no labels came.
    """
    from dgtl_ros.show.observer import Observer
    from dgtl_ros.show.recorder import Recorder

    recorder, environment = Recorder(spacing=1e9), isolated_environment()
    node = ['--ros-args', '--log-level', 'error', '-p', 'max_image_age:=10.0',
            '-p', f'threads:={options.threads}']
    if options.model:
        node += ['-p', f'model_path:={options.model}']
    player = ['--source', folder, '--loop', '--rate', str(options.rate), '--subscribers', '2',
              '--ros-args', '--log-level', 'error']
    children: list[Child] = []
    with Observer(recorder, environment) as observer:
        try:
            children.append(Child('dgtl_ros.segment_node', node, environment))
            children.append(Child('dgtl_ros.show.camera_player', player, environment))
            limit = time.monotonic() + _START + options.pictures / options.rate
            while recorder.outputs < options.pictures + options.rate:  # and one more status
                for child in children:
                    child.check()
                if time.monotonic() > limit:
                    raise ChildError(
                        f'only {recorder.outputs} label pictures came; use a lower --rate')
                observer.spin(0.2)
        finally:
            end(children)
    status = recorder.diagnostics.get('inference', {})
    if 'infer_ms_p50' not in status:
        raise ChildError('the node gave labels, but no times of its inference; measure longer')
    return {**summary(status), 'width': options.width,
            'height': options.height, 'rate_hz': options.rate, 'pictures': recorder.outputs,
            'end_to_end_ms_p50': round(float(np.median(recorder.latencies)), 3)}


if __name__ == '__main__':
    sys.exit(main())
