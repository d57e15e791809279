# SPDX-License-Identifier: Apache-2.0
"""
Groups of classes inside a graph: the probability of a group is the sum of those of its classes.

A softmax over ``log sum exp`` of the classes' logits is that sum. Where queries have classes it is
exact; where a class is a mask it is taken on a grid four times as fine as the masks'.
"""

from __future__ import annotations

from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.folding.prediction import Prediction
from dgtl_core.groups import ClassGroups
import torch
from torch import nn, Tensor
import torch.nn.functional as F

_LEAST = 1e-30  # of a sum of exponentials: nothing of a group is left beside the largest class


class Grouping(nn.Module):
    """
    Turns a prediction of K classes into one of G groups.

    Classes in no group are one more, the last: what is none of the groups may well be the most
    probable. ``rest`` is its number, None where every class is in a group.
    """

    float32_buffers = ('members',)
    members: Tensor

    def __init__(self, groups: ClassGroups, num_classes: int) -> None:
        """:param num_classes: of the model whose classes the groups are of."""
        super().__init__()
        table = torch.from_numpy(groups.group_of[:num_classes]).long()
        count = len(groups.classes)
        outside = table == IGNORE_INDEX
        self.rest = count if bool(outside.any()) else None
        table = torch.where(outside, count, table)
        members = F.one_hot(table, count + (self.rest is not None)).float()
        self.register_buffer('members', members)  # (K, G)

    def forward(self, found: Prediction) -> Prediction:
        """Shape: classes (B, Q, K + 1), masks (B, Q, h, w) -> (B, Q, G + 1), as they are; without
        classes, masks (B, K, h, w) -> (B, G, 4h, 4w)."""
        if found.classes is None:
            fine = F.interpolate(
                found.masks.float(), scale_factor=4, mode='bilinear', align_corners=False)
            rows = self._together(fine.flatten(2).transpose(1, 2)).transpose(1, 2)
            return found._replace(masks=rows.unflatten(2, tuple(fine.shape[2:])))
        classes = found.classes.float()
        return found._replace(classes=torch.cat(
            (self._together(classes[..., :-1]), classes[..., -1:]), dim=-1))

    def scores(self, scores: Tensor) -> Tensor:
        """Return the sums of scores of classes, (B, K, H, W) -> (B, G, H, W)."""
        return torch.einsum('bkhw,kg->bghw', scores, self.members)

    def labels(self, numbers: Tensor) -> Tensor:
        """Return the labels of numbers of groups, as float: 255 for the rest."""
        labels = numbers.float()
        if self.rest is not None:
            labels = torch.where(labels == self.rest, float(IGNORE_INDEX), labels)
        return labels

    def _together(self, logits: Tensor) -> Tensor:
        """Shape: (B, N, K) -> (B, N, G)."""
        largest = logits.amax(dim=-1, keepdim=True)
        sums = (logits - largest).exp() @ self.members
        return sums.clamp_min(_LEAST).log() + largest
