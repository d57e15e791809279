# SPDX-License-Identifier: Apache-2.0
"""
Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) with plain operations.

Shape legend: B pictures, N pixels of all levels, C width, h heads, d = C / h, L levels, P points.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
import torch.nn.functional as F

Sizes = list[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Each pixel gathers a few learned points of every level."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Point the heads into eight directions, point i at a distance of i + 1 pixels."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        bias = direction[:, None, None] * steps[:, None]
        bias = bias.expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data.copy_(bias.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, values: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """
        Return the gathered values, without the residual.

        Shape: query (position added), values (B, N, C); reference (N, 2) as (x, y) in 0..1;
        sizes one (height, width) per level -> (B, N, C).
        """
        batch, count, _ = query.shape
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        # Sampling places need float32 also under autocast. The pixels come last, so that every
        # pass below runs over contiguous memory.
        wide = torch.promote_types(query.dtype, torch.float32)
        offsets = self.sampling_offsets(query).to(wide)
        offsets = offsets.view(batch, count, heads, levels, points, 2).permute(3, 0, 2, 4, 1, 5)
        weights = self.attention_weights(query).to(wide)
        weights = weights.view(batch, count, heads, levels * points).softmax(dim=-1)
        weights = weights.view(batch, count, heads, levels, points).permute(3, 0, 2, 4, 1)
        values = self.value_proj(values).to(wide)
        values = values.view(batch, count, heads, -1).permute(0, 2, 3, 1).flatten(0, 1)
        places = 2 * reference - 1
        maps = values.split([height * width for height, width in sizes], dim=2)
        result = torch.zeros((), device=query.device)
        for level, size in enumerate(sizes):
            # (B * h, P, N, 2); offsets count in pixels of the level
            grid = places + offsets[level].flatten(0, 1) * offsets.new_tensor(
                (2 / size[1], 2 / size[0]))
            sampled = F.grid_sample(
                maps[level].unflatten(2, size), grid, mode='bilinear', padding_mode='zeros',
                align_corners=False)  # (B * h, d, P, N)
            result = result + (sampled * weights[level].flatten(0, 1)[:, None]).sum(dim=2)
        result = result.view(batch, heads, -1, count).permute(0, 3, 1, 2).flatten(2)
        return self.output_proj(result.to(query.dtype))


def reference_points(sizes: Sizes, device: torch.device) -> Tensor:
    """Return the pixel centres of all levels as (x, y) in 0..1, (N, 2)."""
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid = torch.meshgrid(y, x, indexing='ij')
        points.append(torch.stack((grid[1], grid[0]), dim=-1).flatten(0, 1))
    return torch.cat(points)
