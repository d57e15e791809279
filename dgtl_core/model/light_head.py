# SPDX-License-Identifier: Apache-2.0
"""
A head inside the encoder: queries enter its last blocks, masks are dot products with patches.

After Kerssies et al., "Your ViT is secretly an image segmentation model" (EoMT, CVPR 2025); the
blocks are the backbone's own, with the adapter's link of their patches, or new ones behind it
(:mod:`dgtl_core.model.own_blocks`). There is no pixel decoder, no deformable attention and no
attention mask. With one query made from each class's text, query c
stands for class c, and the masks are the logits of a softmax over the classes.

Shape legend: B pictures, P prefix tokens, Q queries, N = h x w patches, C width, D mask width.
"""

from __future__ import annotations

from dgtl_core.config import LightHeadConfig
from dgtl_core.model.mask_decoder import MaskLogits
from dgtl_core.model.own_blocks import OwnBlocks
from dgtl_core.model.stem import convolution
from dgtl_core.model.vit import Backbone, Link
import torch
from torch import nn, Tensor
import torch.nn.functional as F

SURE = 20.0  # class logit of a query that stands for one class


class LightHead(nn.Module):
    """Queries for the last blocks of a backbone, and what they predict after the last one."""

    no_decay = ('query_embedding',)

    def __init__(
            self, config: LightHeadConfig, backbone: Backbone, num_classes: int, text_width: int,
            steps: int) -> None:
        """
        Make the head of a backbone, whose finer maps, if it has any, are added on the way up.

        :param text_width: of one class text, for queries made from texts.
        :param steps: how many times the patch grid is doubled.
        """
        super().__init__()
        embed_dim, finer = int(backbone.vit.embed_dim), backbone.finer_widths
        self.num_blocks, self.num_classes = config.num_blocks, num_classes
        self.queries, self.annealed = config.queries, config.annealed
        if config.queries in ('learned', 'classes'):
            self.query_embedding = nn.Embedding(
                num_classes if config.fixed else config.num_queries, embed_dim)
        elif config.queries == 'texts':
            self.query_text = nn.Linear(text_width, embed_dim)
        self.own = OwnBlocks(backbone, config.num_blocks) if config.blocks == 'own' else None
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        widths = [embed_dim, *(config.upscale or (embed_dim,) * steps)]
        pairs = zip(widths[:-1], widths[1:])
        self.upscale = nn.ModuleList(
            (FusingStep(*pair, width) for pair, width in zip(pairs, finer, strict=True)) if finer
            else (ScaleStep(*pair) for pair in pairs))
        self.class_head: nn.Linear | None = None
        if not config.fixed:
            self.class_head = nn.Linear(embed_dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim),
            nn.GELU(), nn.Linear(embed_dim, widths[-1]))

    def forward(
            self, backbone: Backbone, images: Tensor, link: Link | None, queries: Tensor,
            mask_link: Tensor | None, progress: float = 1.0) -> list[MaskLogits]:
        """
        Run the backbone with the queries in its last blocks.

        :param progress: of the training, 0..1; with annealing it says how far masks are open.

        Shape: images (B, 3, H, W); queries (Q, C); mask_link (Q, Q) -> one prediction, with masks
        of 1/4 of the picture; before it one before each block, where masks are annealed.
        """
        grid = backbone.grid_of((images.shape[-2], images.shape[-1]))
        count, depth = grid[0] * grid[1], len(backbone.vit.blocks)
        x, finer = backbone.embed(images)
        rope, levels = backbone.rope(grid), []
        joined = unturned(rope, len(queries))
        alone = depth if self.own is not None else depth - self.num_blocks
        for index in range(alone):
            x = backbone.block(index, x, rope, count, link)
            if index in backbone.out_indices:
                levels.append(x)
        if self.own is not None:
            x = self.own.joined(levels)
        prefix, patches = x.split((x.shape[1] - count, count), dim=1)
        x = torch.cat((prefix, queries.to(x.dtype).expand(len(x), -1, -1), patches), dim=1)

        def predicted() -> MaskLogits:
            """Return what the queries predict from x, as it is now."""
            normed = self.norm(x)
            found, patches = normed[:, -count - len(queries):-count], normed[:, -count:]
            return self.predict(
                found, patches.transpose(1, 2).unflatten(2, grid), finer, mask_link)

        layers = []
        for number in range(self.num_blocks):
            seen = None
            if self.annealed and self.training:
                layers.append(predicted())
                chance = closed(progress, number, self.num_blocks)
                seen = visible(layers[-1].masks, grid, x.shape[1], chance) if chance else None
            if self.own is None:
                x = backbone.block(alone + number, x, joined, count, link, seen)
            else:
                x = self.own.blocks[number](x, rope=joined, attn_mask=seen)
        return [*layers, predicted()]

    def own_queries(self, texts: Tensor | None) -> Tensor:
        """Return the queries that are not made from tokens, (Q, C); texts (K, width) or None."""
        if self.queries in ('learned', 'classes'):
            return self.query_embedding.weight
        assert texts is not None
        return self.query_text(F.normalize(texts, dim=-1) * texts.shape[-1] ** 0.5)

    def predict(self, queries: Tensor, features: Tensor, finer: list[Tensor],
                mask_link: Tensor | None) -> MaskLogits:
        """Shape: queries (B, Q, C), features (B, C, h, w) -> masks of 4h x 4w."""
        for index, step in enumerate(self.upscale):
            features = step(features, finer[index]) if finer else step(features)
        embedding = self.mask_head(queries)
        if mask_link is not None:
            embedding = mask_link.to(embedding.dtype) @ embedding
        masks = (embedding @ features.flatten(2)).unflatten(2, tuple(features.shape[-2:]))
        if self.class_head is not None:
            return MaskLogits(self.class_head(queries), masks)
        own = SURE * torch.eye(self.num_classes, self.num_classes + 1, device=masks.device)
        return MaskLogits(own.expand(len(masks), -1, -1), masks)


