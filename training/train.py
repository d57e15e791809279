# SPDX-License-Identifier: Apache-2.0
"""
Train a segmenter from a recipe: python -m training.train RECIPE --out FOLDER

On several GPUs: torchrun --nproc-per-node 4 -m training.train RECIPE --out FOLDER
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
import subprocess
import sys
import warnings

from dgtl_core.data.catalog import join, open_named
from dgtl_core.data.checks import check
from dgtl_core.data.datasets import Pictures
from dgtl_core.evaluation.protocols import labeler_of_model
from dgtl_core.evaluation.score import score
from dgtl_core.files import print_any_text
from dgtl_core.learning.batches import batches, cached
from dgtl_core.learning.finite import FiniteLosses
from dgtl_core.learning.matcher import NonFiniteError
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.optim import learning_rate, set_learning_rate
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.processes import autocast_type, Processes
from dgtl_core.learning.recipe import check_files, read_recipe, Recipe
from dgtl_core.learning.run import FINAL, LAST, Run, run_folder
from dgtl_core.learning.stop import Stop
from dgtl_core.learning.teacher import Teacher
from dgtl_core.runtime.contract import RunOptions
import numpy as np
import torch
from torch import distributed, Tensor
from tqdm import tqdm
from training.device import add_device, choose_device
from training.log import Log


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.train', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path, help='a YAML file; training/recipes holds some')
    parser.add_argument('--out', type=Path, metavar='FOLDER',
                        help='checkpoints and logs (runs/NAME)')
    parser.add_argument('--resume', action='store_true', help=f'go on from {LAST} in FOLDER')
    parser.add_argument('--force', action='store_true',
                        help='begin anew in a FOLDER that holds a run, which is removed')
    add_device(parser)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set optim.lr=2e-4')
    options = parser.parse_args(arguments)
    if options.resume and options.force:
        parser.error('--resume goes on with a run, --force removes it: give one of the two')
    # how many workers there are, the recipe says
    warnings.filterwarnings('ignore', 'This DataLoader will create')
    try:
        recipe = read_recipe(options.recipe, options.set)
        out = options.out or Path('runs') / recipe.name
        return train(recipe, out, resume=options.resume, force=options.force,
                     device=options.device)
    except (ValueError, OSError, NonFiniteError) as error:
        text = str(error)
        if 'DataLoader worker' in text:  # the worker's own traceback; its last line says it all
            text = text.strip().splitlines()[-1].partition(': ')[2]
        tqdm.write(f'train: {text}', file=sys.stderr)  # on a line of its own
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def train(recipe: Recipe, out: Path, *, resume: bool = False, force: bool = False,
          device: str = RunOptions.device) -> int:
    """
    Train from beginning to end; return 0, or 128 + the signal where one ended it early.

    :param force: begin anew in a folder that holds a run already.
    :raises ValueError: the recipe, its data or the output folder are not as they must be.
    :raises NonFiniteError: a loss is NaN or infinite.
    :raises OSError: a file cannot be read or written.
    """
    processes = Processes.join(choose_device(device))
    first = processes.rank == 0
    last = out / LAST
    with run_folder(out, resume=resume, force=force) if first else nullcontext(), Stop() as stop:
        if not resume:
            check_files(recipe)
        pictures, tests = _data(recipe, out, processes)
        run = Run(recipe, pictures.classes, processes.device, last if resume else None)
        for change in run.changed if first else ():
            tqdm.write(f'train: this run began with {change}', file=sys.stderr)
        teacher = Teacher(Path(recipe.teacher), pictures.classes, processes.device) \
            if recipe.teacher else None
        objective, alone = processes.share(Objective(run.model, recipe.loss, teacher))
        dtype = autocast_type(recipe.precision, processes.device)
        stream = batches(
            pictures, recipe.transforms, seed=recipe.seed, start=run.step, stop=recipe.steps,
            batch=recipe.batch, accumulate=recipe.accumulate, rank=processes.rank,
            world=processes.world, workers=recipe.workers,
            pin_memory=processes.device.type == 'cuda', clean=teacher is not None)
        finite, log = FiniteLosses(last), Log(out, run.step, recipe.steps, recipe.batch, first)
        stop.after_this_step()
        run.model.train()
        while run.step < recipe.steps:
            torch.manual_seed(_key(recipe.seed, run.step, processes.rank))  # no state to resume
            lr = learning_rate(run.step, recipe.steps, recipe.optim)
            set_learning_rate(run.optimizer, lr)
            losses: dict[str, Tensor] = {}
            names: tuple[str, ...] = ()
            for part in range(recipe.accumulate):
                batch = next(stream)
                names += batch.names
                images, labels, clean = (
                    None if x is None else x.to(processes.device, non_blocking=True)
                    for x in (batch.images, batch.labels, batch.clean))
                with alone() if part + 1 < recipe.accumulate else nullcontext():
                    with finite.forward(run.step, names), torch.autocast(
                            processes.device.type, dtype, enabled=dtype != torch.float32):
                        found = objective(
                            images, labels, RandomPoints(batch.keys, processes.device), clean)
                    found = {name: x.sum() / recipe.accumulate for name, x in found.items()}
                    total = torch.stack(list(found.values())).sum()
                    total.backward()
                finite.expect(run.step, total, names)
                losses = {name: losses.get(name, 0) + x.detach() for name, x in found.items()}
            run.update()

            log.losses(run.step, losses, lr)
            done = run.step == recipe.steps
            if tests and (done or run.step % recipe.evaluation.every == 0):
                log.evaluation(run.step, _evaluate(run, tests, processes, dtype))
            stopped = processes.any(stop.signal is not None)
            if stopped or done or run.step % recipe.save_every == 0:
                finite.look()
                finite.weights(run.model, run.step)
                if first:
                    run.save(last, _commit(), resumable=True)
            if stopped:
                how = 'another process' if stop.signal is None else stop.signal.name
                log.say(f'stopped by {how} after step {run.step}; go on with --resume')
                log.close()
                return stop.exit_code
        if first:
            run.save(out / FINAL, _commit(), resumable=False)
        log.say(f'the result is {out / FINAL}')
        log.close()
        return 0


def _data(recipe: Recipe, out: Path, processes: Processes) -> tuple[
        Pictures, dict[str, Pictures]]:
    """Return the pictures to learn from, and the data sets to test on by name."""
    def kept(pictures: Pictures, limit: int, unlabelled: bool = False) -> Pictures:
        for line in check(pictures, limit, unlabelled=unlabelled):
            if processes.rank == 0:
                tqdm.write(f'train: {line}', file=sys.stderr)
        return cached(pictures, out / 'cache', recipe.workers) if recipe.cache else pictures

    if not recipe.data:
        raise ValueError(f'recipe {recipe.name} names no data; give some with --set data=[NAME]')
    pictures, tests = join(recipe.data), open_named(recipe.evaluation.data)
    for name, test in tests.items():
        if test.classes.names != pictures.classes.names:
            raise ValueError(f'{name} has other classes than the training data')
    return kept(pictures, 0, unlabelled=bool(recipe.teacher)), {
        name: kept(test, recipe.evaluation.limit) for name, test in tests.items()}


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _evaluate(run: Run, tests: dict[str, Pictures], processes: Processes,
              dtype: torch.dtype) -> dict[str, float]:
    """Return the mean IoU by data set; the processes share the pictures."""
    run.best.eval()
    settings = run.recipe.evaluation
    label = labeler_of_model(run.best, processes.device, dtype, settings.protocol)
    results = {name: score(label, pictures, settings.limit, processes=processes).matrix.mean_iou()
               for name, pictures in tests.items()}
    run.model.train()
    return results


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
