# SPDX-License-Identifier: Apache-2.0
"""
Which query answers for which class: the Hungarian assignment of Mask2Former.

Legend: L decoder layers, B pictures, Q queries, K classes, P points, M matched masks of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dgtl_core.learning.points import class_fractions, PointSource, sample_masks
from dgtl_core.model.mask_decoder import MaskLogits
import numpy as np
from scipy.optimize import linear_sum_assignment
import torch
from torch import Tensor
import torch.nn.functional as F


class NonFiniteError(FloatingPointError):
    """Predictions or losses are NaN or infinite; going on would only destroy the weights."""


class Matches(NamedTuple):
    """The matched (picture, query, class) triples, pictures in order, queries ascending."""

    pictures: Tensor  # (L, M)
    queries: Tensor  # (L, M)
    classes: Tensor  # (L, M)
    per_picture: tuple[int, ...]  # how many masks each picture has; the same in all layers


def matching_cost(
        layer: MaskLogits, labels: Tensor, points: Tensor, weights: tuple[float, float, float],
) -> Tensor:
    """
    Return the cost of giving each query each class; infinite for a class not in the picture.

    Cost = a * (-softmax probability) + b * mean binary cross-entropy + c * dice, with
    dice = 1 - (2 sum(p g) + 1) / (sum p + sum g + 1), over the points of the picture
    (Cheng et al. 2022, "Masked-attention Mask Transformer", with smoothing constant 1).

    Shape:
        labels (B, H, W); points (B, P, 2) -> (B, Q, K), on the device of the predictions
    """
    num_classes = layer.classes.shape[-1] - 1
    logits = sample_masks(layer.masks.float(), points)  # (B, Q, P)
    truth = class_fractions(labels, points, num_classes)  # (B, P, K)
    probability = logits.sigmoid()
    # the binary cross-entropy of logit x and truth t is softplus(x) - x t
    bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ truth) / points.shape[1]
    overlap = 2 * (probability @ truth) + 1
    dice = 1 - overlap / (probability.sum(-1, keepdim=True) + truth.sum(1, keepdim=True) + 1)
    of_class = layer.classes.float().softmax(-1)[..., :num_classes]
    by_class, by_mask, by_dice = weights
    cost = by_mask * bce + by_dice * dice - by_class * of_class
    return cost.masked_fill(~present_classes(labels, num_classes)[:, None], torch.inf)


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return (B, K) bool: which classes are in which picture, without waiting for the device."""
    seen = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    return seen.scatter_(1, labels.flatten(1).long(), True)[:, :num_classes]


@torch.no_grad()
def match(
        layers: Sequence[MaskLogits], labels: Tensor, points: PointSource, num_points: int,
        weights: tuple[float, float, float] = (2.0, 5.0, 5.0)) -> Matches:
    """
    Assign one query to each class of each picture, for every layer, at the least total cost.

    The costs of all layers travel to the host in one go: the only wait of a training step.

    :raises NonFiniteError: the predictions hold a NaN.
    """
    batch = len(labels)
    drawn = torch.stack([
        points('match', b, (len(layers), num_points, 2)) for b in range(batch)], 1)
    costs = torch.stack([
        matching_cost(layer, labels, p, weights) for layer, p in zip(layers, drawn, strict=True)])
    return assign(costs.cpu().numpy(), labels.device)


def assign(costs: np.ndarray, device: torch.device) -> Matches:
    """
    Solve the assignments of all layers and pictures; infinite columns are absent classes.

    Shape:
        costs (L, B, Q, K) -> Matches on the device
    """
    if np.isnan(costs).any():
        raise NonFiniteError('the predictions are not finite')
    present = np.isfinite(costs[0]).any(1)  # (B, K)
    triples, per_picture = [], []
    for b in range(costs.shape[1]):
        classes = np.flatnonzero(present[b])
        for layer in range(len(costs)):
            query, column = linear_sum_assignment(costs[layer, b][:, classes])
            triples.append(np.stack([np.full_like(query, b), query, classes[column]]))
        per_picture.append(triples[-1].shape[1])
    rows = [np.concatenate(triples[layer::len(costs)], 1) for layer in range(len(costs))]
    pictures, queries, of_class = torch.from_numpy(np.stack(rows, 1)).to(device, non_blocking=True)
    return Matches(pictures, queries, of_class, tuple(per_picture))
