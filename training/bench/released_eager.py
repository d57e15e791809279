# SPDX-License-Identifier: Apache-2.0
"""
A segmenter in the form that the released codes run: the same weights and numbers, all their work.

For timing against it; nothing else uses it. It is written from what the released codes compute,
operation by operation, and nothing in it is slower than it has to be in that form: ten predictions
at full size, each with its mask link as two products over the whole mask grid; tokens multiplied
out and projected in every block; maps resized before they are projected; all samples of the
deformable attention kept until one weighted sum; windows one by one. Item numbers count the facts
about the released code that the other modules name too.

Two things depend on the device. Attention is written out on a CPU and fused on a GPU: there the
released code has xformers, which has no kernel for a CPU. And the deformable attention is the form
that mmcv falls back to on a CPU; on a GPU mmcv has a kernel of its own, which is not here.

Shape legend: B pictures, N patches, C width, M tokens, Q queries, D head width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
import copy
from itertools import chain

from dgtl_core.model.adapter import Adapter
from dgtl_core.model.deformable_attention import DeformableAttention, Sizes
from dgtl_core.model.mask_decoder import (
    Attention,
    DecoderLayer,
    MaskDecoder,
    MaskLogits,
    semantic_scores,
)
from dgtl_core.model.neck import BeitNeck
from dgtl_core.model.pixel_decoder import NUM_LEVELS, sine_encoding
from dgtl_core.model.segmenter import Segmenter, slide
import torch
from torch import nn, Tensor
import torch.nn.functional as F


class ReleasedLink(nn.Module):
    """The feature link of one block, from the factors of its tokens (facts 6 and 8)."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, block: int, features: Tensor) -> Tensor:
        """Shape: features (B, N, C) -> (B, N, C)."""
        adapter = self.adapter
        tokens = (adapter.tokens_a[block] @ adapter.tokens_b[block] if adapter.rank
                  else adapter.tokens_full[block])
        tokens = adapter.linked_tokens(tokens[None], None)[0]
        share = (features @ tokens.T * features.shape[-1] ** -0.5).softmax(dim=-1)
        delta = share[..., 1:] @ adapter.token_value(tokens[1:])  # token 0 adds nothing
        return features + adapter.scale * adapter.delta(delta + features)


class ReleasedSampling(nn.Module):
    """Deformable attention that keeps all samples, then sums them (fact 14)."""

    def __init__(self, source: DeformableAttention) -> None:
        super().__init__()
        self.source = source

    def forward(self, query: Tensor, values: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Shape: query, values (B, N, D); reference (N, 2) -> (B, N, D)."""
        source = self.source
        batch, count, _ = query.shape
        heads, levels, points = source.num_heads, source.num_levels, source.num_points
        values = source.value_proj(values).view(batch, count, heads, -1)
        offsets = source.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
        shares = source.attention_weights(query).view(batch, count, heads, levels * points)
        shares = shares.softmax(dim=-1)
        extent = offsets.new_tensor([(width, height) for height, width in sizes])
        places = 2 * (reference[:, None, None, None] + offsets / extent[:, None]) - 1
        sampled = []
        maps = values.split([height * width for height, width in sizes], dim=1)
        for level, size in enumerate(sizes):
            level_map = maps[level].flatten(2).transpose(1, 2).reshape(batch * heads, -1, *size)
            grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * h, N, P, 2)
            sampled.append(F.grid_sample(
                level_map, grid, mode='bilinear', padding_mode='zeros', align_corners=False))
        shares = shares.transpose(1, 2).reshape(batch * heads, 1, count, levels * points)
        result = (torch.stack(sampled, dim=-2).flatten(-2) * shares).sum(dim=-1)
        return source.output_proj(result.view(batch, -1, count).transpose(1, 2))


class ReleasedMaskLink(nn.Module):
    """The mask link as two products over the mask grid, C channels between them (fact 19)."""

    def forward(self, masks: Tensor, mean: Tensor) -> Tensor:
        """Shape: masks (B, Q, H, W), mean (Q, C) -> (B, Q, H, W)."""
        between = torch.einsum('qc,bqhw->bchw', mean, masks)
        return masks + torch.einsum('qc,bchw->bqhw', mean, between)


class ReleasedDecoderLayer(nn.Module):
    """One layer of the mask decoder, with the length first as torch's attention takes it."""

    def __init__(self, source: DecoderLayer) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor,
                blocked: Tensor) -> Tensor:
        """Shape: x, position (Q, B, D); key, value (N, B, D); blocked (B * h, Q, N) bool."""
        layer = self.source
        x = layer.norm1(x + _attend(layer.cross_attention, x + position, key, value, blocked))
        x = layer.norm2(x + _attend(layer.self_attention, x + position, x + position, x, None))
        return layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))


