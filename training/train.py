# SPDX-License-Identifier: Apache-2.0
"""
Train a segmenter from a recipe: python -m training.train RECIPE --out FOLDER

On several GPUs: torchrun --nproc-per-node 4 -m training.train RECIPE --out FOLDER
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
import logging
from pathlib import Path
import sys
import warnings

from dgtl_core.data.datasets import Pictures
from dgtl_core.evaluation.protocols import labeler_of_model
from dgtl_core.evaluation.score import score
from dgtl_core.files import print_any_text
from dgtl_core.learning.batches import batches
from dgtl_core.learning.matcher import NonFiniteError
from dgtl_core.learning.processes import Processes
from dgtl_core.learning.recipe import check_files, read_recipe, Recipe
from dgtl_core.learning.run import FINAL, LAST, remove_run, Run, run_folder
from dgtl_core.learning.step import Step
from dgtl_core.learning.stop import Stop
from dgtl_core.learning.teacher import Teacher
from dgtl_core.runtime.contract import RunOptions
import torch
from torch import distributed
from tqdm import tqdm
from training.commit import source_commit
from training.device import add_device, choose_device
from training.log import Log
from training.pictures import to_learn_from, to_test_on


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.train', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path,
                        help='what to learn, a YAML file; training/recipes holds some')
    parser.add_argument('--out', type=Path, metavar='FOLDER',
                        help='checkpoints and logs go there (runs/NAME of the recipe)')
    parser.add_argument('--resume', action='store_true', help=f'go on from {LAST} in FOLDER')
    parser.add_argument('--force', action='store_true',
                        help='begin anew in a FOLDER that holds a run; the old one is removed')
    add_device(parser)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set optim.lr=2e-4')
    options = parser.parse_args(arguments)
    if options.resume and options.force:
        parser.error('--resume goes on with a run, --force removes it: give one of the two')
    # how many workers there are, the recipe says
    warnings.filterwarnings('ignore', 'This DataLoader will create')
    warnings.filterwarnings('ignore', 'Grad strides do not match')  # of DDP; it costs nothing here
    logging.getLogger('huggingface_hub').setLevel(logging.ERROR)  # a line for each of its tries
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
    first, last = processes.rank == 0, out / LAST

    def say(text: str) -> None:
        if first:
            tqdm.write(f'train: {text}', file=sys.stderr)

    with run_folder(out, resume=resume, force=force) if first else nullcontext(), Stop() as stop:
        if not resume:
            check_files(recipe)
        pictures = to_learn_from(recipe, out / 'cache', say)
        tests = to_test_on(recipe, pictures.classes, out / 'cache', say)
        run = Run(recipe, pictures.classes, processes.device, last if resume else None)
        for change in run.changed:
            say(f'this run began with {change}')
        teacher = Teacher(Path(recipe.teacher), pictures.classes, processes.device) \
            if recipe.teacher else None
        step = Step(run, processes, batches(
            pictures, recipe.transforms, seed=recipe.seed, start=run.step, stop=recipe.steps,
            batch=recipe.batch, accumulate=recipe.accumulate, rank=processes.rank,
            world=processes.world, workers=recipe.workers,
            pin_memory=processes.device.type == 'cuda', clean=teacher is not None), teacher, last)
        if first and not resume:  # all is as it must be: now, and not before
            remove_run(out)
        log = Log(out, run.step, recipe.steps, recipe.batch, first)
        stop.after_this_step()
        run.model.train()
        while run.step < recipe.steps:
            losses, rate = step()
            log.losses(run.step, losses, rate)
            done = run.step == recipe.steps
            if tests and (done or run.step % recipe.evaluation.every == 0):
                log.evaluation(run.step, _evaluate(run, tests, processes, step.dtype))
            stopped = processes.any(stop.signal is not None)
            if stopped or done or run.step % recipe.save_every == 0:
                step.finite.look()
                step.finite.weights(run.model, run.step)
                if first:
                    run.save(last, source_commit(), resumable=True)
            if stopped:
                how = 'another process' if stop.signal is None else stop.signal.name
                log.say(f'stopped by {how} after step {run.step}; go on with --resume')
                log.close()
                return stop.exit_code
        if first:
            run.save(out / FINAL, source_commit(), resumable=False)
        log.say(f'the result is {out / FINAL}')
        log.close()
        return 0


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


if __name__ == '__main__':
    sys.exit(main())
