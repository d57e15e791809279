# SPDX-License-Identifier: Apache-2.0
"""
The backbone: a vision transformer from timm, run block by block so that an adapter can act.

Shape legend: B pictures, h x w patches, N = h * w, P prefix tokens (class, registers), C width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from dgtl_core.config import BackboneConfig
from dgtl_core.model.stem import ConvStem
import timm
import torch
from torch import nn, Tensor
import torch.nn.functional as F

# (block number, patch features (B, N, C)) -> patch features (B, N, C)
Link = Callable[[int, Tensor], Tensor]

# family: timm's architectures for the sizes s, b, l; the free sizes take the last one
_TIMM = {
    'vit': {'': 'vit_base_patch16_224'},
    'dinov2': {size[0]: f'vit_{size}_patch14_dinov2.lvd142m'
               for size in ('small', 'base', 'large')},
    'dinov2-reg': {size[0]: f'vit_{size}_patch14_reg4_dinov2.lvd142m'
                   for size in ('small', 'base', 'large')},
    'dinov3': {size[0]: f'vit_{size}_patch16_dinov3.lvd1689m'
               for size in ('small', 'base', 'large')},
    'eva02': {'l': 'eva02_large_patch14_clip_224.merged2b'},
    'clip': {'b': 'vit_base_patch16_clip_quickgelu_224.openai',
             'l': 'vit_large_patch14_clip_quickgelu_224.openai'},
    'siglip2': {size[0]: f'vit_{size}_patch16_siglip_512.v2_webli' for size in ('base', 'large')},
}


def timm_name(config: BackboneConfig) -> str:
    """Return the name of timm's model (architecture.weights) behind a backbone."""
    sizes = _TIMM[config.family]
    letter = next((part for part in config.name.split('-') if part in ('s', 'b', 'l')), '')
    return sizes.get(letter) or list(sizes.values())[-1]


