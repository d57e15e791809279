# SPDX-License-Identifier: Apache-2.0
"""
Pretrain a small backbone: python -m training.pretrain RECIPE --objective labels --out FILE

It stands in for a foundation model where none can be had. Its result is what a recipe names as
``model.backbone.weights``. Three objectives, two of them without labels:

  labels     a linear layer on the four feature maps names the class of every 4x4 pixels
  pixels     hidden patches are painted again (masked-image modelling, after SimMIM, Xie et al.
             2022)
  gradients  the oriented gradients of hidden patches are told, from a picture whose light was
             changed (after MaskFeat, Wei et al. 2022)

Of the recipe the preset, the data, the crop and the seed are used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
import os
from pathlib import Path
import sys
import time

from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.config import SegmenterConfig
from dgtl_core.data.catalog import join
from dgtl_core.learning.batches import Batch, batches, cached
from dgtl_core.learning.optim import learning_rate, OptimConfig
from dgtl_core.learning.recipe import read_recipe
from dgtl_core.model.vit import Backbone
from safetensors.torch import save_file
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm

STRIDE = 4  # of the labels that are learned, pixels
REPORT_EVERY = 20  # steps between two lines of the log


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


class PixelObjective(nn.Module):
    """Mean absolute error of the hidden patches, painted from the last feature map."""

    HIDDEN = 0.6  # share of the patches

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.patch = config.backbone.patch_size
        self.paint = nn.Conv2d(config.backbone.sizes[0], 3 * self.patch ** 2, 1)

    def forward(self, backbone: Backbone, images: Tensor, labels: Tensor) -> Tensor:
        """Shape: images (B, 3, H, W) normalised -> (); the labels are not looked at."""
        height, width = images.shape[-2:]
        grid = (height // self.patch, width // self.patch)
        hidden = _upsample(_hidden(images, grid, self.HIDDEN), self.patch)
        painted = self.paint(backbone(images * (1 - hidden))[-1])
        painted = F.pixel_shuffle(painted, self.patch).float()
        return ((painted - images).abs() * hidden).sum() / (3 * hidden.sum())


class GradientObjective(nn.Module):
    """Mean squared error of the oriented gradients of the hidden patches."""

    HIDDEN = 0.4  # share of the patches
    CELL = 8  # pixels

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.patch = config.backbone.patch_size
        cells = (self.patch // self.CELL) ** 2
        self.tell = nn.Conv2d(config.backbone.sizes[0], cells * 3 * ORIENTATIONS, 1)

    def forward(self, backbone: Backbone, images: Tensor, labels: Tensor) -> Tensor:
        """Shape: images (B, 3, H, W) normalised -> (); the labels are not looked at."""
        height, width = images.shape[-2:]
        target = F.pixel_unshuffle(
            oriented_gradients(images, self.CELL), self.patch // self.CELL)
        hidden = _hidden(images, (height // self.patch, width // self.patch), self.HIDDEN)
        told = self.tell(backbone(_relit(images) * (1 - _upsample(hidden, self.patch)))[-1])
        error = (told.float() - target).square().mean(1, keepdim=True)
        return (error * hidden).sum() / hidden.sum()


ORIENTATIONS = 9  # of 20 degrees each; a gradient and its opposite are one


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


def _hidden(images: Tensor, grid: tuple[int, int], share: float) -> Tensor:
    """Return (B, 1, h, w): 1 where a patch is hidden, else 0."""
    return (torch.rand(len(images), 1, *grid, device=images.device) < share).float()


def _upsample(cells: Tensor, times: int) -> Tensor:
    return cells.repeat_interleave(times, 2).repeat_interleave(times, 3)


OBJECTIVES = {'labels': LabelObjective, 'pixels': PixelObjective, 'gradients': GradientObjective}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.pretrain', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path)
    parser.add_argument('--objective', choices=list(OBJECTIVES), required=True)
    parser.add_argument('--out', type=Path, required=True, help='a .safetensors file')
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set transforms.crop=[128,256]')
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix != '.safetensors':
            raise ValueError(f'--out must end in .safetensors, got {options.out}')
        recipe = read_recipe(options.recipe, options.set)
        config = recipe.segmenter()
        pictures = join(recipe.data)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if recipe.cache:
            pictures = cached(pictures, options.out.parent / 'cache', recipe.workers)
        stream = batches(
            pictures, recipe.transforms, seed=recipe.seed, start=0, stop=options.steps,
            batch=options.batch, workers=recipe.workers)
        torch.manual_seed(recipe.seed)
        backbone = pretrain(config, stream, options)
        _save(options.out, backbone)
    except (ValueError, OSError) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 1
    return 0


def pretrain(
        config: SegmenterConfig, stream: Iterator[Batch], options: argparse.Namespace) -> Backbone:
    """Return the trained backbone of ``config``."""
    where = torch.device(options.device)
    backbone = Backbone(config.backbone).to(where).requires_grad_(True)
    backbone.trainable = True  # also the one that a recipe freezes later
    backbone.train()
    objective = OBJECTIVES[options.objective](config).to(where)
    modules = nn.ModuleList([backbone, objective])
    decays = [p for p in modules.parameters() if p.ndim > 1]
    others = [p for p in modules.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{'params': decays, 'weight_decay': 0.05}, {'params': others, 'weight_decay': 0.0}])
    schedule = OptimConfig(lr=options.lr, schedule='cosine', warmup=options.steps // 20)
    mean, std = (torch.tensor(x, device=where).view(3, 1, 1) for x in (config.mean, config.std))
    start, total = time.monotonic(), 0.0
    log = open(options.out.with_suffix('.jsonl'), 'a', encoding='utf-8')
    with log, tqdm(total=options.steps, unit='step', dynamic_ncols=True) as bar:
        for step, batch in enumerate(stream):
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, options.steps, schedule)
            images = (batch.images.to(where) - mean) / std
            with torch.autocast(where.type, torch.bfloat16):
                loss = objective(backbone, images, batch.labels.to(where))
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.update()
            total += float(loss.detach())
            if not torch.isfinite(loss):
                raise ValueError(f'the loss is {float(loss)} at step {step}; lower --lr')
            if (step + 1) % REPORT_EVERY == 0:
                bar.set_postfix(loss=f'{total / REPORT_EVERY:.4f}')
                print(json.dumps({
                    'step': step + 1, 'seconds': round(time.monotonic() - start, 1),
                    'loss': total / REPORT_EVERY}), file=log, flush=True)
                total = 0.0
    return backbone


def _save(path: Path, backbone: Backbone) -> None:
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        state = {key: value.detach().cpu().contiguous()
                 for key, value in backbone.vit.state_dict().items()}
        save_file(state, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


if __name__ == '__main__':
    sys.exit(main())
