# SPDX-License-Identifier: Apache-2.0
"""AdamW with the released parameter groups, and a learning rate that depends on the step alone."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Literal, NamedTuple

import torch
from torch import nn

# They never decay outside of backbone and neck, nor does what a module names in ``no_decay``, its
# own parameters and those of its parts; biases do decay. So it is in the released set-ups.
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule; the defaults are those of the released DGTL and Rein."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    backbone_lr: float = 1.0  # times lr, for a trainable backbone and its neck
    backbone_decay: bool = True  # false, with backbone_lr 0: VLTSeg's "frozen" stage
    schedule: Literal['poly', 'cosine', 'constant'] = 'poly'
    power: float = 0.9  # of the poly schedule
    begin: int = 0  # the schedule is constant before this step
    warmup: int = 0  # steps of a linear rise from 0
    clip_norm: float = 0.0  # greatest norm of the whole gradient; 0: no clipping

    def __post_init__(self) -> None:
        if self.lr <= 0 or min(self.weight_decay, self.backbone_lr, self.clip_norm) < 0:
            raise ValueError(
                'optim.lr must be positive, weight_decay, backbone_lr and clip_norm not negative; '
                f'got {self.lr}, {self.weight_decay}, {self.backbone_lr}, {self.clip_norm}')
        if min(self.begin, self.warmup, self.power) < 0 or self.eps <= 0:
            raise ValueError(
                'optim.begin, warmup and power must not be negative and eps be positive; got '
                f'{self.begin}, {self.warmup}, {self.power}, {self.eps}')
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f'optim.betas must be in 0..1, 1 excluded, got {list(self.betas)}')


class Group(NamedTuple):
    """How a parameter is optimised."""

    lr_scale: float
    weight_decay: float


def parameter_groups(model: nn.Module, config: OptimConfig) -> dict[Group, list[str]]:
    """Return the names of all trainable parameters, by how they are optimised."""
    modules = dict(model.named_modules())
    spared = {
        name for prefix, module in modules.items()
        for name, _ in module.named_parameters(prefix=prefix)
        if not set(name[len(prefix):].split('.')).isdisjoint(getattr(module, 'no_decay', ()))}
    groups: dict[Group, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = name.rpartition('.')[0]
            group = _group(name, modules[owner], name in spared, config)
            groups.setdefault(group, []).append(name)
    return groups


def _group(name: str, owner: nn.Module, spared: bool, config: OptimConfig) -> Group:
    if name.startswith(('backbone.', 'neck.')):
        decay = 0.0 if spared or not config.backbone_decay else config.weight_decay
        return Group(config.backbone_lr, decay)
    return Group(1.0, 0.0 if spared or isinstance(owner, NORMS) else config.weight_decay)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; each group keeps its ``lr_scale`` and names."""
    parameters = dict(model.named_parameters())
    return torch.optim.AdamW([
        {'params': [parameters[name] for name in names], 'names': names,
         'lr_scale': group.lr_scale, 'weight_decay': group.weight_decay}
        for group, names in parameter_groups(model, config).items()],
        lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Return the learning rate of one step, counted from 0, of a run of ``total`` steps."""
    progress = min(max((step - config.begin) / max(total - config.begin, 1), 0.0), 1.0)
    factor = 1.0
    if config.schedule == 'poly':
        factor = (1 - progress) ** config.power
    elif config.schedule == 'cosine':
        factor = (1 + math.cos(math.pi * progress)) / 2
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.lr * factor * rise


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate ``lr`` times its own scale."""
    for group in optimizer.param_groups:
        group['lr'] = lr * group['lr_scale']
