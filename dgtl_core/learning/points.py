# SPDX-License-Identifier: Apache-2.0
"""
Random points in pictures, and what masks and labels are worth there.

Legend: L decoder layers, B pictures, Q queries, M masks, P points, K classes. A point is (x, y) in
[0, 1] of the picture; values between pixel centres are bilinear, outside of the picture zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from dgtl_core.classes import IGNORE_INDEX
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


def _corners(labels: Tensor, pictures: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the labels of the four pixels around each point, and their bilinear weights.

    Shape:
        labels (B, H, W), pictures (N,), points (N, P, 2) -> (N, P, 4) labels, (N, P, 4) float
    """
    height, width = labels.shape[1:]
    # a border of "no label" takes the corners outside of the picture
    padded = F.pad(labels, (1, 1, 1, 1), value=IGNORE_INDEX)
    position = points * points.new_tensor((width, height)) + 0.5
    low = position.floor()
    right, down = (position - low).unbind(-1)
    x, y = low.long().unbind(-1)
    first = (pictures[:, None] * (height + 2) + y) * (width + 2) + x
    index = torch.stack((first, first + 1, first + width + 2, first + width + 3), -1)
    left, up = 1 - right, 1 - down
    weight = torch.stack((up * left, up * right, down * left, down * right), -1)
    return padded.take(index), weight


def class_fractions(labels: Tensor, points: Tensor, num_classes: int) -> Tensor:
    """
    Return how much of each class lies at each point, as if K binary masks had been sampled.

    Shape:
        labels (B, H, W) integers, those >= K count as no class; points (B, P, 2) -> (B, P, K)
    """
    pictures = torch.arange(len(labels), device=labels.device)
    corner, weight = _corners(labels, pictures, points)
    fractions = weight.new_zeros(*points.shape[:2], num_classes + 1)
    fractions.scatter_add_(2, corner.clamp(max=num_classes).long(), weight)
    return fractions[..., :num_classes]


def fraction_of_class(
        labels: Tensor, pictures: Tensor, classes: Tensor, points: Tensor) -> Tensor:
    """
    Return the binary mask of one class at points, for N (picture, class) pairs.

    Shape:
        labels (B, H, W), pictures (N,), classes (N,), points (N, P, 2) -> (N, P)
    """
    corner, weight = _corners(labels, pictures, points)
    return (weight * (corner == classes[:, None, None])).sum(-1)
