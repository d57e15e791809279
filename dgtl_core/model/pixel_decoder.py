# SPDX-License-Identifier: Apache-2.0
"""
The pixel decoder of Mask2Former (Cheng et al., CVPR 2022): a deformable encoder and one FPN step.

Shape legend: B pictures, D head width, C backbone width, N pixels of the three encoder levels.
"""

from __future__ import annotations

import math
from typing import cast

from dgtl_core.config import HeadConfig
from dgtl_core.model.deformable_attention import DeformableAttention, reference_points, Sizes
import torch
from torch import nn, Tensor
import torch.nn.functional as F

NUM_LEVELS = 3  # the encoder works on the strides 32, 16 and 8


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward, each with residual and layer norm after."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention = DeformableAttention(
            dim, config.num_heads, NUM_LEVELS, config.num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.encoder_feedforward)
        self.linear2 = nn.Linear(config.encoder_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Shape: x (B, N, D), position (N, D), reference (N, 2) -> (B, N, D)."""
        # Item 14: the position goes into offsets and weights, not into the values.
        x = self.norm1(x + self.attention(x + position, x, reference, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class PixelDecoder(nn.Module):
    """Four feature maps in; one fine map for the masks and three memories for the queries out."""

    def __init__(
            self, config: HeadConfig, in_channels: int,
            scales: tuple[float, float, float, float] = (1, 1, 1, 1)) -> None:
        """Make the decoder; ``scales`` resize the four maps, which then may come as they are."""
        super().__init__()
        self.scales = scales
        dim = config.hidden_dim
        self.input_projections = nn.ModuleList(  # coarse to fine
            nn.Sequential(nn.Conv2d(in_channels, dim, 1), nn.GroupNorm(32, dim))
            for _ in range(NUM_LEVELS))
        self.level_encoding = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.lateral = nn.Sequential(
            nn.Conv2d(in_channels, dim, 1, bias=False), nn.GroupNorm(32, dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(32, dim), nn.ReLU())
        self.mask_feature = nn.Conv2d(dim, dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the released head does (fact 39)."""
        for module in self.input_projections.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        for module in self.layers.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        for conv in (self.lateral[0], self.output[0], self.mask_feature):
            nn.init.kaiming_uniform_(cast(Tensor, conv.weight), a=1)
        nn.init.zeros_(cast(Tensor, self.mask_feature.bias))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """
        Return the mask features and the memories, coarse to fine.

        Shape: features of stride 4, 8, 16, 32 after their scale, each (B, C, h, w) ->
        (B, D, h4, w4) and three of (B, D, h, w).
        """
        inputs, sizes = [], []
        for projection, feature, scale in zip(
                self.input_projections, features[:0:-1], self.scales[:0:-1]):
            feature = projection(_resize(feature, scale))
            inputs.append(feature.flatten(2).transpose(1, 2))
            sizes.append((feature.shape[-2], feature.shape[-1]))
        x = torch.cat(inputs, dim=1)
        dim = x.shape[-1]
        position = torch.cat([
            sine_encoding(size, dim, x.device) + self.level_encoding.weight[level]
            for level, size in enumerate(sizes)])
        reference = reference_points(sizes, x.device)
        for layer in self.layers:
            x = layer(x, position, reference, sizes)
        parts = x.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        memories = [part.unflatten(2, size) for part, size in zip(parts, sizes)]
        # A 1x1 convolution and a bilinear resize can change places: 16 times cheaper here.
        fine = self.lateral[1](_resize(self.lateral[0](features[0]), self.scales[0]))
        fine = fine + F.interpolate(
            memories[-1], size=fine.shape[-2:], mode='bilinear', align_corners=False)
        return self.mask_feature(self.output(fine)), memories


def _resize(feature: Tensor, scale: float) -> Tensor:
    """Resize bilinearly by scale factor; odd sizes floor (fact 5)."""
    if scale == 1:
        return feature
    return F.interpolate(feature, scale_factor=scale, mode='bilinear')


def sine_encoding(size: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """
    Return the sine encoding of a grid, (h * w, dim), float32: dim / 2 features of y, then of x.

    Item 13: indices start at 1, are divided by (last + 1e-6) and scaled to 2 pi; temperature
    10000; sine and cosine alternate.
    """
    half = dim // 2
    exponent = torch.arange(half, device=device, dtype=torch.float32)
    frequency = 10000 ** (2 * torch.div(exponent, 2, rounding_mode='floor') / half)
    codes = []
    for length in size:
        index = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = index / (index[-1] + 1e-6) * (2 * math.pi)
        angle = angle[:, None] / frequency
        codes.append(torch.stack(
            (angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1))
    height, width = size
    y = codes[0][:, None].expand(height, width, half)
    x = codes[1][None].expand(height, width, half)
    return torch.cat((y, x), dim=-1).flatten(0, 1)
