# SPDX-License-Identifier: Apache-2.0
"""
All that is measured on a rented GPU, in one go: ``python -m training.gpu_day --minutes 13``.

Labels of the GPU against the CPU's; time of DGTL-L in the released form, folded, with the light
head and on patches of 32, with percent of the measured roofline; training steps; then
training.mini for the rest. Every part is a process of its own with a time limit, so that one that
hangs or fails costs no other its turn. Results go into FOLDER/gpu_day.json after each part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from dgtl_core.cli.arguments import minutes
from dgtl_core.config import preset
from dgtl_core.files import make_folder, write_atomically
from dgtl_core.folding.precision import Precision
from dgtl_core.streetworld import StreetWorld
import numpy as np
from training.bench.contenders import open_contender, Spec
from training.mini import class_texts, PRESET

PRECISIONS: tuple[Precision, ...] = ('fp32', 'bf16')
END = 30.0  # seconds for the start, the last checkpoint and the end of the processes
TINY = ('{"input_size": [64, 128], "backbone": {"img_size": [64, 128], "embed_dim": 64, '
        '"num_heads": 2}, "head": {"upscale": [32, 32, 32]}}')  # model of a rehearsal


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement: the module to run, and at most how many seconds it may take."""

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: float


def plan(rehearse: bool, checkpoint: Path | None = None) -> list[Measurement]:
    """Return what is measured before the training, in the order of its worth."""
    full, light, small = (('dgtl-mini', 'dgtl-rt-mini', 'dgtl-rt-mini') if rehearse else
                          ('dgtl-dinov2-l', 'dgtl-rt-l', 'dgtl-rt-l-p32'))
    size = ('--size', *(('64', '128') if rehearse else ('512', '1024')))
    common = ('--json', '--device', 'cpu' if rehearse else 'cuda', '--runs',
              '1' if rehearse else '30', *(('--no-roofline',) if rehearse else ()))
    form = 'bf16' if rehearse else 'bf16:compiled'
    speed = [('released', f'{full}:released-eager'), ('folded', f'{full}:{form}'),
             ('light', f'{light}:{form}'), ('light, patches of 32', f'{small}:{form}')]
    compared = (full, light, *((str(checkpoint),) if checkpoint else ()))
    agreement = ('--agree', *compared, *(('--rehearse',) if rehearse else ()))
    return [
        Measurement(name='agreement', module='training.gpu_day', arguments=agreement, seconds=100),
        *(Measurement(name=name, module='training.benchmark', arguments=(model, *size, *common),
               seconds=90) for name, model in speed),
        Measurement(name='training', module='training.benchmark', seconds=60,
             arguments=(full, '--train', '--batch', '1' if rehearse else '4', '--points', '64'
                        if rehearse else '12544', *size, *common))]


def run(part: Measurement, seconds: float) -> dict[str, Any]:
    """Run a part for at most ``seconds``; return what it printed, or the error."""
    begin = time.monotonic()
    command = [sys.executable, '-m', part.module, *part.arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=min(seconds, part.seconds))
    except subprocess.TimeoutExpired as error:
        return {'error': f'stopped after {error.timeout:.0f} s'}
    found = {'seconds': round(time.monotonic() - begin, 1)}
    if done.returncode:
        return {**found, 'error': done.stderr.strip()[-2000:]}
    return {**found, **json.loads(done.stdout.strip().splitlines()[-1])}


def agreement(models: Sequence[str], rehearse: bool) -> dict[str, dict[str, float]]:
    """
    Return the share of pixels of a street that the device labels as the CPU does in float32.

    Where few classes are shown (random weights), an equal share says little.
    """
    size = (64, 128) if rehearse else (512, 1024)
    street = np.ascontiguousarray(StreetWorld(seed=1, size=size).picture(0).image)[None]

    def labels(model: str, device: str, precision: Precision) -> np.ndarray:
        contender = open_contender(
            Spec(model=model, precision=precision), size, device, 0, 'auto', {})
        found = contender.call(street)
        return np.asarray(found[0] if isinstance(found, tuple) else found)

    shares = {}
    for model in models:
        reference = labels(model, 'cpu', 'fp32')
        for precision in PRECISIONS:
            found = labels(model, 'cpu' if rehearse else 'cuda', precision)
            shares[f'{model} {precision}'] = {
                'equal': float((found == reference).mean()), 'classes': len(np.unique(reference))}
    return shares


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and train; return the exit status: 1 where a part failed."""
    parser = argparse.ArgumentParser(
        prog='python -m training.gpu_day', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--minutes', type=minutes, default=13, help='in all (%(default)s)')
    add('--out', type=Path, default=Path('runs/gpu_day'), metavar='FOLDER', help='(%(default)s)')
    add('--texts', type=Path, metavar='FILE',
        help='class texts of ViT-B-16 (training.embed_classes); without them nothing is trained')
    add('--checkpoint', type=Path, metavar='FILE', help='whose labels are compared too')
    add('--rehearse', action='store_true', help='the same on the CPU with tiny sizes')
    add('--agree', nargs='+', metavar='MODEL', help='compare labels alone, and print JSON')
    options = parser.parse_args(argv)
    if options.agree:
        print(json.dumps(agreement(options.agree, options.rehearse)))
        return 0
    try:
        if options.texts:  # what is wrong with them would show when most of the time is gone
            class_texts(options.texts, preset(PRESET))
        make_folder(options.out)
    except (OSError, ValueError) as error:
        print(f'gpu_day: {error}', file=sys.stderr)
        return 1
    end = time.monotonic() + 60 * options.minutes
    results: dict[str, Any] = {}
    for part in plan(options.rehearse, options.checkpoint):
        left = end - time.monotonic()
        results[part.name] = run(part, left) if left > 1 else {'error': 'no time was left'}
        print(f'{part.name}: {results[part.name].get("error", "done")}', flush=True)
        write_atomically(options.out / 'gpu_day.json', json.dumps(results, indent=1).encode())
    left = min(end - time.monotonic() - END, 30.0 if options.rehearse else math.inf)
    trained = options.texts is None or left > 0 and train(options, left)
    return int(not trained or any('error' in result for result in results.values()))


def train(options: argparse.Namespace, seconds: float) -> bool:
    """Train the embedded model for the time that is left; True where it went well."""
    scale = (('--batch', '2', '--keep', '16', '--workers', '1', '--set', TINY, '--device', 'cpu')
             if options.rehearse else ('--batch', '64', '--lr', '1.2e-3', '--keep', '20000'))
    command = [sys.executable, '-m', 'training.mini', '--texts', str(options.texts), '--out',
               str(options.out), '--minutes', f'{seconds / 60:.2f}', *scale]
    try:
        return subprocess.run(command, timeout=seconds + END).returncode == 0
    except subprocess.TimeoutExpired:
        print('training: stopped; the last checkpoint stays', file=sys.stderr)
        return False


if __name__ == '__main__':
    sys.exit(main())
