# SPDX-License-Identifier: Apache-2.0
"""What a small backbone is pretrained to do: objectives, and the pictures for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
import re

from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.config import SegmenterConfig
from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.datasets import Pictures
from dgtl_core.learning.batches import Batch, cached
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.vit import Backbone
import numpy as np
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

STRIDE = 4  # pixels, of the labels and the colours that are learned
CELL = 8  # pixels, of a histogram of gradients
ORIENTATIONS = 9  # of 20 degrees each; a gradient and its opposite are one


class LabelObjective(nn.Module):
    """Cross-entropy of a linear classifier on all four feature maps."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.cells = (config.backbone.patch_size // STRIDE) ** 2
        width = len(config.backbone.out_indices) * config.backbone.sizes[0]
        self.classify = nn.Conv2d(width, config.num_classes * self.cells, 1)

    def forward(self, backbone: Backbone, images: Tensor, labels: Tensor) -> Tensor:
        """Shape: images (B, 3, H, W) normalised, labels (B, H, W) uint8 -> ()."""
        logits = self.classify(torch.cat(backbone(images), 1))
        logits = F.pixel_shuffle(logits, round(self.cells ** 0.5)).float()
        target = labels[:, STRIDE // 2::STRIDE, STRIDE // 2::STRIDE].long()
        return F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX)


class SceneObjective(nn.Module):
    """
    Paint the scene behind a disturbed picture: its colours, and its oriented gradients.

    Light and contrast are changed, noise is added and a part of the patches is hidden. The
    gradients do not depend on the light (after MaskFeat, Wei et al. 2022).
    """

    HIDDEN = 0.3  # share of the patches
    GRADIENTS = 4.0  # scale of the gradients, beside colours of unit deviation

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.patch = config.backbone.patch_size
        channels = 3 * (self.patch // STRIDE) ** 2 + 3 * ORIENTATIONS * (self.patch // CELL) ** 2
        self.paint = nn.Conv2d(config.backbone.sizes[0], channels, 1)
        self.normalize = Normalization(config)

    def forward(self, backbone: Backbone, images: Tensor, scenes: Tensor) -> Tensor:
        """Shape: images (B, 3, H, W) normalised, scenes (B, 3, H, W) uint8 -> ()."""
        scenes = self.normalize(scenes)
        colours = F.pixel_unshuffle(F.avg_pool2d(scenes, STRIDE), self.patch // STRIDE)
        gradients = F.pixel_unshuffle(oriented_gradients(scenes, CELL), self.patch // CELL)
        height, width = (side // self.patch for side in images.shape[-2:])
        shown = (torch.rand(len(images), 1, height, width, device=images.device) >= self.HIDDEN)
        shown = shown.float().repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        painted = self.paint(backbone(_relit(images) * shown)[-1]).float()
        return F.smooth_l1_loss(painted, torch.cat([colours, self.GRADIENTS * gradients], 1))


def oriented_gradients(images: Tensor, cell: int) -> Tensor:
    """
    Return histograms of oriented gradients (Dalal and Triggs 2005), of unit length.

    Shape:
        (B, 3, H, W) -> (B, 3 * ORIENTATIONS, H / cell, W / cell)
    """
    padded = F.pad(images, (1, 1, 1, 1), mode='replicate')
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    angle = torch.atan2(dy, dx).remainder(torch.pi) * (ORIENTATIONS / torch.pi)
    bins = angle.long().clamp(max=ORIENTATIONS - 1)
    votes = F.one_hot(bins, ORIENTATIONS) * torch.hypot(dx, dy)[..., None]  # (B, 3, H, W, bins)
    cells = F.avg_pool2d(votes.permute(0, 1, 4, 2, 3).flatten(0, 1), cell)
    cells = cells / (cells.norm(dim=1, keepdim=True) + 1e-2)  # a flat cell stays near zero
    return cells.unflatten(0, images.shape[:2]).flatten(1, 2)


def _relit(images: Tensor) -> Tensor:
    """Change light and contrast of every picture, as weather and time of day do, and add noise."""
    shape = (len(images), 1, 1, 1)
    gain = torch.empty(shape, device=images.device).uniform_(0.3, 1.3)
    shift = torch.empty(shape, device=images.device).uniform_(-1.2, 1.2)
    noise = torch.empty(shape, device=images.device).uniform_(0.0, 0.25)
    return images * gain + shift + torch.randn_like(images) * noise


class ScenePairs:
    """
    Pictures with the scene behind them; of StreetWorld it is the same street in clear weather.

    Every other picture is its own scene. Labels are not looked at.
    """

    def __init__(self, data: Sequence[str], folder: Path, workers: int) -> None:
        """:param folder: where decoded pictures are kept."""
        def opened(spec: str) -> Pictures:
            return cached(open_pictures(spec), folder, workers)

        self.parts = [
            (opened(spec), opened(re.sub(r'^streetworld:\w+', 'streetworld:clear', spec)))
            for spec in data]

    def batches(self, size: tuple[int, int], batch: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield crops of ``size`` (height, width), the scenes in place of the labels."""
        choices = np.random.default_rng(seed)
        places = [(part, index) for part, (pictures, _) in enumerate(self.parts)
                  for index in range(len(pictures))]
        for _ in range(steps):
            chosen = [places[i] for i in choices.integers(0, len(places), batch)]
            pairs = [self._pair(part, index, size, choices) for part, index in chosen]
            yield Batch(torch.stack([picture for picture, _ in pairs]),
                        torch.stack([scene for _, scene in pairs]), (), ())

    def _pair(self, part: int, index: int, size: tuple[int, int],
              choices: np.random.Generator) -> tuple[Tensor, Tensor]:
        picture, scene = (torch.from_numpy(np.array(pictures[index].image)).permute(2, 0, 1)
                          for pictures in self.parts[part])
        # an eighth more than the crop, whatever the picture's size and aspect ratio
        both = functional.resize(
            torch.stack([picture, scene]), [size[0] * 9 // 8, size[1] * 9 // 8], antialias=True)
        top, left = (int(choices.integers(0, both.shape[2 + i] - size[i] + 1)) for i in (0, 1))
        both = functional.crop(both, top, left, *size)
        if choices.random() < 0.5:
            both = functional.horizontal_flip(both)
        return both[0], both[1]
