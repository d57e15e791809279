# SPDX-License-Identifier: Apache-2.0
"""The state of a training run: made, saved and restored as one; and the folder it lives in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import copy
from dataclasses import replace
import fcntl
import os
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.files import make_folder
from dgtl_core.learning.grqa import QueryAlignment
from dgtl_core.learning.optim import build_optimizer
from dgtl_core.learning.recipe import changes, Recipe
from dgtl_core.model.backbone_weights import load_backbone
from dgtl_core.model.checkpoint import (
    load_matching,
    load_weights,
    read_header,
    restore,
    save_checkpoint,
)
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import load_texts
from dgtl_core.strict import to_dict
import torch

LAST = 'last.safetensors'  # everything that a resume needs
FINAL = 'model.safetensors'  # the result: weights alone
_LOCK = '.training'


@contextmanager
def run_folder(out: Path, *, resume: bool, force: bool) -> Iterator[None]:
    """
    Hold the output folder of a run, alone.

    A folder that was made here and that nothing was written to is removed again.

    :param resume: the folder must hold a run to go on with; else it must hold none.
    :param force: begin anew where it does, see :func:`remove_run`.
    :raises ValueError: the folder does not hold what it must, or another run writes to it.
    """
    if resume and not (out / LAST).exists():
        raise ValueError(f'there is no {out / LAST} to resume from')
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    try:
        # a lock of this process alone: workers that outlive a killed run do not hold it
        with open(out / _LOCK, 'ab') as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = os.fstat(lock.fileno()).st_nlink  # else its owner has just removed it
            except OSError:
                free = 0
            if not free:
                raise ValueError(f'another training writes to {out}; take another --out')
            try:
                there = [file for file in (out / LAST, out / FINAL) if file.exists()]
                if there and not resume and not force:
                    raise ValueError(
                        f'{there[0]} exists; go on with --resume, take another --out, or begin '
                        'anew and overwrite it with --force')
                yield
            finally:
                (out / _LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def remove_run(out: Path) -> None:
    """Remove the checkpoints of a run from its folder."""
    for name in (LAST, FINAL):
        (out / name).unlink(missing_ok=True)


class Run:
    """
    A segmenter in training: weights, their moving average, the optimizer, the steps done; and
    the moving averages of GRQA, where the recipe has it.

    :raises ValueError: the recipe's files do not fit.
    :raises OSError: one cannot be read.
    """

    def __init__(self, recipe: Recipe, classes: ClassSet, device: torch.device,
                 last: Path | None = None) -> None:
        """:param last: the checkpoint to go on from; None begins."""
        self.recipe = recipe
        self.config = replace(recipe.segmenter(), classes=classes)
        torch.manual_seed(recipe.seed)
        self.model = Segmenter(self.config)
        if last is None:
            _fill(self.model, recipe)
        self.model.to(device)
        if self.config.backbone.stem == 'conv':
            self.model.to(memory_format=torch.channels_last)  # makes a step 1.4 times faster
        self.average = copy.deepcopy(self.model) if recipe.average else None
        self.optimizer = build_optimizer(self.model, recipe.optim)
        self.grqa = QueryAlignment.of(self.model).to(device) if recipe.loss.grqa_weight else None
        self.step = 0
        self.changed: list[str] = []  # what the run did not begin with, a line for each
        if last is not None:
            self._restore(last)

    def _restore(self, last: Path) -> None:
        averaged = restore(last, self.model, self.optimizer)
        began = read_header(last)['training']
        self.step = int(began['step'])
        self.changed = changes(began['recipe'], self.recipe)
        if self.step > self.recipe.steps:
            raise ValueError(
                f'{last} is at step {self.step}, beyond the steps {self.recipe.steps}; to go on, '
                'set steps to more, and to use it as it is, give it to training.evaluate or '
                'training.export')
        if self.grqa is not None and began['recipe']['loss'].get('grqa_weight'):
            load_weights(last, self.grqa, 'grqa.')
        if self.average is not None:  # it begins here where the run had none
            self.average.load_state_dict(averaged or self.model.state_dict())

    @property
    def best(self) -> Segmenter:
        """What is measured and shipped: the moving average where there is one."""
        return self.average or self.model

    @torch.no_grad()
    def update(self) -> None:
        """Let the optimizer make its step with the gradients there are, and the average follow."""
        if self.recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
            pairs = [(mine, theirs) for mine, theirs in zip(
                self.average.parameters(), self.model.parameters(), strict=True)
                if theirs.requires_grad]
            torch._foreach_lerp_([x for x, _ in pairs], [x for _, x in pairs], 1 - decay)
            for mine, theirs in zip(
                    self.average.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)
        self.step += 1

    def save(self, path: Path, commit: str, *, resumable: bool) -> None:
        """
        Write a checkpoint; what was there before stays until it is complete.

        :param resumable: with all that :data:`LAST` needs, or the weights alone.
        :raises OSError: it could not be written.
        """
        save_checkpoint(
            path, self.model, self.config, source=f'trained with recipe {self.recipe.name}',
            commit=commit, training={'step': self.step, 'recipe': to_dict(self.recipe)},
            average=None if self.average is None else self.average.state_dict(),
            optimizer=self.optimizer if resumable else None,
            grqa=self.grqa.state_dict() if resumable and self.grqa is not None else None)


def _fill(model: Segmenter, recipe: Recipe) -> None:
    """Fill a new model: from ``recipe.init`` as far as that goes, then from the model's files."""
    config = model.config
    linked = config.adapter.text_link != 'off'
    init = Path(recipe.init)
    fresh = load_matching(init, model, thin=recipe.thin) if recipe.init else list(
        model.state_dict())
    if any(name.startswith('backbone.') for name in fresh):
        if config.backbone.weights == 'timm':
            print(f'the backbone {config.backbone.name} starts from published weights; timm '
                  'downloads them where they are not here yet', flush=True)
        load_backbone(model.backbone, config.backbone)
        if recipe.init:  # what it has of the backbone was learned after those weights
            load_matching(init, model, thin=recipe.thin)
    if recipe.init:
        print(f'{init} has {len(model.state_dict()) - len(fresh)} tensors of this model' + (
            f'; these start afresh: {", ".join(fresh)}' if fresh else ''))
        known = [entry['name'] for entry in read_header(init)['classes']]
        if linked and known != list(config.classes.names):  # its texts mean other classes
            model.set_texts(torch.zeros(len(config.classes), config.text.width))
    if linked and config.text.file:
        model.set_texts(load_texts(config.text.file, config.classes.names).embeddings)
