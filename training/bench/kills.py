# SPDX-License-Identifier: Apache-2.0
"""
Kill a small training run over and over: python -m training.bench.kills

A run is made once without a break. Then the same run is started again and again, each time killed
(SIGKILL, which nothing can catch) at a random moment and resumed. Whenever it gets to its end its
weights must be those of the first, bit by bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
import dataclasses
import json
import multiprocessing
from pathlib import Path
import random
import shutil
import sys
import tempfile
import time

import cv2
from dgtl_core.learning.recipe import read_recipe, Recipe
from dgtl_core.learning.run import FINAL, LAST
from safetensors.torch import load_file
import torch
from training.train import train

RECIPE = """
preset: dgtl-mini
model:
  backbone: {name: vit, embed_dim: 64, depth: 4, num_heads: 2, out_indices: [0, 1, 2, 3],
             patch_size: 8, img_size: [32, 64]}
  adapter: {num_tokens: 24, rank: 4, text_link: 'off'}
  head: {hidden_dim: 64, num_heads: 2, num_queries: 24, encoder_layers: 1,
         encoder_feedforward: 64, decoder_layers: 2, decoder_feedforward: 64}
  input_size: [32, 64]
  window_stride: [32, 64]
data: ['streetworld:clear,count=6,height=48,width=96']
cache: true
workers: 0
steps: 60
batch: 2
average: 0.9
precision: fp32
save_every: 1
transforms: {crop: [32, 64], scale: [1.0, 1.5]}
loss: {num_points: 64, semantic_weight: 1.0}
optim: {lr: 1.0e-3, warmup: 2, clip_norm: 1.0}
"""


def kills(count: int, seed: int, folder: Path, steps: int = 60) -> dict[str, object]:
    """
    Kill runs ``count`` times in all, then let the last one end; return what happened.

    :param steps: of a run, each of which ends with a checkpoint. One kill in five comes at any
        moment from the start on, the others once there is a new checkpoint: so most runs are
        killed several times on their way, and most kills are of a run that was resumed.
    :raises ValueError: a run failed, or ended with other weights.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    cv2.setNumThreads(1)
    chance = random.Random(seed)
    path = folder / 'recipe.yaml'
    path.write_text(RECIPE, encoding='utf-8')
    recipe = dataclasses.replace(read_recipe(path), steps=steps)
    start = time.monotonic()
    whole, out = folder / 'whole', folder / 'killed'
    _attempt(recipe, whole, None)
    takes = time.monotonic() - start
    killed = resumed = ended = 0
    while killed < count or (out / LAST).exists():
        before = (out / LAST).exists()
        limit = chance.uniform(0.0, 0.1) * takes if killed < count else None
        if not _attempt(recipe, out, limit, at_once=chance.random() < 0.2):
            killed += 1
            resumed += before
            continue
        ended += 1
        for name in (FINAL, LAST):
            one, other = load_file(whole / name), load_file(out / name)
            if one.keys() != other.keys() or not all(
                    torch.equal(one[key], other[key]) for key in one):
                raise ValueError(f'{name} differs after {killed} kills, of seed {seed}')
        left = sorted(p.name for p in out.iterdir() if p.name.startswith('.'))
        if left:
            raise ValueError(f'{left} was left behind after {killed} kills, of seed {seed}')
        shutil.rmtree(out)
    return {'kills': killed, 'kills_of_resumed_runs': resumed, 'runs': ended, 'same_weights': True,
            'steps': recipe.steps, 'seconds': round(time.monotonic() - start, 1)}


def _attempt(recipe: Recipe, out: Path, limit: float | None, at_once: bool = True) -> bool:
    """
    Train in a process of its own; return whether it ended.

    :param limit: seconds until it is killed; None: it is not.
    :param at_once: count them from the start, and not from the first checkpoint that it writes.
    """
    before = _written(out)
    process = multiprocessing.get_context('fork').Process(target=_train, args=(recipe, out))
    process.start()
    while not at_once and process.is_alive() and _written(out) == before:
        time.sleep(0.01)
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode:
        raise ValueError((out.parent / 'log').read_text(encoding='utf-8')[-2000:])
    return True


def _written(out: Path) -> int:
    """Return when a run wrote its last checkpoint, in nanoseconds; 0: it has none."""
    try:
        return (out / LAST).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _train(recipe: Recipe, out: Path) -> None:
    with open(out.parent / 'log', 'w', encoding='utf-8') as log, \
            redirect_stdout(log), redirect_stderr(log):
        sys.exit(train(recipe, out, resume=(out / LAST).exists(), device='cpu'))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.bench.kills', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=50, metavar='N', help='kills (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N',
                        help='of the moments (%(default)s)')
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(json.dumps(kills(options.count, options.seed, Path(folder))))
        except ValueError as error:
            print(f'kills: {error}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
