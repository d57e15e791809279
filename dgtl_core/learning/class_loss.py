# SPDX-License-Identifier: Apache-2.0
"""
The loss of a head whose query c stands for class c: no matcher, a softmax over the classes.

Shape legend: B pictures, K classes, h x w the mask grid, s pixels of a picture for each of its.
"""

from __future__ import annotations

from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.points import PointSource
from dgtl_core.learning.processes import mean_over_processes
import torch
from torch import Tensor
import torch.nn.functional as F


def fixed_loss(
        masks: Tensor, labels: Tensor, points: PointSource, config: LossConfig,
) -> dict[str, Tensor]:
    """
    Return :func:`class_loss` at places of ``points``, with the class weights of this batch.

    With several processes the cross-entropy is that of the joint batch; dice is each one's own.

    Shape: as in :func:`class_loss` -> {'cross_entropy', 'dice'}: (), weighted
    """
    step = labels.shape[1] // masks.shape[2]
    at = torch.cat([points('random', picture, (1, 2)) for picture in range(len(labels))])
    counts = torch.zeros(256, dtype=torch.long, device=labels.device)
    flat = labels.flatten().long()
    counts = counts.scatter_add(0, flat, torch.ones_like(flat))[:masks.shape[1]]
    weights = class_weights(mean_over_processes(counts), config.rarity)
    cross_entropy, dice = class_loss(masks, labels, weights, (at * step).long())
    return {'cross_entropy': cross_entropy, 'dice': config.class_dice_weight * dice}


def class_weights(counts: Tensor, power: float = LossConfig.rarity) -> Tensor:
    """
    Return a weight for each class, frequency ** -power, with a mean of 1 over the pixels.

    Shape: counts (K,), pixels of each class -> (K,) float32.
    """
    share = (counts / counts.sum().clamp(min=1)).clamp(min=1e-6)  # the same of a mean and a sum
    weights = share ** -power
    return weights / (weights * share).sum()


def class_loss(masks: Tensor, labels: Tensor, weights: Tensor, place: Tensor) -> Tensor:
    """
    Return weighted cross-entropy, and dice over the whole batch, at one pixel of each mask cell.

    The cell's logits are interpolated to that pixel, as they are at inference, so that the mean
    over all places is the loss at full size, for 1 / s^2 of its work. The dice of a class that
    the batch does not show is left out.

    Shape:
        masks (B, K, h, w) logits; labels (B, s h, s w) uint8, 255 = unlabelled; place (B, 2)
        int64, row and column in 0..s-1 for each picture -> (2,), cross-entropy and dice

    :raises ValueError: the labels are no whole multiple of the masks.
    """
    batch, classes, height, width = masks.shape
    step = labels.shape[1] // height
    if labels.shape[1:] != (step * height, step * width):
        raise ValueError(
            f'pictures of {labels.shape[1]}x{labels.shape[2]} must be a whole multiple of the '
            f'masks, {height}x{width}, each way alike; change transforms.crop')
    rows, columns = (torch.arange(length, device=labels.device) * step + place[:, axis, None]
                     for axis, length in enumerate((height, width)))
    picture = torch.arange(batch, device=labels.device)[:, None, None]
    truth = labels[picture, rows[:, :, None], columns[:, None, :]].long()
    valid = truth < classes
    offset = ((place.float() + 0.5) / step - 0.5).view(batch, 2, 1, 1, 1)
    logits = _shift(_shift(masks.float(), offset[:, 0], 2), offset[:, 1], 3)
    log_share = logits.log_softmax(dim=1)
    safe = truth.where(valid, torch.zeros_like(truth))
    weight = weights[safe] * valid
    picked = log_share.gather(1, safe[:, None])[:, 0]
    cross_entropy = -(weight * picked).sum() / mean_over_processes(weight.sum()).clamp(min=1)
    one_hot = F.one_hot(safe, classes).permute(0, 3, 1, 2) * valid[:, None]
    share = log_share.exp() * valid[:, None]
    pixels = one_hot.sum((0, 2, 3))
    overlap = 2 * (share * one_hot).sum((0, 2, 3))
    dice = 1 - (overlap + 1) / (share.sum((0, 2, 3)) + pixels + 1)
    shown = (pixels > 0).float()
    return torch.stack((cross_entropy, (dice * shown).sum() / shown.sum().clamp(min=1)))


def _shift(x: Tensor, offset: Tensor, dim: int) -> Tensor:
    """Interpolate along ``dim``, ``offset`` (B, 1, 1, 1) in -1..1 cells away."""
    length = x.shape[dim]
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, length - 1, 1)
    before = torch.cat((first, x.narrow(dim, 0, length - 1)), dim)
    after = torch.cat((x.narrow(dim, 1, length - 1), last), dim)
    near = 1 - offset.abs()
    return x * near + before * (-offset).clamp(min=0) + after * offset.clamp(min=0)
