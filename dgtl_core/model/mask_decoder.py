# SPDX-License-Identifier: Apache-2.0
"""
The masked-attention decoder of Mask2Former (Cheng et al., CVPR 2022), and its predictions.

Shape legend: B pictures, Q queries, D width, K classes, H x W the mask grid (stride 4).
"""

from __future__ import annotations

from typing import NamedTuple

from dgtl_core.config import HeadConfig
from dgtl_core.model.pixel_decoder import NUM_LEVELS, sine_encoding
import torch
from torch import nn, Tensor
import torch.nn.functional as F


class MaskLogits(NamedTuple):
    """What one decoder layer predicts: an unordered set of Q (class, mask) pairs."""

    classes: Tensor  # (B, Q, K + 1), the last class means "no object"
    masks: Tensor  # (B, Q, H, W), before the sigmoid


class Attention(nn.Module):
    """Multi-head attention with one input projection, stored as torch.nn stores it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
            self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """Shape: query (B, Q, D); key, value (B, N, D); allowed (B, Q, N) bool -> (B, Q, D)."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases))
        mask = None if allowed is None else allowed[:, None]  # the same for all heads
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; layer norm after each (fact 20)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.cross_attention = Attention(dim, config.num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.decoder_feedforward)
        self.linear2 = nn.Linear(config.decoder_feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
            self, x: Tensor, position: Tensor, key: Tensor, value: Tensor,
            allowed: Tensor) -> Tensor:
        """Shape: x, position (B, Q, D); key, value (B, N, D); allowed (B, Q, N) bool."""
        x = self.norm1(x + self.cross_attention(x + position, key, value, allowed))
        x = self.norm2(x + self.self_attention(x + position, x + position, x, None))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class MaskDecoder(nn.Module):
    """Queries that look at the memories, and what each predicts before and after every layer."""

    def __init__(self, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        dim, count = config.hidden_dim, config.num_queries
        self.query_content: nn.Linear | nn.Embedding
        self.no_decay: tuple[str, ...] = ('level_embedding',)
        if config.queries == 'tokens':
            self.query_content = nn.Linear(dim, dim)
        else:
            self.query_content = nn.Embedding(count, dim)
            self.query_position = nn.Embedding(count, dim)
            self.no_decay += ('query_content', 'query_position')
        self.level_embedding = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        for parameter in self.layers.parameters():  # fact 39
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(
            self, mask_features: Tensor, memories: list[Tensor], queries: Tensor | None,
            mask_link: Tensor | None, last_only: bool = False) -> list[MaskLogits]:
        """
        Return the predictions before the first and after every layer; only the last on demand.

        Shape: mask_features (B, D, H, W); memories three of (B, D, h, w), coarse to fine; queries
        (Q, D) made from tokens, or None where they are learned here; mask_link (Q, Q).
        """
        batch = len(mask_features)
        if isinstance(self.query_content, nn.Embedding):
            position, x = self.query_position.weight, self.query_content.weight
        else:
            # Item 11: the queries are the position; the content is a projection of them.
            assert queries is not None
            position, x = queries, self.query_content(queries)
        position, x = (t.expand(batch, -1, -1) for t in (position, x))
        keys, values = self._memories(memories)
        # Resizing is linear, so the masks of a coarser grid come from resized mask features.
        coarse = [F.interpolate(
            mask_features, size=memory.shape[-2:], mode='bilinear', align_corners=False).flatten(2)
            for memory in memories]
        predictions = []
        for index in range(len(self.layers) + 1):
            last = index == len(self.layers)
            normed = self.norm(x)
            embedding = self.mask_head(normed)
            if last or not last_only:
                predictions.append(MaskLogits(
                    self.class_head(normed),
                    _masks(embedding, mask_features, mask_link)))
            if not last:
                level = index % NUM_LEVELS
                allowed = attention_mask(embedding.detach(), coarse[level].detach())
                x = self.layers[index](x, position, keys[level], values[level], allowed)
        return predictions

    def _memories(self, memories: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values per level, (B, N, D) each (fact 16)."""
        keys, values = [], []
        for level, memory in enumerate(memories):
            value = memory.flatten(2).transpose(1, 2) + self.level_embedding.weight[level]
            size = (memory.shape[-2], memory.shape[-1])
            keys.append(value + sine_encoding(size, value.shape[-1], value.device))
            values.append(value)
        return keys, values


def attention_mask(embedding: Tensor, features: Tensor) -> Tensor:
    """
    Return where each query may look: where its own mask is at least 1/2 (fact 18).

    The mask is the one before the mask link. A query without any such place may look everywhere.
    Shape: embedding (B, Q, D), features (B, D, N) -> (B, Q, N) bool.
    """
    blocked = embedding @ features < 0
    blocked = blocked & ~blocked.all(dim=-1, keepdim=True)
    return ~blocked


def semantic_scores(logits: MaskLogits, size: tuple[int, int]) -> Tensor:
    """
    Return score[c] = sum_q softmax(classes)[q, c] * sigmoid(mask)[q]; it may exceed 1 (fact 22).

    Shape: size (height, width) -> (B, K, height, width).
    """
    masks = F.interpolate(logits.masks, size=size, mode='bilinear', align_corners=False)
    masks = masks.sigmoid_()  # in place: the largest tensor of the whole network
    classes = logits.classes.softmax(dim=-1)[..., :-1]
    return torch.einsum('bqk,bqhw->bkhw', classes, masks)


def _masks(embedding: Tensor, features: Tensor, mask_link: Tensor | None) -> Tensor:
    if mask_link is not None:
        embedding = mask_link.to(embedding.dtype) @ embedding
    return (embedding @ features.flatten(2)).unflatten(2, tuple(features.shape[-2:]))
