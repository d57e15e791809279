# SPDX-License-Identifier: Apache-2.0
"""
Where the time of a network goes: exclusive amounts per part, from hooks on its modules.

Every moment of a call belongs to the innermost part that is running, so the parts add up to the
whole. What runs outside of every named part (normalisation, scores, arg-max) is the last line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import re
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

REST = 'scores and the rest'
# Of a segmenter, of its folded form and of its released form; the first that fits the end of a
# module's name decides.
_PARTS = tuple((re.compile(rf'(^|\.)({pattern})$'), part) for pattern, part in (
    (r'blocks\.\d+\.attn', 'ViT attention'),
    (r'blocks\.\d+\.mlp', 'ViT MLP'),
    (r'blocks\.\d+', 'ViT norms and residuals'),
    (r'backbone|patch_embed\.proj|patches', 'patches and positions'),
    (r'mask_decoder\.link', 'mask link'),
    (r'adapter|link|links\.\d+', 'token link'),
    (r'adapter\.(token_value|query_transform|query_merge)', 'token values and queries'),
    (r'neck', 'neck'),
    (r'light_head\.upscale\.\d+', 'light head: upscaling'),
    (r'light_head', 'light head: queries and masks'),
    (r'pixel_decoder\.layers\.\d+\.attention', 'pixel decoder: deformable attention'),
    (r'pixel_decoder\.layers\.\d+', 'pixel decoder: rest of the encoder'),
    (r'pixel_decoder', 'pixel decoder: projections and maps'),
    (r'mask_decoder\.layers\.\d+', 'mask decoder: layers'),
    (r'mask_decoder', 'mask decoder: predictions'),
))


@dataclass(frozen=True)
class Part:
    """One line of the breakdown."""

    name: str
    ms: float
    percent: float
    gflop: float

    @property
    def gflop_per_s(self) -> float:
        """The rate of its arithmetic."""
        return self.gflop / self.ms * 1e3 if self.ms else 0.0


def part_of(name: str) -> str | None:
    """Return the part that a module belongs to by its name, or None where it is just inside."""
    return next((part for pattern, part in _PARTS if pattern.search(name)), None)


class Meter:
    """Reads a quantity that only grows, at every change from one part to another."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self.marks: list[tuple[str, Any]] = []  # the part that begins, and the reading then
        self._stack = [REST]

    def start(self, part: str) -> None:
        """Enter a part."""
        self._stack.append(part)
        self.marks.append((part, self._read()))

    def stop(self) -> None:
        """Go back to the part around."""
        self._stack.pop()
        self.marks.append((self._stack[-1] if self._stack else '', self._read()))

    def amounts(self, difference: Callable[[Any, Any], float]) -> dict[str, float]:
        """Return the sum of differences of each part, in the order of their first appearance."""
        found: dict[str, float] = {}
        for (part, before), (_, after) in zip(self.marks, self.marks[1:]):
            found[part] = found.get(part, 0.0) + difference(before, after)
        return found


@contextmanager
def metered(network: nn.Module, read: Callable[[], Any]) -> Iterator[Meter]:
    """Hook a meter into a network, for one call inside of the ``with`` block."""
    meter = Meter(read)
    handles: list[RemovableHandle] = []
    for name, module in network.named_modules():
        part = part_of(name)
        if part is not None:
            handles.append(module.register_forward_pre_hook(
                lambda *_, part=part: meter.start(part)))
            handles.append(module.register_forward_hook(lambda *_: meter.stop()))
    meter.marks.append((REST, read()))
    try:
        yield meter
    finally:
        for handle in handles:
            handle.remove()
    meter.marks.append(('', read()))


def seconds_by_part(
        network: nn.Module, call: Callable[[], object], device: torch.device,
        runs: int) -> dict[str, float]:
    """
    Return the median seconds of each part over some calls of the network.

    On a GPU they are of its stream: a part that waits for the host is longer by that.
    """
    found: list[dict[str, float]] = []
    for _ in range(runs):
        if device.type == 'cuda':
            with metered(network, _event) as meter:
                call()
            torch.cuda.synchronize(device)
            found.append(meter.amounts(lambda a, b: a.elapsed_time(b) / 1e3))
        else:
            with metered(network, time.perf_counter) as meter:
                call()
            found.append(meter.amounts(lambda a, b: b - a))
    return {part: statistics.median(one[part] for one in found) for part in found[0]}


def breakdown(seconds: dict[str, float], flops: dict[str, float]) -> list[Part]:
    """Join times and FLOPs to lines, the rest last."""
    total = sum(seconds.values())
    names = sorted(seconds, key=lambda name: name == REST)  # stable
    return [Part(name, seconds[name] * 1e3, 100 * seconds[name] / total,
                 flops.get(name, 0.0) / 1e9) for name in names]


def parts_table(parts: Sequence[Part]) -> str:
    """Lay the parts out for people."""
    rows = [f'{"part":<38}{"ms":>9}{"%":>7}{"GFLOP":>9}{"GFLOP/s":>10}']
    rows += [f'{p.name:<38}{p.ms:>9.1f}{p.percent:>7.1f}{p.gflop:>9.2f}{p.gflop_per_s:>10.0f}'
             for p in parts]
    return '\n'.join(rows)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
