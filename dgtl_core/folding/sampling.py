# SPDX-License-Identifier: Apache-2.0
"""
Deformable attention at fixed level sizes, in three forms that give the same numbers.

``grid_sample`` is the shortest graph. ``gather`` reads the four neighbours by index and sums them
in one product: for engines whose GridSample is slow or wrong. ``embedding_bag`` is the same with
PyTorch's fused kernel, the fastest on a CPU, and cannot be exported.

Shape legend: B pictures, N pixels of all levels, C width, h heads, d = C / h, L levels, P points.
"""

from __future__ import annotations

from typing import get_args, Literal

from dgtl_core.model.deformable_attention import DeformableAttention, reference_points, Sizes
import torch
from torch import nn, Tensor
import torch.nn.functional as F

SamplingForm = Literal['grid_sample', 'gather', 'embedding_bag']
FORMS: tuple[str, ...] = get_args(SamplingForm)


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a float32 linear layer that holds these (out, in) and (out,) tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().contiguous(), requires_grad=False)
    return layer


def base_places(sizes: Sizes, heads: int, points: int, form: SamplingForm) -> Tensor:
    """
    Return where every pixel samples before its learned offsets, (N, L * h * P * xy) float32.

    ``grid_sample``: in -1..1. The others: in pixels of a level that has a border of one zero
    before and two after. One row is as wide as the offsets, so that they are added as they lie.
    """
    reference = reference_points(sizes, torch.device('cpu')).double()[:, None]
    if form == 'grid_sample':
        base = (2 * reference - 1).expand(-1, len(sizes), -1)
    else:
        base = reference * _sizes_xy(sizes) + 0.5
    return base[:, :, None].expand(-1, -1, heads * points, -1).flatten(1).float()


def _sizes_xy(sizes: Sizes) -> Tensor:
    return torch.tensor([(w, h) for h, w in sizes], dtype=torch.float64)


