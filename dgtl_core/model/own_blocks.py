# SPDX-License-Identifier: Apache-2.0
"""
Blocks of a light head's own, for an encoder that stays as it is.

After PMT (Plain Mask Transformer on a frozen encoder, CVPR 2026 workshop): features of four depths
are normalised, refined and summed, and the queries meet the patches in new blocks behind them.
Here the levels have a layer norm of their own in place of the encoder's last one, which not every
encoder has.

Shape legend: B pictures, P prefix tokens, N patches, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgtl_core.model.vit import Backbone
from timm.models.eva import EvaBlock
import torch
from torch import nn, Tensor


class OwnBlocks(nn.Module):
    """The sum of four levels, and the blocks that follow it."""

    def __init__(self, backbone: Backbone, count: int) -> None:
        """Make ``count`` blocks as wide as the backbone, and with as many heads."""
        super().__init__()
        vit = backbone.vit
        dim, attention = vit.embed_dim, vit.blocks[0].attn
        self.norm = nn.LayerNorm(dim, eps=1e-6)  # of every level
        self.levels = nn.ModuleList(Level(dim) for _ in backbone.out_indices)
        self.blocks = nn.ModuleList(
            EvaBlock(  # a plain block that can turn queries and keys; as wide inside as outside
                dim, attention.num_heads, mlp_ratio=1.0, init_values=1.0,
                num_prefix_tokens=vit.num_prefix_tokens,
                rotate_half=getattr(attention, 'rotate_half', False))
            for _ in range(count))

    def joined(self, levels: Sequence[Tensor]) -> Tensor:
        """Shape: four of (B, P + N, C), shallow to deep -> (B, P + N, C)."""
        return torch.stack([
            level(self.norm(x)) for level, x in zip(self.levels, levels, strict=True)]).sum(0)


class Level(nn.Module):
    """What is made of the features of one depth before they are summed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)  # over pictures and tokens
        self.mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, P + N, C) -> the same: (n + MLP(n)) * scale of the normalised n."""
        x = self.norm(x.flatten(0, 1)).view_as(x)
        return (x + self.mlp(x)) * self.scale
