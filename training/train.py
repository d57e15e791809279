# SPDX-License-Identifier: Apache-2.0
"""
Train a segmenter from a recipe: python -m training.train RECIPE --out FOLDER

On several GPUs: torchrun --nproc-per-node 4 -m training.train RECIPE --out FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
import copy
from dataclasses import replace
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import NamedTuple
import warnings

from dgtl_core.config import to_dict
from dgtl_core.data.catalog import join, open_named
from dgtl_core.data.datasets import Pictures
from dgtl_core.evaluation.protocols import labeler_of_model
from dgtl_core.learning.batches import batches, cached
from dgtl_core.learning.matcher import NonFiniteError
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.optim import build_optimizer, learning_rate, set_learning_rate
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.recipe import changes, check_files, read_recipe, Recipe
from dgtl_core.model.backbone_weights import load_backbone
from dgtl_core.model.checkpoint import load_matching, read_header, restore, save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import load_texts
import numpy as np
import torch
from torch import distributed, nn, Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from training.bench.machine import choose_device
from training.evaluate import score
from training.log import Log

_ENDS = (signal.SIGINT, signal.SIGTERM)
LAST = 'last.safetensors'  # everything that a resume needs
FINAL = 'model.safetensors'  # the result: weights alone
TERMINATED = 143  # exit code after SIGTERM, as a shell reports it; 130 after Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.train', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path, help='a YAML file; training/recipes holds some')
    parser.add_argument('--out', type=Path, metavar='FOLDER',
                        help='checkpoints and logs (runs/NAME)')
    parser.add_argument('--resume', action='store_true', help=f'go on from {LAST} in FOLDER')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda (%(default)s)')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set optim.lr=2e-4')
    options = parser.parse_args(arguments)
    # how many workers there are, the recipe says
    warnings.filterwarnings('ignore', 'This DataLoader will create')
    try:
        recipe = read_recipe(options.recipe, options.set)
        out = options.out or Path('runs') / recipe.name
        return train(recipe, out, resume=options.resume, device=options.device)
    except (ValueError, OSError, NonFiniteError) as error:
        text = str(error)
        if 'DataLoader worker' in text:  # the worker's own traceback; its last line says it all
            text = text.strip().splitlines()[-1].partition(': ')[2]
        tqdm.write(f'train: {text}', file=sys.stderr)  # on a line of its own
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def train(recipe: Recipe, out: Path, *, resume: bool = False, device: str = 'auto') -> int:
    """
    Train from beginning to end; return 0, or 128 + the signal where one ended it early.

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
    # nothing to save yet; an exit and no death, so that no half-made cache stays behind
    ends = [number for number in _ENDS if signal.getsignal(number) != signal.SIG_IGN]
    for number in ends:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))

    # what is learned from: the data say which classes there are
    if not resume:
        check_files(recipe)
    pictures, tests = _data(recipe, out)
    config = replace(recipe.segmenter(), classes=pictures.classes)

    # what is learned
    torch.manual_seed(recipe.seed)
    model = Segmenter(config)
    if not resume:
        _begin(model, recipe)
    model.to(where)
    average = copy.deepcopy(model) if recipe.average else None
    optimizer = build_optimizer(model, recipe.optim)
    start = 0
    if resume:
        averaged = restore(last, model, optimizer)
        began = read_header(last)['training']
        start = int(began['step'])
        for change in changes(began['recipe'], recipe) if rank == 0 else []:
            tqdm.write(f'train: this run began with {change}', file=sys.stderr)
        if start > recipe.steps:
            raise ValueError(f'{last} is at step {start}, beyond the steps {recipe.steps}')
        if average is not None:  # it begins here where the run had none
            average.load_state_dict(averaged or model.state_dict())
    objective: nn.Module = Objective(model, recipe.loss).to(where)
    alone: Callable[[], AbstractContextManager[None]] = nullcontext  # gradients stay in a process
    if world > 1:
        if where.type == 'cuda':
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        objective = DistributedDataParallel(objective, find_unused_parameters=True)
        alone = objective.no_sync
    dtype = _precision(recipe.precision, where)

    def save(path: Path, step: int, *, resumable: bool) -> None:
        if not all(x.isfinite().all() for x in model.parameters()):
            raise NonFiniteError(f'weights are not finite after step {step}; {_last_good(last)}')
        if rank == 0:
            save_checkpoint(
                path, model, config, source=f'trained with recipe {recipe.name}',
                commit=_commit(), training={'step': step, 'recipe': to_dict(recipe)},
                average=None if average is None else average.state_dict(),
                optimizer=optimizer if resumable else None)

    stream = batches(
        pictures, recipe.transforms, seed=recipe.seed, start=start, stop=recipe.steps,
        batch=recipe.batch, accumulate=recipe.accumulate, rank=rank, world=world,
        workers=recipe.workers, pin_memory=where.type == 'cuda')
    log = Log(out, start, recipe.steps, recipe.batch, rank)
    signals: list[int] = []

    def end(number: int, frame: object) -> None:  # the second one ends it at once
        signals.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else
                      signal.SIG_DFL)

    for number in ends:
        signal.signal(number, end)
    before: _Step | None = None
    model.train()
    for step in range(start, recipe.steps):
        torch.manual_seed(_key(recipe.seed, step, rank))  # so that there is no state to resume
        lr = learning_rate(step, recipe.steps, recipe.optim)
        set_learning_rate(optimizer, lr)
        losses: dict[str, Tensor] = {}
        files: tuple[str, ...] = ()
        for part in range(recipe.accumulate):
            batch = next(stream)
            files += batch.names
            images, labels = (x.to(where, non_blocking=True) for x in batch[:2])
            with nullcontext() if part == recipe.accumulate - 1 else alone():
                try:
                    with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                        found = objective(images, labels, RandomPoints(batch.keys, where))
                except NonFiniteError:
                    _stop_if_not_finite(before, last)
                    raise _not_finite(_Step(step, torch.tensor(torch.nan), files), last) from None
                # the matcher has just waited for the device, so this look costs nothing
                _stop_if_not_finite(before, last)
                found = {name: value.sum() / recipe.accumulate for name, value in found.items()}
                total = torch.stack(list(found.values())).sum()
                total.backward()
            before = _Step(step, total.detach(), files)
            losses = {name: losses.get(name, 0) + x.detach() for name, x in found.items()}
        if recipe.optim.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            _follow(average, model, min(recipe.average, (1 + step) / (10 + step)))

        done = step + 1
        log.losses(done, losses, lr)
        if tests and (done % recipe.evaluation.every == 0 or done == recipe.steps):
            log.evaluation(done, _evaluate(average or model, tests, recipe, where, dtype))
            model.train()
        terminated = _anywhere(bool(signals))
        if terminated or done % recipe.save_every == 0 or done == recipe.steps:
            _stop_if_not_finite(before, last)
            save(last, done, resumable=True)
        if terminated:
            how = signal.Signals(signals[0]).name if signals else 'another process'
            log.say(f'stopped by {how} after step {done}; go on with --resume')
            log.close()
            return 128 + signals[0] if signals else TERMINATED
    save(out / FINAL, recipe.steps, resumable=False)
    log.say(f'the result is {out / FINAL}')
    log.close()
    return 0


