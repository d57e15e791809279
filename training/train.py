# SPDX-License-Identifier: Apache-2.0
"""
Train a segmenter from a recipe: python -m training.train RECIPE --out FOLDER

On several GPUs: torchrun --nproc-per-node 4 -m training.train RECIPE --out FOLDER
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from dgtl_core.config import to_dict
from dgtl_core.data.catalog import join
from dgtl_core.data.datasets import Pictures
from dgtl_core.learning.batches import batches, cached
from dgtl_core.learning.checkpoint import read_header, restore, save_checkpoint
from dgtl_core.learning.matcher import NonFiniteError
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.optim import build_optimizer, learning_rate, set_learning_rate
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.recipe import read_recipe, Recipe
from dgtl_core.model.segmenter import build_segmenter, Segmenter
import numpy as np
import torch
from torch import distributed, nn, Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from training.evaluate import labeler, score

LAST = 'last.safetensors'  # everything that a resume needs
FINAL = 'model.safetensors'  # the result: weights alone
REPORT_EVERY = 20  # steps between two lines of the log
TERMINATED = 143  # exit code after SIGTERM, as a shell reports it


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.train', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path, help='a YAML file; training/recipes holds some')
    parser.add_argument('--out', type=Path, help='folder for checkpoints and logs (runs/NAME)')
    parser.add_argument('--resume', action='store_true', help=f'go on from OUT/{LAST}')
    parser.add_argument('--device', default='auto', help='auto (default), cpu or cuda')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set optim.lr=2e-4')
    options = parser.parse_args(arguments)
    try:
        recipe = read_recipe(options.recipe, options.set)
        out = options.out or Path('runs') / recipe.name
        return train(recipe, out, resume=options.resume, device=options.device)
    except (ValueError, OSError, NonFiniteError) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def train(recipe: Recipe, out: Path, *, resume: bool = False, device: str = 'auto') -> int:
    """
    Train from beginning to end; return 0, or TERMINATED where SIGTERM ended it early.

    :raises ValueError: the recipe, its data or the output folder are not as they must be.
    :raises NonFiniteError: a loss is NaN or infinite.
    :raises OSError: a file cannot be read or written.
    """
    rank, world, where = _processes(device)
    last = out / LAST
    if last.exists() != resume:
        raise ValueError(f'there is no {last} to resume from' if resume else
                         f'{last} exists; go on with --resume, or take another --out')
    out.mkdir(parents=True, exist_ok=True)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))

    torch.manual_seed(recipe.seed)
    model = build_segmenter(recipe.segmenter()).to(where)
    optimizer = build_optimizer(model, recipe.optim)
    average = copy.deepcopy(model) if recipe.average else None
    start = 0
    if resume:
        start = int(read_header(last)['training']['step'])
        averaged = restore(last, model, optimizer)
        if average is not None and averaged is not None:
            average.load_state_dict(averaged)
    objective: nn.Module = Objective(model, recipe.loss).to(where)
    if world > 1:
        objective = DistributedDataParallel(objective, static_graph=True)
    dtype = _precision(recipe, where)

    def opened(*sources: str) -> Pictures:
        pictures = join(sources)
        return cached(pictures, out / 'cache', recipe.workers) if recipe.cache else pictures

    pictures, tests = opened(*recipe.data), [opened(source) for source in recipe.evaluation.data]
    stream = batches(
        pictures, recipe.transforms, seed=recipe.seed, start=start, stop=recipe.steps,
        batch=recipe.batch, accumulate=recipe.accumulate, rank=rank, world=world,
        workers=recipe.workers, pin_memory=where.type == 'cuda')

    def save(path: Path, step: int, *, resumable: bool) -> None:
        if not all(x.isfinite().all() for x in model.parameters()):
            raise NonFiniteError(f'weights are not finite after step {step}')
        if rank == 0:
            save_checkpoint(
                path, model, model.config, source=f'trained with recipe {recipe.name}',
                commit=_commit(), training={'step': step, 'recipe': to_dict(recipe)},
                average=None if average is None else average.state_dict(),
                optimizer=optimizer if resumable else None)

    log = _Log(out, start, recipe.steps) if rank == 0 else None
    before: tuple[int, Tensor, tuple[str, ...]] | None = None  # step, loss, files
    model.train()
    for step in range(start, recipe.steps):
        torch.manual_seed(_key(recipe.seed, step, rank))  # so that there is no state to resume
        set_learning_rate(optimizer, learning_rate(step, recipe.steps, recipe.optim))
        sums: dict[str, Tensor] = {}
        files: tuple[str, ...] = ()
        for _ in range(recipe.accumulate):
            batch = next(stream)
            files += batch.names
            images, labels = (x.to(where, non_blocking=True) for x in batch[:2])
            try:
                with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                    losses = objective(images, labels, RandomPoints(batch.keys, where))
            except NonFiniteError:
                losses = {'predictions': images.new_tensor([torch.nan], dtype=torch.float32)}
            # The matcher has just waited for the device: to look at the last loss costs nothing.
            _stop_if_not_finite(before, last)
            total = torch.stack([value.sum() for value in losses.values()]).sum()
            before = (step, total.detach(), files)
            if 'predictions' in losses:
                _stop_if_not_finite(before, last)
            (total / recipe.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach().sum() / recipe.accumulate
        if recipe.optim.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            _follow(average, model, min(recipe.average, (1 + step) / (10 + step)))

        done = step + 1
        if log is not None:
            log.add(done, sums, optimizer.param_groups[0]['lr'] / (
                optimizer.param_groups[0]['lr_scale'] or 1))
        if tests and (done % recipe.evaluation.every == 0 or done == recipe.steps):
            results = _evaluate(average or model, tests, recipe, where, dtype, rank, world)
            if log is not None:
                log.evaluation(done, results)
        stop = _any(bool(signals), world)
        if stop or done % recipe.save_every == 0 or done == recipe.steps:
            _stop_if_not_finite(before, last)
            save(last, done, resumable=True)
        if stop:
            print(f'stopped by SIGTERM after step {done}; {last} is written, go on with --resume',
                  file=sys.stderr)
            return TERMINATED
    save(out / FINAL, recipe.steps, resumable=False)
    return 0


class _Log:
    """Progress for people (a bar, TensorBoard) and programs (log.jsonl)."""

    def __init__(self, out: Path, start: int, steps: int) -> None:
        self._file = open(out / 'log.jsonl', 'a', encoding='utf-8')
        self._board = SummaryWriter(str(out / 'tensorboard'), purge_step=start)
        self._bar = tqdm(total=steps, initial=start, unit='step', dynamic_ncols=True)
        self._start = time.monotonic()
        self._sums: list[dict[str, Tensor]] = []

    def add(self, step: int, losses: dict[str, Tensor], lr: float) -> None:
        self._bar.update()
        self._sums.append(losses)
        if len(self._sums) < REPORT_EVERY and step != self._bar.total:
            return
        means = {name: float(torch.stack([x[name] for x in self._sums]).mean()) for name in losses}
        self._sums.clear()
        self._bar.set_postfix(loss=f'{sum(means.values()):.3f}')
        self._write(step, {'loss': sum(means.values()), **means, 'lr': lr})

    def evaluation(self, step: int, results: dict[str, float]) -> None:
        self._write(step, {f'miou/{name}': value for name, value in results.items()})
        self._bar.write(f'step {step}: mIoU ' + ', '.join(
            f'{name} {100 * value:.1f}' for name, value in results.items()))

    def _write(self, step: int, values: dict[str, float]) -> None:
        seconds = round(time.monotonic() - self._start, 1)
        self._file.write(json.dumps({'step': step, 'seconds': seconds, **values}) + '\n')
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _processes(device: str) -> tuple[int, int, torch.device]:
    """Return rank, number of processes and device of this process, as torchrun set them up."""
    kind = device if device != 'auto' else 'cuda' if torch.cuda.is_available() else 'cpu'
    if kind not in ('cpu', 'cuda'):
        raise ValueError(f'device must be auto, cpu or cuda, got {device!r}')
    world = int(os.environ.get('WORLD_SIZE', 1))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group('cpu:gloo,cuda:nccl' if kind == 'cuda' else 'gloo')
    if kind == 'cpu':
        return int(os.environ.get('RANK', 0)), world, torch.device('cpu')
    where = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
    torch.cuda.set_device(where)
    return int(os.environ.get('RANK', 0)), world, where


def _precision(recipe: Recipe, where: torch.device) -> torch.dtype:
    """Return the type of autocast; 'auto' is bfloat16 where the hardware multiplies in it."""
    if recipe.precision == 'auto':
        fast = (torch.cuda.is_bf16_supported(including_emulation=False) if where.type == 'cuda'
                else torch.cpu._is_avx512_bf16_supported())
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if recipe.precision == 'bf16' else torch.float32


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _stop_if_not_finite(
        checked: tuple[int, Tensor, tuple[str, ...]] | None, last: Path) -> None:
    if checked is None or checked[1].isfinite():
        return
    step, loss, files = checked
    good = f'the last good checkpoint is {last}' if last.exists() else 'there is no checkpoint'
    raise NonFiniteError(
        f'the loss of step {step + 1} is {float(loss)}, with the pictures {list(files)}; {good}. '
        'Lower optim.lr, set optim.clip_norm, or precision fp32; look at these pictures')


@torch.no_grad()
def _follow(average: Segmenter, model: Segmenter, decay: float) -> None:
    pairs = [(mine, theirs) for mine, theirs in zip(
        average.parameters(), model.parameters(), strict=True) if theirs.requires_grad]
    torch._foreach_lerp_([x for x, _ in pairs], [x for _, x in pairs], 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def _evaluate(model: Segmenter, tests: list[Pictures], recipe: Recipe, where: torch.device,
              dtype: torch.dtype, rank: int, world: int) -> dict[str, float]:
    model.eval()
    label = labeler(model, where, dtype)
    results = {}
    for pictures in tests:
        matrix = score(label, pictures, recipe.evaluation.limit, rank, world)
        if world > 1:
            counts = torch.from_numpy(matrix.counts)
            distributed.all_reduce(counts)
        results[pictures.name] = matrix.mean_iou()
    model.train()
    return results


def _any(here: bool, world: int) -> bool:
    """Return whether it is so in any process."""
    if world == 1:
        return here
    flag = torch.tensor(float(here))
    distributed.all_reduce(flag)
    return bool(flag)


def _commit() -> str:
    """Return the commit of the source tree, or '' outside of one."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=12'], text=True, check=True,
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ''
    return done.stdout.strip()


if __name__ == '__main__':
    sys.exit(main())
