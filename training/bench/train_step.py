# SPDX-License-Identifier: Apache-2.0
"""What a training step costs: forward, backward and optimizer, on generated streets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import statistics
import sys
import time
from typing import Literal

from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.optim import build_optimizer, OptimConfig
from dgtl_core.learning.points import RandomPoints
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.streetworld import StreetWorld
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F
from training.bench.contenders import open_model, Spec
from training.bench.machine import PeakMemory

# What each text link is trained with.
_ALIGNMENT: dict[str, Literal['off', 'released', 'similarity']] = {
    'off': 'off', 'present': 'released', 'all': 'similarity'}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of the result: medians over the runs."""

    name: str
    batch: int
    runs: int
    forward_s: float  # losses included
    backward_s: float
    optimizer_s: float
    pictures_per_s: float
    ratio: float  # of forward and backward, to the first
    peak_mib: float
    losses: dict[str, float]  # of the first step, sums over the decoder layers


def measure_steps(
        specs: Sequence[Spec], size: tuple[int, int] | None, device: torch.device,
        cache: dict[str, Segmenter], *, batch: int, runs: int, points: int,
        warmup: int = 1) -> list[Step]:
    """
    Time training steps of presets or checkpoints, one model after the other, precisions in turn.

    :raises ValueError: a model that cannot be trained as asked.
    """
    for spec in specs:
        if spec.is_file or spec.form == 'released-eager' or spec.compiled:
            raise ValueError(
                f'--train times presets and checkpoints in eager mode, got {spec.name}')
    steps: list[Step] = []
    for spec in specs:
        model, config = open_model(spec.model, cache)
        images, labels = _streets(size or config.input_size, batch, device)
        objective = _objective(model, points).to(device).train()
        optimizer = build_optimizer(model, OptimConfig())
        times: list[tuple[float, float, float]] = []
        losses: dict[str, float] = {}
        peak = PeakMemory(device)
        for number in range(warmup + runs):
            found = _step(objective, optimizer, images, labels, spec.dtype)
            losses = losses or found[1]
            if number >= warmup:
                times.append(found[0])
            print(f'{spec.model}: {spec.precision}: step {number + 1} of {warmup + runs}, '
                  f'{sum(found[0]):.2f} s', file=sys.stderr)
        forward, backward, update = (statistics.median(x) for x in zip(*times))
        reference = steps[0].forward_s + steps[0].backward_s if steps else forward + backward
        steps.append(Step(
            name=f'{spec.model}: {spec.precision}', batch=batch, runs=runs, forward_s=forward,
            backward_s=backward, optimizer_s=update,
            pictures_per_s=batch / (forward + backward + update),
            ratio=(forward + backward) / reference, peak_mib=peak.mib(), losses=losses))
        optimizer.zero_grad()
    return steps


def _step(objective: Objective, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor,
          dtype: torch.dtype) -> tuple[tuple[float, float, float], dict[str, float]]:
    """Return seconds of forward, backward and optimizer, and the losses by name."""
    device = images.device
    points = RandomPoints(range(len(images)), device)
    marks = [_now(device)]
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        found = objective(images, labels, points)
    total = torch.stack([value.sum() for value in found.values()]).sum()
    marks.append(_now(device))
    total.backward()
    marks.append(_now(device))
    optimizer.step()
    optimizer.zero_grad()
    marks.append(_now(device))
    forward, backward, update = (b - a for a, b in zip(marks, marks[1:]))
    return (forward, backward, update), {
        name: float(value.detach().sum()) for name, value in found.items()}


def _now(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _streets(
        size: tuple[int, int], batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    world = StreetWorld(seed=0, size=size)
    samples = [world.picture(index) for index in range(batch)]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.stack([sample.labels for sample in samples]))
    return images.contiguous().to(device), labels.to(device)


def _objective(model: Segmenter, points: int) -> Objective:
    if model.texts is not None and not model.texts.any():
        texts = torch.randn(model.texts.shape, generator=torch.Generator().manual_seed(0))
        model.set_texts(3 * F.normalize(texts, dim=1))
    alignment = 'off' if model.light_head else _ALIGNMENT[model.config.adapter.text_link]
    return Objective(model, LossConfig(num_points=points, alignment=alignment))


def steps_table(steps: Sequence[Step]) -> str:
    """Lay the steps out for people."""
    width = max(len(step.name) for step in steps)
    lines = [f'{"training step":<{width}}{"batch":>7}{"forward s":>11}{"backward s":>12}'
             f'{"optimizer s":>13}{"pictures/s":>12}{"ratio":>8}{"peak MiB":>10}']
    lines += [f'{s.name:<{width}}{s.batch:>7}{s.forward_s:>11.2f}{s.backward_s:>12.2f}'
              f'{s.optimizer_s:>13.3f}{s.pictures_per_s:>12.3f}{s.ratio:>8.3f}{s.peak_mib:>10.0f}'
              for s in steps]
    lines += [f'losses of the first step, {s.name}: '
              + ', '.join(f'{name} {value:.4f}' for name, value in s.losses.items())
              for s in steps]
    return '\n'.join(lines)
