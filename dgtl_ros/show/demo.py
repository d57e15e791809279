# SPDX-License-Identifier: Apache-2.0
"""
The main job, shown: a camera and the node as two processes, watched from a third.

``python -m dgtl_ros.show.demo`` plays a drawn street through weather and light (or the pictures of
``--input``) into the node over a real DDS, and writes what came out to a folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
import shutil
import signal
import sys
import time
from typing import Any

from dgtl_ros.show.children import Child, ChildError, end, isolated_environment
from dgtl_ros.show.recorder import Recorder, SAMPLES

CONDITIONS = ('clear', 'fog', 'night', 'rain', 'snow')
_STREET = (384, 768)  # rows and columns of the drawn pictures, as the embedded model sees them
_START = 120.0   # seconds the node gets to load its model, and the first labels to come


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
    from dgtl_ros.show.results import write_results

    parts = 1 if options.input else len(CONDITIONS)
    each = options.duration / parts
    recorder = Recorder(each / (SAMPLES + 1))
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(1))
    environment = isolated_environment()
    # the first pictures take a while to draw; until then there is nothing to complain about
    node = ['--ros-args', '-p', 'max_image_age:=5.0', '-p', 'input_timeout:=20.0']
    if options.model:
        node += ['-p', f'model_path:={options.model}']
    player = ['--loop', '--rate', str(options.rate), '--subscribers', '2']  # the node and us
    if options.input:
        player += ['--source', options.input]
    else:
        player += ['--conditions', ','.join(CONDITIONS), '--seconds-per-condition', str(each),
                   '--height', str(_STREET[0]), '--width', str(_STREET[1])]
    children: list[Child] = []
    fault: ChildError | None = None
    print(f'starting the node and the camera as processes; ROS_DOMAIN_ID='
          f'{environment["ROS_DOMAIN_ID"]}, on this machine only', flush=True)
    try:
        with Observer(recorder, environment) as observer:
            children.append(Child('dgtl_ros.segment_node', node, environment))
            children.append(Child('dgtl_ros.show.camera_player', player, environment))
            _wait(observer, children, stopped, lambda: recorder.outputs > 0)
            _watch(observer, children, stopped, options.duration, parts)
    except ChildError as error:
        fault = error
        print(f'demo: {error}', file=sys.stderr)
    finally:
        end(children)
    if recorder.outputs:
        files = write_results(recorder, options.out)
        print(f'{recorder.outputs} label pictures; wrote {len(files)} files to {options.out}; '
              f'open {files[-1]} in a browser')
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
            line = line[:shutil.get_terminal_size().columns - 1] if live else line
            print(f'\r{line}\x1b[K' if live else line, end='' if live else '\n', flush=True)
    if live:
        print()


if __name__ == '__main__':
    sys.exit(main())