def closed(progress: float, block: int, count: int) -> float:
    """
    Return the chance that a query sees the patches of its mask alone, in a block of ``count``.

    1 at first; in the span of its own, of the count + 2 that a run is divided into, it falls with
    the power 0.9, the earliest block first; the last span is without masks, as inference is.
    """
    start, end = ((block + i) / (count + 2) for i in (1, 2))
    return min(max((end - progress) / (end - start), 0.0), 1.0) ** 0.9


def visible(masks: Tensor, grid: tuple[int, int], length: int, chance: float) -> Tensor:
    """
    Return what may look at what: all at all, but queries at the patches of their masks alone.

    :param chance: with which that holds for a query of a picture; else it sees all.

    Shape: masks (B, Q, H, W), the patches and before them the queries stand last of ``length``
    -> (B, 1, length, length) bool
    """
    batch, queries = masks.shape[:2]
    patches = grid[0] * grid[1]
    inside = F.interpolate(masks.detach().float(), grid, mode='bilinear', align_corners=False) > 0
    free = torch.rand(batch, queries, 1, device=masks.device) >= chance
    seen = torch.ones(batch, length, length, dtype=torch.bool, device=masks.device)
    seen[:, -patches - queries:-patches, -patches:] = inside.flatten(2) | free
    return seen[:, None]


def class_scores(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """
    Return the share of every class where each query stands for one, (B, K, height, width).

    Shape: masks (B, K, h, w), logits of a softmax over the classes.
    """
    masks = F.interpolate(masks, size=size, mode='bilinear', align_corners=False)
    return masks.softmax(dim=1)


class ScaleStep(nn.Module):
    """From one grid to one twice as fine; EoMT's block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.smooth = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.norm = nn.LayerNorm(outputs, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, h, w) -> (B, D, 2h, 2w)."""
        x = self.smooth(F.gelu(self.up(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FusingStep(nn.Module):
    """From one grid to one twice as fine, where a convolutional stem has a map of that size."""

    def __init__(self, inputs: int, outputs: int, lateral: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.lateral = nn.Conv2d(lateral, outputs, 1)
        self.smooth = nn.Sequential(*convolution(outputs, outputs))

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """Shape: (B, C, h, w), (B, C', 2h, 2w) -> (B, D, 2h, 2w)."""
        return self.smooth(self.up(x) + self.lateral(finer))


def unturned(rope: Tensor | None, count: int) -> Tensor | None:
    """
    Put ``count`` rows before a rotary table, (N, sine and cosine), that turn nothing.

    Attention knows no order but that of this table, and the queries have none.
    """
    if rope is None:
        return None
    half = rope.shape[-1] // 2
    rows = torch.cat((rope.new_zeros(count, half), rope.new_ones(count, half)), dim=-1)
    return torch.cat((rows, rope))
