# SPDX-License-Identifier: Apache-2.0
"""
How fast could a segmenter be? ``python -m training.roofline PRESET [--size H W]...``.

A picture costs arithmetic (counted operation by operation in the folded network, 1 multiply-add =
2 FLOP) and, at batch 1, one reading of all weights; the slower of the two bounds the rate. What a
board sustains is not its data sheet's peak: the figures below are calibrated on published times
of another vision transformer, so every rate printed here is computed, none is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import sys
import time

from dgtl_core.config import preset
from dgtl_core.export.fold import fold
from dgtl_core.export.labels import LabelNetwork
from dgtl_core.model.segmenter import build_segmenter
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils.flop_counter import FlopCounterMode

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
    weight_bytes: float  # in 16 bits each

    def pictures_per_s(self, board: Board) -> float:
        """Return the most that the board's arithmetic and memory allow."""
        return min(board.tflops * 1e12 / self.flops, board.gb_per_s * 1e9 / self.weight_bytes)


def count(network: nn.Module, size: Size, batch: int = 1) -> Work:
    """
    Count the work of a network on uint8 pictures without running it.

    Matrix products, convolutions and attention are counted; sampling, softmax and the like are
    not: they cost time, but hardly arithmetic.
    """
    # Fake tensors have shapes alone. Plain attention: every torch counts its parts.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), \
            FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((batch, *size, 3), dtype=torch.uint8))
    weights = sum(p.numel() for p in network.parameters())
    return Work(float(counter.get_total_flops()), 2.0 * weights)


def peak_flops(device: str, dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """Return the FLOP/s of a large square matrix product on a device: the roof, measured here."""
    a = torch.randn(size, size, device=device).to(dtype)
    best, end = float('inf'), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def label_network(name: str, size: Size) -> LabelNetwork:
    """Return the folded network of a preset at a size, with random weights."""
    return LabelNetwork(fold(build_segmenter(preset(name)).eval(), size, 'grid_sample'), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the work and the computed rates, return the exit status."""
    parser = argparse.ArgumentParser(prog='python -m training.roofline', description=__doc__)
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
                      f'{work.weight_bytes / 1e6:.0f} | {rates} |', flush=True)
    except ValueError as error:
        print(f'roofline: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
