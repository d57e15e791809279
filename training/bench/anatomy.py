# SPDX-License-Identifier: Apache-2.0
"""What a segmenter is made of: parts, output shapes, parameters, FLOPs. Nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
import re

from dgtl_core.config import SegmenterConfig
from dgtl_core.model.segmenter import Segmenter
import torch
from torch import nn, Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Member:
    """One line: a module, or a run of equal ones (``blocks.0-23``)."""

    name: str
    kind: str
    output: str  # shape of what it returns for one picture; '' where it is not called itself
    trained: int  # parameters
    frozen: int
    gflops: float  # multiply-adds count as two; one picture


def describe(config: SegmenterConfig, size: tuple[int, int], levels: int = 3) -> list[Member]:
    """
    Return the parts of a segmenter down to ``levels`` names deep, the whole first.

    :raises ValueError: a size that the backbone does not take.
    """
    with torch.device('meta'):
        model = Segmenter(config).eval()
        model.backbone.grid_of(size)
        images = torch.empty(1, 3, *size)
    shapes: dict[str, str] = {}
    flops: dict[str, int] = {}
    hooks = []
    with FlopCounterMode(display=False) as counter:
        for name, module in model.named_modules():
            hooks += _watch(module, name, shapes, flops, counter)
        model.scores(images)
    for hook in hooks:
        hook.remove()
    flops[''] = counter.get_total_flops()
    holder = 'backbone'
    if model.light_head is not None:  # it takes the backbone block by block
        holder = 'light_head'
        flops['backbone'] = flops['backbone.vit.patch_embed.proj'] + sum(
            flops[f'backbone.vit.blocks.{i}'] for i in range(len(model.backbone.vit.blocks)))
        flops['light_head'] -= flops['backbone']
    if model.adapter is not None:  # it acts between the blocks, and makes its constants before
        flops[holder] -= flops['adapter']
        flops['adapter'] += sum(
            flops.get(f'adapter.{name}', 0) for name, _ in model.adapter.named_children()
            if name != 'delta')
    parts = [_part(model, 'segmenter', '', flops[''])]
    for name, module in model.named_modules():
        if name and name != 'backbone.vit' \
                and name.replace('backbone.vit', 'backbone').count('.') < levels:
            below = [name] if name in flops else [
                key for key in flops if key.rpartition('.')[0] == name]  # a list of modules
            cost = sum(flops[key] for key in below)
            parts.append(_part(module, name, shapes.get(name, ''), cost))
    return _collapse(parts)


def _watch(module: nn.Module, name: str, shapes: dict[str, str], flops: dict[str, int],
           counter: FlopCounterMode) -> list[RemovableHandle]:
    """Note what a module returns, and what it costs over all its calls."""
    def before(*_: object) -> None:
        flops[name] = flops.get(name, 0) - counter.get_total_flops()

    def after(_: nn.Module, __: object, output: object) -> None:
        flops[name] += counter.get_total_flops()
        shapes.setdefault(name, _shape(output))

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _part(module: nn.Module, name: str, output: str, flops: int) -> Member:
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return Member(name, type(module).__name__, output, trained, frozen, flops / 1e9)


def _collapse(parts: list[Member]) -> list[Member]:
    """Join consecutive numbered parts that differ in their number alone; drop what is empty."""
    result: list[Member] = []
    for part in parts:
        if not (part.trained or part.frozen or part.gflops):
            continue
        last = result[-1] if result else None
        number = re.fullmatch(r'(.*\.)(\d+)', part.name)
        before = re.fullmatch(r'(.*\.)(\d+)(?:-(\d+))?', last.name) if last else None
        if number and before and last and number[1] == before[1] \
                and int(number[2]) == int(before[3] or before[2]) + 1 \
                and part.kind == last.kind and part.output == last.output:
            result[-1] = Member(
                f'{before[1]}{before[2]}-{number[2]}', part.kind, part.output,
                last.trained + part.trained, last.frozen + part.frozen,
                last.gflops + part.gflops)
        else:
            result.append(part)
    return result


def _shape(output: object) -> str:
    if isinstance(output, Tensor):
        return 'x'.join(str(length) for length in output.shape)
    if isinstance(output, (list, tuple)):
        inside = [_shape(item) for item in output]
        if len(inside) > 1 and len(set(inside)) == 1:
            return f'{len(inside)} * {inside[0]}'
        return ', '.join(inside)
    return ''
