# SPDX-License-Identifier: Apache-2.0
"""
Random points in pictures, and what masks and labels are worth there.

Legend: L decoder layers, B pictures, Q queries, M masks, P points, K classes. A point is (x, y) in
[0, 1] of the picture; values between pixel centres are bilinear, outside of the picture zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
import torch.nn.functional as F

Purpose = Literal['match', 'candidates', 'random']


class PointSource(Protocol):
    """Gives uniform random points for one picture of the batch."""

    def __call__(self, purpose: Purpose, picture: int, shape: tuple[int, ...]) -> Tensor:
        """Return points of the given shape, whose last dimension is 2: (x, y) in [0, 1)."""
        ...


class RandomPoints:
    """
    Points that depend on one key for each picture and on nothing else.

    So a picture meets the same points on one process or on many, and after a resume.
    """

    def __init__(self, keys: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(key) for key in keys]
        self._device = device

    def __call__(self, purpose: Purpose, picture: int, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self._generators[picture], device=self._device)


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """
    Return the values of mask maps at points.

    Shape:
        masks (N, C, H, W), points (N, P, 2) -> (N, C, P)
    """
    grid = (2 * points - 1).unsqueeze(1).to(masks.dtype)
    return F.grid_sample(masks, grid, align_corners=False).squeeze(2)


def bilinear_corners(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """
    Return the flat indices of the four pixels around each point, and their weights.

    A corner outside of the picture gets weight 0 (and a valid index).

    Shape:
        points (..., 2) -> indices (..., 4) int64, weights (..., 4) float
    """
    scale = points.new_tensor([width, height])
    position = points * scale - 0.5
    low = position.floor()
    high_part = position - low
    low = low.long()
    indices, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = low[..., 0] + dx, low[..., 1] + dy
            wx = high_part[..., 0] if dx else 1 - high_part[..., 0]
            wy = high_part[..., 1] if dy else 1 - high_part[..., 1]
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            indices.append(y.clamp(0, height - 1) * width + x.clamp(0, width - 1))
            weights.append(wx * wy * inside)
    return torch.stack(indices, -1), torch.stack(weights, -1)


def class_fractions(labels: Tensor, points: Tensor, num_classes: int) -> Tensor:
    """
    Return how much of each class lies at each point, as if K binary masks had been sampled.

    Shape:
        labels (B, H, W) integers, those >= K count as no class; points (B, P, 2) -> (B, P, K)
    """
    batch, height, width = labels.shape
    index, weight = bilinear_corners(points, height, width)
    corner = labels.flatten(1).gather(1, index.flatten(1)).long().clamp(max=num_classes)
    fractions = weight.new_zeros(batch, points.shape[1], num_classes + 1)
    return fractions.scatter_add_(2, corner.view_as(index), weight)[..., :num_classes]


def fraction_of_class(
        labels: Tensor, pictures: Tensor, classes: Tensor, points: Tensor) -> Tensor:
    """
    Return the binary mask of one class at points, for M (picture, class) pairs.

    Shape:
        labels (B, H, W); pictures (M,); classes (M,); points (M, P, 2) -> (M, P)
    """
    height, width = labels.shape[1:]
    index, weight = bilinear_corners(points, height, width)
    flat = labels.reshape(-1)
    corner = flat[pictures[:, None, None] * (height * width) + index]
    return (weight * (corner == classes[:, None, None])).sum(-1)
