# SPDX-License-Identifier: Apache-2.0
"""
The head at a fixed size: pixel decoder and mask decoder with everything constant multiplied out.

Item numbers count the facts about the released code that the unfolded modules name too.
Shape legend: B pictures, C backbone width, N pixels of a level, D head width, Q queries, h heads.
"""

from __future__ import annotations

from dgtl_core.folding.sampling import (
    base_places,
    FoldedDeformableAttention,
    frozen_linear,
    SamplingForm,
)
from dgtl_core.model.deformable_attention import Sizes
from dgtl_core.model.mask_decoder import Attention, DecoderLayer, MaskDecoder, MaskLogits
from dgtl_core.model.neck import BeitNeck
from dgtl_core.model.pixel_decoder import EncoderLayer, NUM_LEVELS, PixelDecoder, sine_encoding
import torch
from torch import nn, Tensor
import torch.nn.functional as F


class FoldedLevel(nn.Module):
    """
    Neck and input projection of one level, from tokens to a normalised map.

    Both are linear, so they become one matrix; what resizes comes after it, on fewer channels.
    """

    def __init__(
            self, projection: nn.Sequential, neck: nn.Module | None, scale: float,
            grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.scale = grid, scale
        self.norm = projection[1]
        conv = projection[0]
        weight, bias = conv.weight.double().flatten(1), conv.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
        self.hidden: nn.Linear | None = None  # one doubling with an activation after it
        self.doublings = 0
        self.pool = isinstance(neck, nn.MaxPool2d)
        up = neck
        if isinstance(neck, nn.Sequential):
            self.hidden = _with_batch_norm(neck[0], neck[1])
            self.doublings = 1
            up = neck[3]
        if isinstance(up, nn.ConvTranspose2d):
            # (C, C', 2, 2) -> rows (y, x, D): the picture's corners of every cell
            kernel = up.weight.double().permute(2, 3, 1, 0)
            bias = (weight @ up.bias.double() + bias).repeat(4)
            weight = (weight @ kernel).flatten(0, 2)
            self.doublings += 1
        self.project = frozen_linear(weight, bias if bias.any() else None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape: tokens (B, N, C) -> (B, D, h', w')."""
        height, width = self.grid
        if self.pool:
            tokens = tokens.transpose(1, 2).unflatten(2, self.grid)
            tokens = F.max_pool2d(tokens, 2)
            height, width = height // 2, width // 2
            tokens = tokens.flatten(2).transpose(1, 2)
        if self.hidden is not None:
            channels = tokens.shape[-1]
            tokens = F.gelu(self.hidden(tokens)).reshape(tokens.shape[0], -1, channels)
        x = self.project(tokens)
        if self.doublings == 0:
            x = x.transpose(1, 2).unflatten(2, (height, width))
        elif self.doublings == 1:
            x = x.view(x.shape[0], height, width, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
            x = x.reshape(x.shape[0], -1, 2 * height, 2 * width)
        else:
            x = x.view(x.shape[0], height, width, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
            x = x.reshape(x.shape[0], -1, 4 * height, 4 * width)
        dtype, x = x.dtype, x.float()  # the norm sums over a whole map
        if self.scale != 1:
            # By factor, not by size: on odd sizes that samples other places.
            x = F.interpolate(
                x, scale_factor=self.scale, mode='bilinear', align_corners=False)
        return self.norm(x).to(dtype)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the map."""
        height, width = self.grid
        if self.scale != 1:  # fact 5: odd sizes floor
            return int(height * self.scale), int(width * self.scale)
        factor = 2 ** self.doublings
        return ((height // 2, width // 2) if self.pool else (height * factor, width * factor))


class FoldedEncoderLayer(nn.Module):
    """An encoder layer of the pixel decoder on constant positions."""

    def __init__(self, source: EncoderLayer, sizes: Sizes, form: SamplingForm) -> None:
        super().__init__()
        self.attention = FoldedDeformableAttention(source.attention, sizes, form)
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.linear1, self.linear2 = source.linear1, source.linear2

    def forward(self, x: Tensor, position: Tensor, places: Tensor) -> Tensor:
        """Shape: x (B, N, D), position (N, D), places as the attention takes -> (B, N, D)."""
        x = self.norm1(x + self.attention(x + position, x, places))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class FoldedPixelDecoder(nn.Module):
    """The pixel decoder without its last 1x1 convolution, which the mask embeddings take over."""

    float32_buffers = ('places',)

    def __init__(
            self, source: PixelDecoder, neck: nn.Module, grid: tuple[int, int],
            form: SamplingForm) -> None:
        super().__init__()
        parts: list[nn.Module | None] = [None] * 4
        if isinstance(neck, BeitNeck):
            parts = [neck.up4, neck.up2, None, neck.down2]
        projections = [source.lateral, *list(source.input_projections)[::-1]]
        levels = [FoldedLevel(projection, part, scale, grid)
                  for projection, part, scale in zip(projections, parts, source.scales)]
        self.fine, self.levels = levels[0], nn.ModuleList(levels[:0:-1])  # coarse to fine
        self.sizes: Sizes = [level.size for level in levels[:0:-1]]
        dim = source.level_encoding.weight.shape[1]
        position = torch.cat([
            sine_encoding(size, dim, torch.device('cpu')) + source.level_encoding.weight[index]
            for index, size in enumerate(self.sizes)])
        self.register_buffer('position', position)
        self.layers = nn.ModuleList(
            FoldedEncoderLayer(layer, self.sizes, form) for layer in source.layers)
        attention = self.layers[0].attention
        self.register_buffer(
            'places', base_places(self.sizes, attention.heads, attention.points, form))
        self.output = source.output

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """
        Return the map under the masks and the memories, coarse to fine.

        Shape: features of four blocks, each (B, N, C) -> (B, D, H, W), three of (B, N, D).
        """
        x = torch.cat([level(feature).flatten(2).transpose(1, 2)
                       for level, feature in zip(self.levels, features[:0:-1])], dim=1)
        for layer in self.layers:
            x = layer(x, self.position, self.places)
        memories = list(x.split([h * w for h, w in self.sizes], dim=1))
        finest = memories[-1].transpose(1, 2).unflatten(2, self.sizes[-1])
        conv, norm, activation = self.output
        fine = self.fine(features[0]).to(conv.weight.dtype) + F.interpolate(
            finest.to(conv.weight.dtype), size=self.fine.size, mode='bilinear',
            align_corners=False)
        fine = activation(norm(conv(fine).float()))
        return fine.to(conv.weight.dtype), memories


class FoldedDecoderLayer(nn.Module):
    """A decoder layer on constant query positions, with the softmax scale in the query."""

    def __init__(self, source: DecoderLayer, position: Tensor) -> None:
        super().__init__()
        cross, own = source.cross_attention, source.self_attention
        self.heads = cross.num_heads
        scale = (position.shape[1] // self.heads) ** -0.5
        (weight, _, _), (bias, _, _) = _in_projection(cross)
        self.query = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.query.weight = _constant(weight * scale)
        self.query_bias = _constant((position.double() @ weight.T + bias) * scale)  # (Q, D)
        self.cross_output = cross.out_proj
        (wq, wk, wv), (bq, bk, bv) = _in_projection(own)
        self.qkv = nn.Linear(weight.shape[1], 3 * weight.shape[0], bias=False)
        self.qkv.weight = _constant(torch.cat((wq * scale, wk, wv)))
        # One for each part: TensorRT-RTX 1.7 does not build a bias per query that is cut in three.
        self.own_query_bias = _constant((position.double() @ wq.T + bq) * scale)  # (Q, D)
        self.own_key_bias = _constant(position.double() @ wk.T + bk)  # (Q, D)
        self.own_value_bias = _constant(bv)  # (D,)
        self.own_output = own.out_proj
        self.norm1, self.norm2, self.norm3 = source.norm1, source.norm2, source.norm3
        self.linear1, self.linear2 = source.linear1, source.linear2

    def forward(self, x: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """Shape: x (B, Q, D); key, value (B, h, N, D / h); allowed (B, Q, N) -> (B, Q, D)."""
        query = self._heads(self.query(x) + self.query_bias)
        seen = F.scaled_dot_product_attention(query, key, value, allowed[:, None], scale=1.0)
        x = self.norm1(x + self.cross_output(seen.transpose(1, 2).flatten(2)))
        biases = (self.own_query_bias, self.own_key_bias, self.own_value_bias)
        q, k, v = (self._heads(part + bias)
                   for part, bias in zip(self.qkv(x).chunk(3, dim=-1), biases))
        seen = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        x = self.norm2(x + self.own_output(seen.transpose(1, 2).flatten(2)))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FoldedMaskDecoder(nn.Module):
    """The mask decoder with constant queries; only the last prediction is made at full size."""

    def __init__(
            self, source: MaskDecoder, mask_feature: nn.Conv2d, queries: Tensor | None,
            mask_link: Tensor | None, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes[:len(source.layers)]  # those that a layer looks at
        if isinstance(source.query_content, nn.Embedding):
            position, content = source.query_position.weight, source.query_content.weight
        else:
            assert queries is not None  # fact 11
            position, content = queries, source.query_content(queries)
        dim = position.shape[1]
        self.register_buffer('content', content.detach().clone())
        self.layers = nn.ModuleList(
            FoldedDecoderLayer(layer, position.detach()) for layer in source.layers)
        self.heads = self.layers[0].heads
        # Layers that look at one level project its memory in one product.
        self.keys, self.values = nn.ModuleList(), nn.ModuleList()
        for level, size in enumerate(self.sizes):
            embedding = source.level_embedding.weight[level].double()
            ws, bs = zip(*(_in_projection(layer.cross_attention)
                           for layer in source.layers[level::NUM_LEVELS]))
            self.keys.append(frozen_linear(
                torch.cat([w[1] for w in ws]), torch.cat([b[1] for b in bs])))
            self.values.append(frozen_linear(
                torch.cat([w[2] for w in ws]),
                torch.cat([b[2] + w[2] @ embedding for w, b in zip(ws, bs)])))
            code = sine_encoding(size, dim, torch.device('cpu')) + embedding.float()
            self.register_buffer(f'key_position_{level}', code)
        self.norm, self.class_head = source.norm, source.class_head
        last = source.mask_head[4]
        # masks = (E W + ...) x: the 1x1 convolution of the pixel decoder, applied to the
        # embeddings; the last column is what its bias adds to every pixel of a mask.
        kernel = mask_feature.weight.double().flatten(1)
        extended = torch.cat((kernel, mask_feature.bias.double()[:, None]), dim=1)
        self.mask_head = nn.Sequential(
            *source.mask_head[:4],
            frozen_linear((last.weight.double().T @ extended).T, last.bias.double() @ extended))
        self.register_buffer('mask_link', mask_link)

    def float32_layers(self, precision: str) -> list[nn.Module]:
        """Return what bfloat16 would spoil: the two last products."""
        return [self.class_head, self.mask_head[-1]] if precision == 'bf16' else []

    def forward(self, fine: Tensor, memories: list[Tensor]) -> MaskLogits:
        """Shape: fine (B, D, H, W); memories three of (B, N, D), coarse to fine."""
        batch = fine.shape[0]
        keys, values, coarse = [], [], []
        for level, (memory, size) in enumerate(zip(memories, self.sizes)):
            position = getattr(self, f'key_position_{level}')
            keys.append(self._split(self.keys[level](memory + position)))
            values.append(self._split(self.values[level](memory)))
            # Resizing is linear, so the masks of a coarser grid come from the resized map.
            coarse.append(F.interpolate(
                fine, size=size, mode='bilinear', align_corners=False).flatten(2).to(memory.dtype))
        x = self.content.expand(batch, -1, -1)
        for index, layer in enumerate(self.layers):
            level, turn = index % NUM_LEVELS, index // NUM_LEVELS
            mask = self._masks(self.mask_head(self.norm(x)), coarse[level])
            # Item 18: look where the own mask is at least 1/2; anywhere if that is nowhere.
            allowed = (mask >= 0) | (mask.amax(dim=-1, keepdim=True) < 0)
            x = layer(x, keys[level][turn], values[level][turn], allowed)
        x = self.norm(x)
        embedding = self.mask_head(x)
        if self.mask_link is not None:
            embedding = self.mask_link @ embedding
        masks = self._masks(embedding, fine.flatten(2).to(embedding.dtype))
        return MaskLogits(self.class_head(x), masks.unflatten(2, tuple(fine.shape[2:])))

    @staticmethod
    def _masks(embedding: Tensor, features: Tensor) -> Tensor:
        return embedding[..., :-1] @ features + embedding[..., -1:]

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, N, layers * D) -> one (B, h, N, D / h) per layer."""
        dim = self.content.shape[1]
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                     for part in x.split(dim, dim=2))


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().contiguous(), requires_grad=False)


def _in_projection(attention: Attention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights (D, D) and biases (D,) of query, key and value, double."""
    layer = attention.in_proj
    return layer.weight.double().chunk(3), layer.bias.double().chunk(3)


def _with_batch_norm(conv: nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Linear:
    """Return a 2x2 transposed convolution and its batch norm as rows (y, x, C)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    weight = conv.weight.double().permute(2, 3, 1, 0) * scale[:, None]
    return frozen_linear(weight.flatten(0, 2), bias.repeat(4))