class Backbone(nn.Module):
    """
    A vision transformer that gives the patch features of four of its blocks.

    Where it is frozen it stays in eval mode and its parameters need no gradient.
    """

    # These names alone were written into the released rule, so that the norms inside the MLP, the
    # class token and the neck's batch norm decay.
    no_decay = ('pos_embed', 'norm1', 'norm2')

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.trainable = config.trainable
        self.positions = config.positions
        self.patch_size = config.patch_size
        self.out_indices = config.out_indices
        self.grid = (config.img_size[0] // config.patch_size,
                     config.img_size[1] // config.patch_size)
        embed_dim, depth, num_heads = config.sizes
        options: dict[str, Any] = {}
        if config.family == 'eva02':
            # Items 4 and 5 of VLTSeg: the public code has no norm inside the attention.
            options['scale_attn_inner'] = config.attn_norm
        self.vit: Any = timm.create_model(
            timm_name(config), pretrained=False, num_classes=0, global_pool='',
            img_size=config.img_size, patch_size=config.patch_size, dynamic_img_size=True,
            embed_dim=embed_dim, depth=depth, num_heads=num_heads,
            drop_path_rate=config.drop_path, **options)
        if config.family.startswith('dinov2'):
            # Never used, like ``vit.norm``; both are in the published files and their counts.
            self.vit.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        else:
            self.vit.norm = nn.Identity()
        self.finer_widths: list[int] = []  # channels of the maps finer than the patches
        if config.stem == 'conv':
            stem = ConvStem(embed_dim, config.patch_size)
            self.vit.patch_embed.proj = stem  # type: ignore[union-attr]
            self.finer_widths = stem.widths
        if not self.trainable:
            self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to train mode unless frozen."""
        return super().train(mode and self.trainable)

    def forward(self, images: Tensor, link: Link | None = None) -> list[Tensor]:
        """
        Return the patch features of the blocks ``out_indices``, after the link of each block.

        Shape: images (B, 3, H, W), normalised -> four of (B, C, h, w).

        :raises ValueError: H or W is no multiple of the patch; with positions 'fixed' (VLTSeg
            drops the rest of a patch), not as many patches as the position embedding.
        """
        grid = self.grid_of((images.shape[-2], images.shape[-1]))
        x, _ = self.embed(images)
        rope = self.rope(grid)
        count = grid[0] * grid[1]
        features = []
        for index in range(self.out_indices[-1] + 1):
            x = self.block(index, x, rope, count, link)
            if index in self.out_indices:
                features.append(x[:, -count:].transpose(1, 2).unflatten(2, grid))
        return features

    def block(self, index: int, x: Tensor, rope: Tensor | None, count: int,
              link: Link | None, seen: Tensor | None = None) -> Tensor:
        """
        Run one block, then the link of its patches.

        Item 4: what stands before the ``count`` patches passes the link by; the linked patches
        feed the next block.

        :param seen: what may look at what, (B, 1, P + count, P + count) bool; None: all at all.

        Shape: x (B, P + count, C) -> the same.
        """
        block = self.vit.blocks[index]
        if rope is None:
            x = block(x, attn_mask=seen)
        else:
            x = block(x, rope=rope, attn_mask=seen)
        if link is None:
            return x
        first, patches = x.split((x.shape[1] - count, count), dim=1)
        return torch.cat((first, link(index, patches)), dim=1)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor | None:
        """
        Return the learned position embedding for a patch grid, (1, [prefix +] h * w, C).

        None where the transformer has none (DINOv3).
        """
        embedding = cast('Tensor | None', self.vit.pos_embed)
        if embedding is None or self.positions == 'fixed' or grid == self.grid:
            return embedding
        count = 0 if self.vit.no_embed_class else self.vit.num_prefix_tokens
        prefix, patches = embedding[:, :count], embedding[:, count:]
        patches = patches.transpose(1, 2).unflatten(2, self.grid).float()
        if self.positions == 'scale':
            # Item 2: resized by scale factor, so the sampling step is 32 / (h + 0.1).
            scale = ((grid[0] + 0.1) / self.grid[0], (grid[1] + 0.1) / self.grid[1])
            patches = F.interpolate(patches, scale_factor=scale, mode='bicubic')
        else:
            patches = F.interpolate(patches, size=grid, mode='bicubic')
        patches = patches.flatten(2).transpose(1, 2).to(prefix.dtype)
        return torch.cat((prefix, patches), dim=1) if count else patches

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """
        Return how many patches (rows, columns) a picture of ``size`` (height, width) has.

        :raises ValueError: a size that this backbone does not take, see :meth:`forward`.
        """
        (height, width), patch = size, self.patch_size
        grid = (height // patch, width // patch)
        if self.positions == 'fixed':
            # facts V1, V2 and V7: the rest of a patch is dropped, only the count must match.
            if grid[0] * grid[1] != self.grid[0] * self.grid[1]:
                raise ValueError(
                    f'this backbone takes pictures of {self.grid[0] * self.grid[1]} patches '
                    f'({self.grid[0] * patch}x{self.grid[1] * patch} pixels), got '
                    f'{height}x{width}; use a sliding window or positions "size"')
        elif height % patch or width % patch:
            following = [max(-(-length // patch), 2) * patch for length in (height, width)]
            raise ValueError(
                f'height and width must be multiples of the patch ({patch}), got '
                f'{height}x{width}; the next size is {following[0]}x{following[1]}')
        if min(grid) < 2:  # the coarsest features have half as many
            raise ValueError(
                f'a picture must be at least {2 * patch}x{2 * patch}, two patches of {patch} each '
                f'way, got {height}x{width}')
        return grid

    def rope(self, grid: tuple[int, int]) -> Tensor | None:
        """Sine and cosine of the rotary position embedding, (N, 2 * head width)."""
        rope = getattr(self.vit, 'rope', None)
        if rope is None:
            return None
        # fact V7: the table of the configured grid, in flat order, whatever the shape.
        return rope.get_embed(shape=self.grid if self.positions == 'fixed' else grid)

    def embed(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """
        Return prefix and patches with their position embedding, and the stem's finer maps.

        Shape: images (B, 3, H, W) -> (B, P + N, C), and finer maps as ConvStem gives them, or
        none where patches are projected at once.

        :raises ValueError: a size that this backbone does not take, see :meth:`forward`.
        """
        vit = self.vit
        grid = self.grid_of((images.shape[-2], images.shape[-1]))
        finer: list[Tensor] = []
        x = vit.patch_embed.proj(images)
        if isinstance(x, tuple):
            x, finer = x
        x = x.flatten(2).transpose(1, 2)
        prefix = [token.expand(len(x), -1, -1)
                  for token in (getattr(vit, 'cls_token', None), getattr(vit, 'reg_token', None))
                  if token is not None]
        embedding = self.position_embedding(grid)
        if embedding is not None and vit.no_embed_class:
            x = x + embedding
        x = torch.cat((*prefix, x), dim=1) if prefix else x
        if embedding is not None and not vit.no_embed_class:
            x = x + embedding
        return vit.norm_pre(x), finer
