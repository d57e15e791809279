# SPDX-License-Identifier: Apache-2.0
"""
How fast could a segmenter be? ``python -m training.bench.roofline PRESET [--size H W]...``.

A picture costs arithmetic (counted operation by operation in the folded network, 1 multiply-add =
2 FLOP) and, at batch 1, one reading of all weights; the slower of the two bounds the rate. What a
board sustains is not its data sheet's peak: the figures below are calibrated on published times
of another vision transformer, so every rate printed here is computed, none is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import sys
import time
from typing import Any

from dgtl_core.config import preset
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.model.segmenter import build_segmenter
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from training.bench.parts import metered

Size = tuple[int, int]


@dataclass(frozen=True)
class Board:
    """A computer for robots."""

    name: str
    tflops: float  # sustained on a vision transformer in float16
    gb_per_s: float  # memory, data sheet


# Sustained: TensorRT-Edge-LLM 0.10 publishes 36.2 ms (AGX Orin 64), 77.1 (Orin NX 16), 141 (Orin
# Nano 8) and 11.5 ms (Thor) for the vision transformer of Qwen3-VL-2B at about 1060 patches. With
# 24 blocks of width 1024 that is 22 TFLOP/s on AGX Orin, 52 % of its peak of 42.5 in float16.
BOARDS = (
    Board('Jetson Orin Nano 8 GB', 5.7, 68), Board('Jetson Orin NX 16 GB', 10.4, 102),
    Board('Jetson AGX Orin 64 GB', 22.0, 205), Board('Jetson Thor', 70.0, 273))


@dataclass(frozen=True)
class Work:
    """What one call of a network costs."""

    flops: float
    weights: float  # how many numbers, constants that folding made included
    traffic: float = 0.0  # bytes that its operations read and write one by one, none fused

    def pictures_per_s(self, board: Board) -> float:
        """Return the most that the board's arithmetic and memory allow in 16 bits."""
        return 1 / self.seconds(board.tflops * 1e12, board.gb_per_s * 1e9, 2)

    def seconds(self, flops_per_s: float, bytes_per_s: float, weight_size: int) -> float:
        """
        Return the least time of one call: its arithmetic, or one reading of the weights.

        :param weight_size: bytes of one weight.
        """
        return max(self.flops / flops_per_s, self.weights * weight_size / bytes_per_s)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's tensors; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(  # torch calls it so
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        written = _bytes(found)
        if written and not func.is_view:  # and no question about a tensor, such as its device
            self.bytes += written + _bytes((args, kwargs))
        return found


def _bytes(tree: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(tree)
               if isinstance(x, torch.Tensor))


def count(network: nn.Module, size: Size, batch: int = 1) -> Work:
    """
    Count the work of a network on uint8 pictures without running it.

    Matrix products, convolutions and attention are counted; sampling, softmax and the like are
    not: they cost time, but hardly arithmetic.
    """
    flops = sum(count_by_part(network, size, batch).values())
    device = next(network.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        pictures = torch.zeros((batch, *size, 3), dtype=torch.uint8, device=device)
        with _Traffic() as traffic:
            network(pictures)
    weights = sum(t.numel() for t in (*network.parameters(), *network.buffers())
                  if t.is_floating_point())
    return Work(flops, float(weights), float(traffic.bytes))


def count_by_part(network: nn.Module, size: Size, batch: int = 1) -> dict[str, float]:
    """Return the FLOPs of each part (:mod:`training.bench.parts`), as :func:`count` counts."""
    # Fake tensors have shapes alone. Plain attention: every torch counts its parts.
    device = next(network.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), \
            FlopCounterMode(display=False) as counter, torch.no_grad(), \
            metered(network, counter.get_total_flops) as meter:
        network(torch.zeros((batch, *size, 3), dtype=torch.uint8, device=device))
    return meter.amounts(lambda before, after: float(after - before))


def peak_flops(device: torch.device, dtype: torch.dtype, size: int = 0,
               seconds: float = 1.0) -> float:
    """Return the FLOP/s of a large square matrix product on a device: the roof, measured here."""
    size = size or (8192 if device.type == 'cuda' else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / _fastest(lambda: a @ a, device, seconds)


def bandwidth(device: torch.device, mib: int = 0, seconds: float = 1.0) -> float:
    """Return the bytes per second that a copy within the device's memory reads and writes."""
    if not mib:
        free = torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else 2**31
        mib = min(free // 8, 2**32) >> 20
    source = torch.ones(mib * 2**18, device=device)  # far larger than the caches
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the least time of a call, from at least three."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def label_network(name: str, size: Size) -> LabelNetwork:
    """Return the folded network of a preset at a size, with random weights."""
    return LabelNetwork(fold(build_segmenter(preset(name)).eval(), size, 'grid_sample'), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the work and the computed rates, return the exit status."""
    parser = argparse.ArgumentParser(prog='python -m training.bench.roofline', description=__doc__)
    parser.add_argument('preset', nargs='+')
    parser.add_argument('--size', type=int, nargs=2, action='append', metavar=('H', 'W'),
                        help="of the picture; again for more; default: the preset's")
    options = parser.parse_args(argv)
    try:
        print('| model, picture | GFLOP | weights MB | '
              + ' | '.join(f'{board.name}' for board in BOARDS) + ' |')
        print('|---|' + '---:|' * (len(BOARDS) + 2))
        for name in options.preset:
            for size in options.size or [preset(name).input_size]:
                work = count(label_network(name, tuple(size)), tuple(size))
                rates = ' | '.join(f'{work.pictures_per_s(board):.1f}' for board in BOARDS)
                print(f'| {name} {size[0]}x{size[1]} | {work.flops / 1e9:.0f} | '
                      f'{2 * work.weights / 1e6:.0f} | {rates} |', flush=True)
    except ValueError as error:
        print(f'roofline: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