class _Step(NamedTuple):
    """A step whose loss is not looked at yet."""

    number: int
    loss: Tensor
    files: tuple[str, ...]


def _stop_if_not_finite(step: _Step | None, last: Path) -> None:
    """Raise NonFiniteError where the step's loss is NaN or infinite."""
    if step is not None and not step.loss.isfinite():
        raise _not_finite(step, last)


def _not_finite(step: _Step, last: Path) -> NonFiniteError:
    return NonFiniteError(
        f'the loss of step {step.number + 1} is {float(step.loss)}, with the pictures '
        f'{list(step.files)}; {_last_good(last)}. Look at these pictures, lower optim.lr, set '
        'optim.clip_norm, or take precision fp32')


def _last_good(last: Path) -> str:
    return f'the last good checkpoint is {last}' if last.exists() else 'there is no checkpoint yet'


def _begin(model: Segmenter, recipe: Recipe) -> None:
    """Fill a new model: from ``recipe.init`` as far as that goes, then from the model's files."""
    config = model.config
    linked = config.adapter.text_link != 'off'
    init = Path(recipe.init)
    fresh = load_matching(init, model) if recipe.init else list(model.state_dict())
    if any(name.startswith('backbone.') for name in fresh):
        load_backbone(model.backbone, config.backbone)
        if recipe.init:  # what it has of the backbone was learned after those weights
            load_matching(init, model)
    if recipe.init:
        print(f'{init} has {len(model.state_dict()) - len(fresh)} tensors of this model' + (
            f'; these start afresh: {", ".join(fresh)}' if fresh else ''))
        known = [entry['name'] for entry in read_header(init)['classes']]
        if linked and known != list(config.classes.names):  # its texts mean other classes
            model.set_texts(torch.zeros(len(config.classes), config.text.width))
    if linked and config.text.file:
        model.set_texts(load_texts(config.text.file, config.classes.names).embeddings)


