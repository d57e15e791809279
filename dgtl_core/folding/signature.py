# SPDX-License-Identifier: Apache-2.0
"""
One small vector per picture, from which a verdict on the domain is made.

Shape legend: B pictures, K classes, C width of the encoder.
"""

from __future__ import annotations

import math

from dgtl_core.folding.prediction import Prediction
import torch
from torch import Tensor
import torch.nn.functional as F

ENTROPY = 0  # where it stands in the signature
_POOL = 4  # mask pixels a side: what is averaged needs no finer grid
_LEAST = 1e-6


def signature(found: Prediction) -> Tensor:
    """
    Pool a prediction into (B, 2 + K + C + C') float32.

    In this order: the mean entropy of the pixels (0..1), their mean largest probability, the mean
    probability of each class, and the patch features of a middle and of the last block, each
    averaged over the picture and then of length 1: Mahalanobis distances need that (Mueller and
    Hein, Mahalanobis++, 2025).
    """
    probabilities = _coarse_probabilities(found)  # (B, K, n)
    entropy = -(probabilities * (probabilities + _LEAST).log()).sum(dim=1).mean(dim=-1)
    largest = probabilities.amax(dim=1).mean(dim=-1)
    shares = probabilities.mean(dim=-1)
    features = [F.normalize(part.float().mean(dim=1), dim=-1)
                for part in (found.middle, found.last)]
    scale = 1 / math.log(max(shares.shape[1], 2))
    return torch.cat((torch.stack((entropy * scale, largest), dim=1), shares, *features), dim=1)


def _coarse_probabilities(found: Prediction) -> Tensor:
    """Distributions over the classes on a coarser grid than that of the masks, (B, K, n)."""
    side = min(_POOL, *found.masks.shape[2:])
    masks = F.avg_pool2d(found.masks.float(), side).flatten(2)
    if found.classes is None:
        return masks.softmax(dim=1)
    classes = found.classes.float().softmax(dim=-1)[..., :-1].transpose(1, 2)
    scores = classes @ masks.sigmoid()
    return scores / scores.sum(dim=1, keepdim=True).clamp_min(_LEAST)
