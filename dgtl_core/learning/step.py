# SPDX-License-Identifier: Apache-2.0
"""One step of a training run: the losses of a batch, their gradients, the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from dgtl_core.learning.batches import Batch
from dgtl_core.learning.finite import FiniteLosses
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.optim import learning_rate, set_learning_rate
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.processes import autocast_type, Processes
from dgtl_core.learning.run import Run
from dgtl_core.learning.teacher import Teacher
import numpy as np
import torch
from torch import Tensor


class Step:
    """
    Makes the steps of a run, one at each call.

    :param batches: ``accumulate`` of them for each step.
    :param last: the checkpoint to go back to, for messages.
    :raises ValueError: the model cannot learn what the recipe wants of it, or it or its teacher
        takes no crop of that size.
    """

    def __init__(self, run: Run, processes: Processes, batches: Iterator[Batch],
                 teacher: Teacher | None, last: Path) -> None:
        for whose, model in (('the model', run.model), *(
                [('the teacher', teacher.model)] if teacher else [])):
            try:
                model.backbone.grid_of(run.recipe.transforms.crop)
            except ValueError as error:
                raise ValueError(f'transforms.crop does not fit {whose}: {error}') from None
        self._run, self._processes, self._batches = run, processes, batches
        self._objective, self._alone = processes.share(
            Objective(run.model, run.recipe.loss, teacher, run.grqa))
        self.dtype = autocast_type(run.recipe.precision, processes.device)
        self.finite = FiniteLosses(last)

    def __call__(self) -> tuple[dict[str, Tensor], float]:
        """
        Make a step; return its losses by name, each a single number, and the learning rate.

        :raises NonFiniteError: the loss of this step, or of the one before, is NaN or infinite.
        """
        run, recipe = self._run, self._run.recipe
        torch.manual_seed(_key(recipe.seed, run.step, self._processes.rank))  # nothing to resume
        rate = learning_rate(run.step, recipe.steps, recipe.optim)
        set_learning_rate(run.optimizer, rate)
        losses: dict[str, Tensor] = {}
        names: tuple[str, ...] = ()
        for part in range(recipe.accumulate):
            batch = next(self._batches)
            names += batch.names
            with self._alone() if part + 1 < recipe.accumulate else nullcontext():
                found = self._losses(batch, names)
                total = torch.stack(list(found.values())).sum()
                total.backward()
            self.finite.expect(run.step, total, names)
            losses = {name: losses.get(name, 0) + x.detach() for name, x in found.items()}
        run.update()
        return losses, rate

    def _losses(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return what a part of a batch adds to the losses of the step."""
        device, recipe = self._processes.device, self._run.recipe
        images, labels, clean = (
            None if x is None else x.to(device, non_blocking=True)
            for x in (batch.images, batch.labels, batch.clean))
        with self.finite.forward(self._run.step, names), torch.autocast(
                device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = self._objective(images, labels, RandomPoints(batch.keys, device), clean,
                                    self._run.step / recipe.steps)
        return {name: x.sum() / recipe.accumulate for name, x in found.items()}


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