class ReleasedMaskDecoder(nn.Module):
    """The mask decoder with a full prediction before the first and after every layer."""

    def __init__(self, source: MaskDecoder) -> None:
        super().__init__()
        self.source = source
        layers = [layer for layer in source.layers if isinstance(layer, DecoderLayer)]
        self.heads = layers[0].cross_attention.num_heads
        self.layers = nn.ModuleList(ReleasedDecoderLayer(layer) for layer in layers)
        self.link = ReleasedMaskLink()

    def forward(
            self, mask_features: Tensor, memories: Sequence[Tensor], queries: Tensor | None,
            mean: Tensor | None) -> list[MaskLogits]:
        """Shape: as :class:`MaskDecoder`; ``mean`` (Q, C), the tokens' mean over the blocks."""
        source = self.source
        if isinstance(source.query_content, nn.Embedding):
            position, x = source.query_position.weight, source.query_content.weight
        else:
            assert queries is not None
            position, x = queries, source.query_content(queries)
        # (Q, B, D), as torch's own attention takes it
        position, x = (t[:, None].expand(-1, len(mask_features), -1) for t in (position, x))
        keys, values, sizes = [], [], []
        for level, memory in enumerate(memories):
            size = (memory.shape[-2], memory.shape[-1])
            value = memory.flatten(2).permute(2, 0, 1) + source.level_embedding.weight[level]
            keys.append(value + sine_encoding(size, value.shape[-1], value.device)[:, None])
            values.append(value)
            sizes.append(size)
        predictions = []
        for index in range(len(self.layers) + 1):
            level = index % NUM_LEVELS
            normed = source.norm(x).transpose(0, 1)
            masks = torch.einsum('bqd,bdhw->bqhw', source.mask_head(normed), mask_features)
            # Item 18: of the masks before the link.
            small = F.interpolate(masks, size=sizes[level], mode='bilinear', align_corners=False)
            blocked = small.sigmoid().flatten(2) < 0.5
            blocked = blocked[:, None].repeat(1, self.heads, 1, 1).flatten(0, 1)
            blocked &= ~blocked.all(dim=-1, keepdim=True)
            predictions.append(MaskLogits(
                source.class_head(normed), masks if mean is None else self.link(masks, mean)))
            if index < len(self.layers):
                x = self.layers[index](x, position, keys[level], values[level], blocked)
        return predictions


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor,
            blocked: Tensor | None) -> Tensor:
    """Torch's own multi-head attention with its weights returned, as the released head asks."""
    found, _ = F.multi_head_attention_forward(
        query, key, value, query.shape[-1], attention.num_heads, attention.in_proj.weight,
        attention.in_proj.bias, None, None, False, 0.0, attention.out_proj.weight,
        attention.out_proj.bias, training=False, attn_mask=blocked, need_weights=True)
    return found


class ReleasedResize(nn.Module):
    """Four maps of one size to four sizes, with all their channels (fact 5)."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Shape: four of (B, C, h, w) -> four of (B, C, h * scale, w * scale)."""
        return [feature if scale == 1 else F.interpolate(
            feature, scale_factor=scale, mode='bilinear', align_corners=False)
            for feature, scale in zip(features, self.scales)]


class ReleasedSegmenter(nn.Module):
    """What the released code does with a picture; it shares the weights of a segmenter of ours."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        tensors = chain(segmenter.parameters(), segmenter.buffers())
        own = copy.deepcopy(segmenter, {id(tensor): tensor for tensor in tensors}).eval()
        self.config = own.config
        self.backbone, self.adapter = own.backbone, own.adapter
        self.link = None if own.adapter is None else ReleasedLink(own.adapter)
        self.neck = own.neck if isinstance(own.neck, BeitNeck) else ReleasedResize(
            own.pixel_decoder.scales)
        self.pixel_decoder = own.pixel_decoder
        self.pixel_decoder.scales = (1, 1, 1, 1)
        for layer in self.pixel_decoder.layers:
            if isinstance(layer.attention, DeformableAttention):
                layer.attention = ReleasedSampling(layer.attention)
        self.mask_decoder = ReleasedMaskDecoder(own.mask_decoder)

    def forward(self, images: Tensor) -> list[MaskLogits]:
        """Shape: images (B, 3, H, W), normalised -> ten predictions, as of a segmenter."""
        for block in self.backbone.vit.blocks:
            block.attn.fused_attn = images.is_cuda
        adapter, queries, mean = self.adapter, None, None
        features = self.backbone(images, self.link)
        if adapter is not None:
            tokens = adapter.tokens()
            if adapter.query_transform is not None:
                queries = adapter.queries(tokens)
            if self.config.adapter.mask_link:
                mean = tokens.mean(dim=0)
        mask_features, memories = self.pixel_decoder(self.neck(features))
        return self.mask_decoder(mask_features, memories, queries, mean)

    def scores(self, images: Tensor) -> Tensor:
        """Return the semantic scores of pictures, window by window where they are larger."""
        window, stride = self.config.input_size, self.config.window_stride
        if images.shape[-2:] == window:
            return self._window_scores(images)
        return slide(self._window_scores, images, window, stride)

    def _window_scores(self, images: Tensor) -> Tensor:
        return semantic_scores(self(images)[-1], (images.shape[-2], images.shape[-1]))
