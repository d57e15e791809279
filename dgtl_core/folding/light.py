# SPDX-License-Identifier: Apache-2.0
"""
The light head and the convolutional stem at a fixed size: constant queries, no batch norm.

Shape legend: B pictures, Q queries, N = h x w patches, C width.
"""

from __future__ import annotations

from typing import Any

from dgtl_core.model.light_head import FusingStep, LightHead, ScaleStep
from dgtl_core.model.own_blocks import Level, OwnBlocks
from dgtl_core.model.stem import ConvStem
import torch
from torch import nn, Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval


class FoldedStem(nn.Module):
    """Pictures to the transformer's map and the finer ones, normalisation included."""

    float32_buffers = ('mean',)

    def __init__(
            self, stem: ConvStem, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.stem = stem
        without_batch_norm(stem)
        first = stem.quarter[0]
        assert isinstance(first, nn.Conv2d)
        self.first = first
        first.weight.data /= torch.tensor(std).view(1, 3, 1, 1)
        # The mean is not in the bias: beyond the border of a picture is the mean, not black.
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1))
        self.mean: Tensor

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Shape: (B, H, W, 3) uint8 or float 0..255 -> (B, N, C), maps coarse to fine."""
        x = pictures.float().permute(0, 3, 1, 2) - self.mean
        x, finer = self.stem(x.to(self.first.weight.dtype))
        return x.flatten(2).transpose(1, 2), finer


class FoldedLightHead(nn.Module):
    """What the queries predict after the last block."""

    def __init__(self, source: LightHead, queries: Tensor, mask_link: Tensor | None,
                 grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.num_blocks = grid, source.num_blocks
        self.register_buffer('queries', queries.detach().clone())  # (Q, C)
        self.queries: Tensor
        self.norm, self.mask_head = source.norm, source.mask_head
        self.class_head = source.class_head
        self.upscale = source.upscale
        without_batch_norm(self.upscale)
        self.own = None if source.own is None else FoldedOwnBlocks(source.own)
        self.register_buffer('mask_link', mask_link)
        self.mask_link: Tensor | None

    def float32_layers(self, precision: str) -> list[nn.Module]:
        """Return what bfloat16 would spoil: the two last products."""
        last = [self.mask_head[-1], *([] if self.class_head is None else [self.class_head])]
        return last if precision == 'bf16' else []

    def join(self, x: Tensor, prefix: int) -> Tensor:
        """Put the queries between prefix and patches, (B, P + N, C) -> (B, P + Q + N, C)."""
        queries = self.queries.expand(x.shape[0], -1, -1)
        return torch.cat((x[:, :prefix], queries, x[:, prefix:]), dim=1)

    def forward(self, x: Tensor, finer: list[Tensor],
                prefix: int) -> tuple[Tensor | None, Tensor]:
        """Shape: x (B, P + Q + N, C) -> classes (B, Q, K + 1) or None, masks (B, Q, 4h, 4w)."""
        x = self.norm(x)
        end = prefix + len(self.queries)
        queries, maps = x[:, prefix:end], x[:, end:].transpose(1, 2).unflatten(2, self.grid)
        for index, step in enumerate(self.upscale):
            assert isinstance(step, (FusingStep, ScaleStep))
            maps = maps.to(step.up.weight.dtype)
            maps = step(maps, finer[index]) if isinstance(step, FusingStep) else step(maps)
        embedding = self.mask_head(queries)
        if self.mask_link is not None:
            embedding = self.mask_link.to(embedding.dtype) @ embedding
        masks = embedding.to(maps.dtype) @ maps.flatten(2)
        masks = masks.unflatten(2, tuple(maps.shape[2:]))
        return None if self.class_head is None else self.class_head(queries), masks


class FoldedOwnBlocks(nn.Module):
    """The sum of four levels without batch norm, and the blocks that follow it."""

    def __init__(self, source: OwnBlocks) -> None:
        super().__init__()
        self.norms, self.mlps, self.scales = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        for level in source.levels:
            assert isinstance(level, Level)
            self.norms.append(_joined_norm(source.norm, level.norm))
            self.mlps.append(level.mlp)
            self.scales.append(level.scale)
        self.blocks = nn.ModuleList(without_layer_scale(block) for block in source.blocks)

    def joined(self, levels: list[Tensor]) -> Tensor:
        """Shape: four of (B, P + N, C) -> (B, P + N, C)."""
        parts = []
        for norm, mlp, scale, x in zip(self.norms, self.mlps, self.scales, levels, strict=True):
            x = norm(x)
            parts.append((x + mlp(x)) * scale)
        return parts[0] + parts[1] + parts[2] + parts[3]

    def forward(self, x: Tensor, rope: Tensor | None) -> Tensor:
        """Shape: (B, P + Q + N, C) -> the same."""
        for block in self.blocks:
            x = block(x, rope=rope)
        return x


def _joined_norm(layer: nn.LayerNorm, batch: nn.BatchNorm1d) -> nn.LayerNorm:
    """Return a layer norm with the batch norm behind it, in eval mode, as its weights."""
    assert batch.running_mean is not None and batch.running_var is not None
    scale = batch.weight / (batch.running_var + batch.eps).sqrt()
    found = nn.LayerNorm(len(scale), eps=layer.eps)
    found.weight.data = layer.weight * scale
    found.bias.data = (layer.bias - batch.running_mean) * scale + batch.bias
    return found


def without_layer_scale(block: Any) -> nn.Module:
    """Multiply the layer scales of timm's block into the matrices before them, in place."""
    for scale, layer in (('1', block.attn.proj), ('2', block.mlp.fc2)):
        gamma = getattr(block, f'gamma_{scale}', None)  # EVA02, DINOv3
        if gamma is not None:
            setattr(block, f'gamma_{scale}', None)
        elif isinstance(getattr(block, f'ls{scale}', nn.Identity()), nn.Identity):
            continue
        else:
            gamma = getattr(block, f'ls{scale}').gamma
            setattr(block, f'ls{scale}', nn.Identity())
        assert isinstance(layer, nn.Linear)
        layer.weight.data = (layer.weight.double() * gamma.double()[:, None]).float()
        if layer.bias is not None:
            layer.bias.data = (layer.bias.double() * gamma.double()).float()
    assert isinstance(block, nn.Module)
    return block


def without_batch_norm(module: nn.Module) -> None:
    """Multiply every batch norm into the convolution before it, in place; in eval mode."""
    for part in [*module.modules()]:
        if not isinstance(part, nn.Sequential):
            continue
        for index, layer in enumerate(part):
            if isinstance(layer, nn.BatchNorm2d):
                convolution = part[index - 1]
                assert isinstance(convolution, nn.Conv2d)
                part[index - 1] = fuse_conv_bn_eval(convolution, layer)
                part[index] = nn.Identity()