class FoldedDeformableAttention(nn.Module):
    """
    One deformable attention whose sampling positions come out of one matrix in their final unit.

    Positions are float32 whatever the precision of the rest: half a pixel of a wide picture is
    less than one step of a 16-bit float.
    """

    def __init__(
            self, source: DeformableAttention, sizes: Sizes, form: SamplingForm) -> None:
        super().__init__()
        self.form, self.sizes = form, sizes
        heads, levels, points = source.num_heads, source.num_levels, source.num_points
        self.heads, self.levels, self.points = heads, levels, points
        self.value = frozen_linear(source.value_proj.weight, source.value_proj.bias)
        self.output = frozen_linear(source.output_proj.weight, source.output_proj.bias)
        # (h, L, P, xy) -> (L, h, P, xy), so that a level is one slice
        offsets = source.sampling_offsets
        weight = offsets.weight.double().view(heads, levels, points, 2, -1).transpose(0, 1)
        bias = offsets.bias.double().view(heads, levels, points, 2).transpose(0, 1)
        if form == 'grid_sample':
            unit = 2 / _sizes_xy(sizes)
            weight = weight * unit[:, None, None, :, None]
            bias = bias * unit[:, None, None, :]
        weights = source.attention_weights
        self.positions = frozen_linear(weight.flatten(0, 3), bias.flatten())
        self.shares = frozen_linear(weights.weight, weights.bias)

    def float32_layers(self, precision: str) -> list[nn.Module]:
        """Return what 16 bits would spoil: positions."""
        return [self.positions]

    def forward(self, query: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """
        Return the gathered values, without the residual.

        Shape: query (position added), values (B, N, C); places as :func:`base_places` gives
        them -> (B, N, C).
        """
        batch, count, _ = query.shape
        heads, levels, points = self.heads, self.levels, self.points
        places = self.positions(query.float()) + places
        # (B, N, L, h, P * xy) -> (L, B * h, N, P, xy)
        places = places.view(batch, count, levels, heads, points * 2).permute(2, 0, 3, 1, 4)
        places = places.reshape(levels, batch * heads, count, points, 2)
        shares = self.shares(query).view(batch, count, heads, levels * points)
        shares = shares.softmax(dim=-1, dtype=torch.float32)
        values = self.value(values)
        sample = self._grid_sample if self.form == 'grid_sample' else self._gather
        return self.output(sample(places, shares, values).to(query.dtype))

    def _grid_sample(self, places: Tensor, shares: Tensor, values: Tensor) -> Tensor:
        batch, count, heads = shares.shape[:3]
        # (B, N, h, L * P) -> (L, B * h, 1, N, P)
        shares = shares.view(batch, count, heads, self.levels, self.points)
        shares = shares.permute(3, 0, 2, 1, 4).reshape(
            self.levels, batch * heads, 1, count, self.points)
        # (B, N, C) -> (B * h, d, N)
        values = values.float().transpose(1, 2).reshape(batch * heads, -1, count)
        maps = values.split([h * w for h, w in self.sizes], dim=2)
        total = None
        for level, size in enumerate(self.sizes):
            sampled = F.grid_sample(
                maps[level].unflatten(2, size), places[level], mode='bilinear',
                padding_mode='zeros', align_corners=False)
            part = (sampled * shares[level]).sum(dim=-1)  # (B * h, d, N)
            total = part if total is None else total + part
        assert total is not None
        return total.view(batch, -1, count).transpose(1, 2)

    def _gather(self, places: Tensor, shares: Tensor, values: Tensor) -> Tensor:
        batch, count, heads = shares.shape[:3]
        width = values.shape[2] // heads
        padded = [
            F.pad(level.unflatten(1, size), (0, 0, 1, 2, 1, 2)).flatten(1, 2)
            for level, size in zip(
                values.split([h * w for h, w in self.sizes], dim=1), self.sizes)]
        table = torch.cat(padded, dim=1)  # (B, N', C), rows of all heads of a pixel
        pixels = table.shape[1]
        indices, parts, start = [], [], 0
        # (B, N, h, L * P) -> (B * h, N, L, P)
        shares = shares.transpose(1, 2).reshape(
            batch * heads, count, self.levels, self.points)
        for level, (height, width_l) in enumerate(self.sizes):
            stride = width_l + 3
            # Anything beyond the border reads zeros, as it does one pixel beyond.
            x = places[level, ..., 0].clamp(0, width_l + 1)
            y = places[level, ..., 1].clamp(0, height + 1)
            left, top = x.floor(), y.floor()
            right, bottom = x - left, y - top
            first = (top * stride + left).to(torch.int32) + start
            indices += [first, first + 1, first + stride, first + stride + 1]
            upper, lower = shares[:, :, level] * (1 - bottom), shares[:, :, level] * bottom
            parts += [upper * (1 - right), upper * right, lower * (1 - right), lower * right]
            start += (height + 3) * stride
        index = torch.cat(indices, dim=-1)  # (B * h, N, L * 4 * P)
        share = torch.cat(parts, dim=-1)
        # Row number in a table of (B, N', h) rows of d values.
        origin = (torch.arange(batch, device=index.device, dtype=torch.int32)[:, None]
                  * (pixels * heads)
                  + torch.arange(heads, device=index.device, dtype=torch.int32))
        rows = index * heads + origin.reshape(-1, 1, 1)
        table = table.reshape(-1, width)
        if self.form == 'embedding_bag':
            result = F.embedding_bag(
                rows.flatten(0, 1), table.float(), mode='sum',
                per_sample_weights=share.flatten(0, 1))
        else:
            # Not table[rows]: that becomes GatherND, which takes int64 alone.
            picked = table.index_select(0, rows.flatten()).view(batch * heads * count, -1, width)
            result = share.flatten(0, 1)[:, None].to(table.dtype) @ picked
        result = result.view(batch, heads, count, width)
        return result.transpose(1, 2).flatten(2)
