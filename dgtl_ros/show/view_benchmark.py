# SPDX-License-Identifier: Apache-2.0
"""What watching costs: the rate of a node alone, and while ``dgtl view --ros`` shows it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

from dgtl_core.cli.view import check_able
from dgtl_ros.show.children import Child, ChildError, end, isolated_environment
from dgtl_ros.show.participant import Participant
from sensor_msgs.msg import Image

_ROUNDS, _ROUND_S = 3, 10.0  # alone and watched by turns, so that a busy machine is so to both
_START_S = 120.0
_LEAST_FPS, _MOST_LOSS = 10.0, 0.1  # what a page must show, and what it may cost the node


class Page:
    """
    Takes the frames of a page as a browser does: asks for the next one when it has the last.

    The browser itself runs on another computer, so its work is not part of the measurement.
    """

    def __init__(self, address: str) -> None:
        self._address = f'ws://{address.removeprefix("http://").rstrip("/")}/feed'
        self.frames = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from websockets.sync.client import connect

        with connect(self._address, max_size=None) as socket:
            socket.send('{"do": "next"}')
            while not self._closed:
                try:
                    message = socket.recv(timeout=1.0)
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    self.frames += 1
                    socket.send('{"do": "next"}')

    def close(self) -> None:
        """Leave."""
        self._closed = True
        self._thread.join()


class Counter(Participant):
    """Counts the label pictures of a node, unread."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__('view_benchmark', environment)
        self.count = 0
        self._node.create_subscription(Image, 'segmentation', self._on_labels, 5, raw=True)

    def _on_labels(self, message: bytes) -> None:
        self.count += 1

    def rate(self, seconds: float) -> float:
        """Count for so long; return the label pictures per second."""
        before, start = self.count, time.monotonic()
        self.spin(seconds)
        return (self.count - before) / (time.monotonic() - start)


def measure_view(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """
    Run a camera, a node and a page and return their rates.

    :raises ChildError: one of them ended, or no labels came.
    :raises ImportError: the page cannot be served here.
    """
    check_able()
    environment = isolated_environment()
    node = ['--ros-args', '--log-level', 'error', '-p', f'threads:={options.threads}']
    if options.model:
        node += ['-p', f'model_path:={options.model}']
    player = ['--source', folder, '--loop', '--rate', str(options.rate or 15.0),
              '--ros-args', '--log-level', 'error']
    children: list[Child] = []
    with Counter(environment) as counter:
        try:
            children.append(Child('dgtl_ros.segment_node', node, environment))
            children.append(Child('dgtl_ros.show.camera_player', player, environment))
            children.append(Child('dgtl_ros.show.view', ['--port', '0', '--no-browser'],
                                  environment, subprocess.PIPE))
            address = _address(children[-1])
            limit = time.monotonic() + _START_S
            while not counter.count:
                for child in children:
                    child.check()
                if time.monotonic() > limit:
                    raise ChildError('no labels came; is the machine too busy?')
                counter.spin(0.2)
            alone, watched, shown, busy = [], [], [], []
            for _ in range(_ROUNDS):
                counter.spin(4.0)  # until nobody looks any more, and nothing is decoded
                alone.append(counter.rate(_ROUND_S))
                page = Page(address)
                counter.spin(2.0)
                before, worked = page.frames, _processor_s(children[-1])
                watched.append(counter.rate(_ROUND_S))
                shown.append((page.frames - before) / _ROUND_S)
                busy.append((_processor_s(children[-1]) - worked) / _ROUND_S)
                page.close()
        finally:
            end(children)
    return {'width': options.width, 'height': options.height, **_rates(alone, watched, shown),
            'view_cores': round(sum(busy) / len(busy), 3)}


def _rates(alone: Sequence[float], watched: Sequence[float],
           shown: Sequence[float]) -> dict[str, Any]:
    node, beside, page = (sum(values) / len(values) for values in (alone, watched, shown))
    loss = 1 - beside / node
    return {'node_hz_alone': round(node, 2), 'node_hz_watched': round(beside, 2),
            'loss': round(loss, 4), 'page_fps': round(page, 2),
            'within': page >= min(_LEAST_FPS, 0.95 * beside) and loss <= _MOST_LOSS}


def _processor_s(child: Child) -> float:
    """Return the processor time of a process so far, seconds."""
    fields = Path(f'/proc/{child.process.pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _address(child: Child) -> str:
    """Return the address that the page's program prints."""
    output = child.process.stdout
    assert output is not None
    for line in output:
        text: str = line.decode()
        if text.startswith('http://'):
            return text.split()[0]
        print(text, end='', file=sys.stderr)
    child.check()
    raise ChildError('dgtl view ended')


def view_text(result: Mapping[str, Any]) -> str:
    """Return the rates for people."""
    return (
        f'{result["width"]}x{result["height"]}: node alone {result["node_hz_alone"]:.1f} Hz, '
        f'watched {result["node_hz_watched"]:.1f} Hz ({100 * result["loss"]:.1f} % less; allowed '
        f'are {100 * _MOST_LOSS:.0f} %); the page got {result["page_fps"]:.1f} frames/s (wanted '
        f'are {_LEAST_FPS:.0f}, or all that the node gives): '
        f'{"met" if result["within"] else "NOT met"}. The page takes '
        f'{result["view_cores"]:.2f} of a core')
