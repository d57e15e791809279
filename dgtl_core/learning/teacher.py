# SPDX-License-Identifier: Apache-2.0
"""
Distillation: a trained segmenter tells a student what it sees (Hinton et al. 2015).

Shape legend: B pictures, K classes, h x w a mask grid, C width of a backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dgtl_core.classes import ClassSet
from dgtl_core.learning.losses import log_shares
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter
import torch
from torch import Tensor
import torch.nn.functional as F

FEATURES = 1024  # patches that features are compared of; of a finer grid, means of 2 x 2


class Said(NamedTuple):
    """What a segmenter says of pictures."""

    log_shares: Tensor  # (B, K, h, w), the log of the share of each class
    features: Tensor  # (B, C, h', w'), of the last block of its backbone


class Teacher:
    """
    A checkpoint that looks at clean pictures and never learns; any head, any backbone.

    :raises ModelError: no checkpoint of ours.
    :raises ValueError: it knows other classes than those to learn.
    """

    def __init__(self, path: Path, classes: ClassSet, device: torch.device) -> None:
        self.model, config = load_segmenter(path)
        if config.classes.names != classes.names:
            raise ValueError(
                f'the teacher {path} knows the classes {", ".join(config.classes.names)}; the '
                f'data have {", ".join(classes.names)}: take a teacher that was trained on the '
                'same classes in the same order')
        self.model.to(device).requires_grad_(False)
        self.normalize = Normalization(config).to(device)
        if config.backbone.stem == 'conv':
            self.model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def look(self, pictures: Tensor) -> Said:
        """
        Say what is in pictures, (B, 3, H, W) uint8.

        :raises ValueError: a size that the teacher's backbone does not take.
        """
        with last_features(self.model) as features:
            logits = self.model.predict(self.normalize(pictures))
        return Said(log_shares(logits, fixed=self.model.config.head.fixed),
                    as_grid(features[0], self.model, pictures))


@contextmanager
def last_features(model: Segmenter) -> Iterator[list[Tensor]]:
    """Collect what the last block of the backbone gives in each call, (B, ... + h w, C)."""
    found: list[Tensor] = []
    backbone = model.backbone
    hook = backbone.vit.blocks[backbone.out_indices[-1]].register_forward_hook(
        lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        hook.remove()


def as_grid(features: Tensor, model: Segmenter, pictures: Tensor) -> Tensor:
    """Return the patches, which stand last, as a map. Shape: (B, ... + h w, C) -> (B, C, h, w)."""
    grid = model.backbone.grid_of((pictures.shape[-2], pictures.shape[-1]))
    return features[:, -grid[0] * grid[1]:].transpose(1, 2).unflatten(2, grid)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """
    Return T^2 KL(teacher || student), both softened by the temperature T, the mean of the pixels.

    T^2 keeps the gradient's size. Shares of another grid are interpolated to the student's.
    Shape: (B, K, h, w), (B, K, h', w'), logs of shares -> ()
    """
    teacher = _resized(teacher, student)
    given, taken = ((x / temperature).log_softmax(1) for x in (teacher, student))
    return temperature ** 2 * (given.exp() * (given - taken)).sum(1).mean()


def mask_distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """
    Return T^2 KL(teacher || student) of where each class is: a soft mask, whose sum is 1.

    Shu et al., "Channel-wise knowledge distillation for dense prediction" (ICCV 2021), of the logs
    of shares; here a class counts in a picture by the teacher's greatest share of it there, so
    that a class which it does not see teaches nothing. A small object counts as much as the road.
    Shape: (B, K, h, w), (B, K, h', w'), logs of shares -> ()
    """
    teacher = _resized(teacher, student)
    given, taken = ((x / temperature).flatten(2).log_softmax(2) for x in (teacher, student))
    weight = teacher.exp().flatten(2).amax(2)
    divergence = (given.exp() * (given - taken)).sum(2)
    return temperature ** 2 * (weight * divergence).sum() / weight.sum()


def feature_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Return the mean square difference of the cosines between any two patches of a picture.

    The pair-wise loss of Liu et al., "Structured knowledge distillation for semantic segmentation"
    (CVPR 2019). It compares no feature with another network's, so that the widths may differ and
    nothing has to be learned for it.
    Shape: (B, C, h, w), (B, C', h', w') -> ()
    """
    height, width = (min(pair) for pair in zip(student.shape[2:], teacher.shape[2:]))
    while height * width > FEATURES:
        height, width = -(-height // 2), -(-width // 2)

    def cosines(features: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(features.float(), (height, width))
        unit = F.normalize(pooled.flatten(2), dim=1)
        return unit.transpose(1, 2) @ unit

    return F.mse_loss(cosines(student), cosines(teacher))


def _resized(teacher: Tensor, student: Tensor) -> Tensor:
    """Bring a teacher's logs of shares to the student's grid."""
    if teacher.shape[2:] == student.shape[2:]:
        return teacher
    shares = F.interpolate(
        teacher.exp(), student.shape[2:], mode='bilinear', align_corners=False)
    return shares.clamp(min=1e-7).log()
