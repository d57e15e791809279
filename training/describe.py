# SPDX-License-Identifier: Apache-2.0
"""
Print what a segmenter is made of: parts, output shapes, parameters, GFLOPs.

    python -m training.describe dgtl-dinov2-l
    python -m training.describe model.yaml --size 512 1024 --json

Nothing is computed: the model has shapes but no numbers, so it takes seconds and little memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
import re
import sys

from dgtl_core.config import preset, PRESETS, SegmenterConfig
from dgtl_core.files import print_any_text
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import load_yaml
import torch
from torch import nn, Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Part:
    """One line: a module, or a run of equal ones (``blocks.0-23``)."""

    name: str
    kind: str
    output: str  # shape of what it returns for one picture; '' where it is not called itself
    trained: int  # parameters
    frozen: int
    gflops: float  # multiply-adds count as two; one picture


def describe(config: SegmenterConfig, size: tuple[int, int], levels: int = 3) -> list[Part]:
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


def _part(module: nn.Module, name: str, output: str, flops: int) -> Part:
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return Part(name, type(module).__name__, output, trained, frozen, flops / 1e9)


def _collapse(parts: list[Part]) -> list[Part]:
    """Join consecutive numbered parts that differ in their number alone; drop what is empty."""
    result: list[Part] = []
    for part in parts:
        if not (part.trained or part.frozen or part.gflops):
            continue
        last = result[-1] if result else None
        number = re.fullmatch(r'(.*\.)(\d+)', part.name)
        before = re.fullmatch(r'(.*\.)(\d+)(?:-(\d+))?', last.name) if last else None
        if number and before and last and number[1] == before[1] \
                and int(number[2]) == int(before[3] or before[2]) + 1 \
                and part.kind == last.kind and part.output == last.output:
            result[-1] = Part(
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


def model_table(parts: Sequence[Part]) -> str:
    """Return the parts as an indented table."""
    lines = [f'{"part":<44}{"trained":>13}{"frozen":>13}{"GFLOPs":>9}  output']
    for part in parts:
        depth = part.name.replace('backbone.vit', 'backbone').count('.')
        depth = 0 if part.name == 'segmenter' else depth + 1
        short = part.name.rsplit('.', 1)[-1]
        if re.fullmatch(r'[\d-]+', short):
            short = '.'.join(part.name.split('.')[-2:])
        lines.append(
            f'{"  " * depth + short:<22}{part.kind:<22}{part.trained:>13,}{part.frozen:>13,}'
            f'{part.gflops:>9.2f}  {part.output}')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when there was something to describe."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.describe', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help=f'preset ({", ".join(sorted(PRESETS))}) or .yaml file')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'),
                        help="of the picture (the model's own)")
    parser.add_argument('--levels', type=int, default=2, metavar='N',
                        help='depth of the tree (%(default)s)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    args = parser.parse_args(argv)
    try:
        config = load_yaml(SegmenterConfig, args.model) if args.model.endswith('.yaml') \
            else preset(args.model)
        size = tuple(args.size) if args.size else config.input_size
        parts = describe(config, size, args.levels)
    except (ValueError, OSError) as error:
        print(f'describe: {error}', file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({'name': config.name, 'method': config.method, 'size': size,
                          'parts': [asdict(part) for part in parts]}, indent=1))
    else:
        print(f'{config.name} ({config.method}), one picture of {size[0]}x{size[1]}')
        print(model_table(parts))
    return 0


if __name__ == '__main__':
    sys.exit(main())
