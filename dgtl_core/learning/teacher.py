# SPDX-License-Identifier: Apache-2.0
"""
Distillation: a trained segmenter tells a student what it sees (Hinton et al. 2015).

Shape legend: B pictures, K classes, h x w a mask grid.
"""

from __future__ import annotations

from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.learning.losses import log_shares
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.normalization import Normalization
import torch
from torch import Tensor
import torch.nn.functional as F


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

    @torch.no_grad()
    def log_shares(self, pictures: Tensor) -> Tensor:
        """
        Return the log of the share of each class. Shape: (B, 3, H, W) uint8 -> (B, K, h, w).

        :raises ValueError: a size that the teacher's backbone does not take.
        """
        logits = self.model.predict(self.normalize(pictures))
        return log_shares(logits, fixed=self.model.config.head.fixed)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """
    Return T^2 KL(teacher || student), both softened by the temperature T, the mean of the pixels.

    T^2 keeps the gradient's size. Shares of another grid are interpolated to the student's.
    Shape: (B, K, h, w), (B, K, h', w'), logs of shares -> ()
    """
    if teacher.shape[2:] != student.shape[2:]:
        shares = F.interpolate(
            teacher.exp(), student.shape[2:], mode='bilinear', align_corners=False)
        teacher = shares.clamp(min=1e-7).log()
    given, taken = ((x / temperature).log_softmax(1) for x in (teacher, student))
    return temperature ** 2 * (given.exp() * (given - taken)).sum(1).mean()
