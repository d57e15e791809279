# SPDX-License-Identifier: Apache-2.0
"""A convolutional stem: what a small transformer does not learn from bare patches."""

from __future__ import annotations

from torch import nn, Tensor

# Channels at 1/2, 1/4, 1/8 and 1/16 of the picture; the last map has the transformer's width.
WIDTHS = (32, 64, 128, 192)
# Residual blocks of two convolutions at 1/8 and 1/16.
BLOCKS = (2, 2)


class ConvStem(nn.Module):
    """
    3x3 convolutions of stride 2 with batch norm, and residual blocks between them.

    After Xiao et al., "Early convolutions help transformers see better" (NeurIPS 2021).
    """

    def __init__(self, dim: int, patch_size: int) -> None:
        """Make the stem of a transformer of width ``dim`` on patches of 16 or 32 pixels."""
        super().__init__()
        half, quarter, *coarser = WIDTHS
        if patch_size == 16:
            coarser.pop()
        self.quarter = nn.Sequential(
            *convolution(3, half, 2), *convolution(half, quarter, 2),
            *convolution(quarter, quarter))
        self.coarser = nn.ModuleList()
        self.widths = [*coarser[::-1], quarter]  # of the finer maps, coarse to fine
        inputs = quarter
        for width, blocks in zip(coarser, BLOCKS):
            self.coarser.append(nn.Sequential(
                *convolution(inputs, width, 2), *(Residual(width) for _ in range(blocks))))
            inputs = width
        self.last = nn.Conv2d(inputs, dim, 3, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """
        Return the map of the transformer, and the finer ones before it, coarse to fine.

        Shape: (B, 3, H, W) -> (B, C, H/16, W/16), [(B, D, H/8, W/8), (B, D', H/4, W/4)]; with
        patches of 32 one more.
        """
        maps = [self.quarter(images)]
        for stage in self.coarser:
            maps.append(stage(maps[-1]))
        return self.last(maps[-1]), maps[::-1]


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity (He et al., CVPR 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*convolution(width, width))
        self.second = nn.Sequential(*convolution(width, width)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, h, w) -> the same."""
        return (x + self.second(self.first(x))).relu()


def convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return (nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU())