def _data(recipe: Recipe, out: Path) -> tuple[Pictures, dict[str, Pictures]]:
    """Return the pictures to learn from, and the data sets to test on by name."""
    def kept(pictures: Pictures) -> Pictures:
        return cached(pictures, out / 'cache', recipe.workers) if recipe.cache else pictures

    if not recipe.data:
        raise ValueError(f'recipe {recipe.name} names no data; give some with --set data=[NAME]')
    pictures, tests = join(recipe.data), open_named(recipe.evaluation.data)
    for name, test in tests.items():
        if test.classes.names != pictures.classes.names:
            raise ValueError(f'{name} has other classes than the training data')
    return kept(pictures), {name: kept(test) for name, test in tests.items()}


def _processes(device: str) -> tuple[int, int, torch.device]:
    """Return rank, number of processes and device of this process, as torchrun set them up."""
    chosen = choose_device(device)
    kind = chosen.type
    world = int(os.environ.get('WORLD_SIZE', 1))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group('cpu:gloo,cuda:nccl' if kind == 'cuda' else 'gloo')
    if kind == 'cpu':
        return int(os.environ.get('RANK', 0)), world, torch.device('cpu')
    where = torch.device('cuda', int(os.environ.get('LOCAL_RANK', chosen.index or 0)))
    torch.cuda.set_device(where)
    return int(os.environ.get('RANK', 0)), world, where


def _precision(wanted: str, where: torch.device) -> torch.dtype:
    """Return the type of autocast; 'auto' is bfloat16 where the hardware multiplies in it."""
    if wanted == 'auto':
        fast = (torch.cuda.is_bf16_supported(including_emulation=False) if where.type == 'cuda'
                else torch.backends.cpu.get_cpu_capability() != 'DEFAULT'
                and torch.cpu._is_avx512_bf16_supported())
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if wanted == 'bf16' else torch.float32


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@torch.no_grad()
def _follow(average: Segmenter, model: Segmenter, decay: float) -> None:
    pairs = [(mine, theirs) for mine, theirs in zip(
        average.parameters(), model.parameters(), strict=True) if theirs.requires_grad]
    torch._foreach_lerp_([x for x, _ in pairs], [x for _, x in pairs], 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def _evaluate(model: Segmenter, tests: dict[str, Pictures], recipe: Recipe, where: torch.device,
              dtype: torch.dtype) -> dict[str, float]:
    """Return the mean IoU by data set; the pictures are shared out over the processes."""
    model.eval()
    label = labeler_of_model(model, where, dtype, recipe.evaluation.protocol)
    shared = distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    results = {}
    for name, pictures in tests.items():
        matrix = score(
            label, pictures, recipe.evaluation.limit, first=rank, stride=world).matrix
        if shared:
            distributed.all_reduce(torch.from_numpy(matrix.counts))
        results[name] = matrix.mean_iou()
    return results


def _anywhere(here: bool) -> bool:
    """Return whether it is so in any process."""
    if not distributed.is_initialized():
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
