# SPDX-License-Identifier: Apache-2.0
"""
Exact re-parameterisation of a trained segmenter for inference at one picture size.

What does not depend on the picture is multiplied out: tokens, their text link and their value
projection, queries, positions, the mask link, layer scales, normalisation, pairs of matrices with
nothing between them. The numbers are those of the segmenter up to rounding.
Shape legend: B pictures, N patches, P prefix tokens, C width, M tokens, Q queries.
"""

from __future__ import annotations

import copy

from dgtl_core.folding.head import FoldedMaskDecoder, FoldedPixelDecoder
from dgtl_core.folding.light import FoldedLightHead, FoldedStem, without_layer_scale
from dgtl_core.folding.prediction import Prediction
from dgtl_core.folding.sampling import FORMS, frozen_linear, SamplingForm
from dgtl_core.model.adapter import Adapter, AllTextLink, mask_link_matrix, PresentTextLink
from dgtl_core.model.light_head import LightHead, unturned
from dgtl_core.model.mask_decoder import MaskDecoder
from dgtl_core.model.neck import BeitNeck
from dgtl_core.model.pixel_decoder import PixelDecoder
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.stem import ConvStem
from dgtl_core.model.vit import Backbone
import torch
from torch import nn, Tensor

METHODS = ('dgtl', 'rein', 'none')  # of an adapter, whose form this is
PARTS = (Adapter, AllTextLink, Backbone, BeitNeck, LightHead, MaskDecoder, nn.Identity, nn.Linear,
         PixelDecoder, PresentTextLink)


class FoldedPatches(nn.Module):
    """Pictures to tokens: normalisation, patch embedding and positions, one matrix product."""

    float32_buffers = ('mean',)

    def __init__(
            self, backbone: Backbone, grid: tuple[int, int], mean: tuple[float, ...],
            std: tuple[float, ...]) -> None:
        super().__init__()
        vit, self.grid, self.patch = backbone.vit, grid, backbone.patch_size
        conv = vit.patch_embed.proj
        position = torch.zeros(1, 1)
        self.stem: FoldedStem | None = None
        if isinstance(conv, ConvStem):
            self.stem = FoldedStem(conv, mean, std)
        else:
            weight = conv.weight.double() / torch.tensor(std).double().view(1, 3, 1, 1)
            self.project = frozen_linear(weight.permute(0, 2, 3, 1).flatten(1), None)
            # The mean is not in the bias: in 16 bits their difference would be lost.
            self.register_buffer('mean', torch.tensor(mean).repeat(self.patch ** 2))
            position = position if conv.bias is None else conv.bias[None]
        prefix = [token[0] for token in (getattr(vit, 'cls_token', None),
                                         getattr(vit, 'reg_token', None)) if token is not None]
        embedding = backbone.position_embedding(grid)
        if embedding is not None:
            count = 0 if vit.no_embed_class else vit.num_prefix_tokens
            if count:
                prefix = [torch.cat(prefix) + embedding[0, :count]]
            position = position + embedding[0, count:]
        self.register_buffer('position', position.detach().clone())  # (N or 1, C)
        self.register_buffer('prefix', torch.cat(prefix).detach().clone() if prefix else None)
        self.norm = vit.norm_pre

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Shape: (B, H, W, 3) uint8 or float 0..255 -> (B, P + N, C), a stem's finer maps."""
        x, finer = self._patches(pictures) if self.stem is None else self.stem(pictures)
        x = x.to(self.position.dtype) + self.position
        if self.prefix is not None:
            x = torch.cat((self.prefix.expand(x.shape[0], -1, -1), x), dim=1)
        return self.norm(x), finer

    def float32_layers(self, precision: str) -> list[nn.Module]:
        """Return what 16 bits would spoil: a pixel has as many digits as a bfloat16."""
        return [] if self.stem is not None else [self.project]

    def _patches(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        (height, width), patch = self.grid, self.patch
        x = pictures.float()  # first of all: TensorRT transposes no uint8
        if pictures.shape[1:3] != (height * patch, width * patch):
            x = x[:, :height * patch, :width * patch]  # the rest of a patch is not seen
        x = x.reshape(-1, height, patch, width, patch * 3).transpose(2, 3)
        x = x.reshape(-1, height * width, patch * patch * 3) - self.mean
        return self.project(x), []


class FoldedLink(nn.Module):
    """
    The feature link of one block (fact 8) with two constants per block and one shared matrix.

    P = softmax(f K^T); f <- f + P V + f A^T, with K = t / sqrt(C),
    V = scale (W2 v + b2), v = W1 t + b1 (0 for token 0), A = scale W2.
    b2 is in V because every row of P sums to 1.
    """

    def __init__(
            self, output: tuple[Tensor, Tensor], tokens: Tensor, values: Tensor, mix: nn.Linear,
            prefix: int, count: int) -> None:
        """:param output: A and scale b2, as :meth:`Adapter.output` gives them."""
        super().__init__()
        matrix, bias = output
        self.key = frozen_linear(tokens.double() * tokens.shape[1] ** -0.5, None)
        self.value = frozen_linear((values.double() @ matrix.T + bias).T, None)
        self.mix = mix
        # Item 4: class and register tokens pass through unchanged.
        patches = torch.ones(prefix + count, 1)
        patches[:prefix] = 0
        self.register_buffer('patches', patches if prefix else None)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, P + N, C) -> (B, P + N, C)."""
        share = self.key(x).softmax(dim=-1, dtype=torch.float32).to(x.dtype)
        delta = self.value(share) + self.mix(x)
        return x + (delta if self.patches is None else delta * self.patches)


class FoldedSegmenter(nn.Module):
    """A segmenter for inference at one size; make it with :func:`fold`."""

    float32_buffers = ('rope', 'joined_rope')

    def __init__(
            self, segmenter: Segmenter, size: tuple[int, int], form: SamplingForm) -> None:
        super().__init__()
        config, backbone, adapter = segmenter.config, segmenter.backbone, segmenter.adapter
        self.config, self.size = config, size
        patch = backbone.patch_size
        self.grid = (size[0] // patch, size[1] // patch)
        self.patches = FoldedPatches(backbone, self.grid, config.mean, config.std)
        self.out_indices = backbone.out_indices
        self.prefix = backbone.vit.num_prefix_tokens
        depth, count = self.out_indices[-1] + 1, self.grid[0] * self.grid[1]
        self.blocks = nn.ModuleList(without_layer_scale(b) for b in backbone.vit.blocks[:depth])
        self.links = nn.ModuleList()
        queries, mask_link, light = None, None, segmenter.light_head
        if light is not None and light.queries != 'tokens':
            queries = light.own_queries(segmenter.texts)
        # From which block on queries stand between prefix and patches.
        self.sums_levels = light is not None and light.own is not None
        self.joined = depth if light is None or self.sums_levels else depth - light.num_blocks
        if adapter is not None:
            tokens = adapter.tokens()
            linked = adapter.linked_tokens(tokens, None)
            values = adapter.values(linked)
            output = adapter.output()
            mix = frozen_linear(output[0], None)
            if adapter.query_transform is not None:
                queries = adapter.queries(tokens)
            self.links.extend(
                FoldedLink(output, linked[i], values[i], mix,
                           self.prefix + (len(queries) if i >= self.joined else 0), count)
                for i in range(depth))
            if config.adapter.mask_link:
                mask_link = mask_link_matrix(tokens)
        rope = backbone.rope(self.grid)
        self.register_buffer('rope', rope)
        self.light_head: FoldedLightHead | None = None
        if light is not None:
            assert queries is not None
            self.register_buffer('joined_rope', unturned(rope, len(queries)))
            self.light_head = FoldedLightHead(light, queries, mask_link, self.grid)
            return
        self.pixel_decoder = FoldedPixelDecoder(
            segmenter.pixel_decoder, segmenter.neck, self.grid, form)
        self.mask_decoder = FoldedMaskDecoder(
            segmenter.mask_decoder, segmenter.pixel_decoder.mask_feature, queries, mask_link,
            self.pixel_decoder.sizes)

    def forward(self, pictures: Tensor) -> Prediction:
        """
        Return the last layer's predictions, the mask link included, and the encoder's features.

        Shape: pictures (B, H, W, 3) RGB, uint8 or float 0..255, at the size folded for.
        """
        x, finer = self.patches(pictures)
        rope, before, features, levels = self.rope, self.prefix, [], []
        for index, block in enumerate(self.blocks):
            if index == self.joined:
                assert self.light_head is not None
                x, rope = self.light_head.join(x, self.prefix), self.joined_rope
                before += len(self.light_head.queries)
            x = block(x) if rope is None else block(x, rope=rope)
            if self.links:
                x = self.links[index](x)
            if index in self.out_indices:
                features.append(x[:, before:] if before else x)
                levels += [x] * self.sums_levels
        if self.light_head is not None:
            if self.light_head.own is not None:
                x = self.light_head.join(self.light_head.own.joined(levels), self.prefix)
                x = self.light_head.own(x, self.joined_rope)
            classes, masks = self.light_head(x, finer, self.prefix)
            return Prediction(classes, masks, features[1], features[-1])
        fine, memories = self.pixel_decoder(features)
        classes, masks = self.mask_decoder(fine, memories)
        return Prediction(classes, masks, features[1], features[-1])  # four depths, evenly spread


@torch.no_grad()
def fold(segmenter: Segmenter, size: tuple[int, int],
         form: SamplingForm = 'grid_sample') -> FoldedSegmenter:
    """
    Return the inference form of a segmenter in float32; the segmenter itself is left alone.

    :param size: (height, width) of the pictures it will see.
    :param form: how the deformable attention samples, see :mod:`dgtl_core.folding.sampling`.
    :raises ValueError: a size that the backbone does not take, an unknown form, or a method that
        this would leave out.
    """
    _know_all(segmenter)
    if form not in FORMS:
        raise ValueError(f'form must be one of {list(FORMS)}, got {form!r}')
    segmenter.backbone.grid_of(size)
    source = copy.deepcopy(segmenter).float().cpu().eval()
    folded = FoldedSegmenter(source, size, form).eval()
    return folded.requires_grad_(False)


def _know_all(segmenter: Segmenter) -> None:
    """Raise ValueError where a part has no form here: without it the labels would be others."""
    method, adapter = segmenter.config.adapter.method, segmenter.adapter
    strange = [f'adapter.method {method!r}'] if method not in METHODS else []
    for prefix, owner in (('', segmenter), ('adapter.', adapter)):
        if owner is not None:
            strange += [f'the part {prefix}{name} ({type(part).__name__})'
                        for name, part in owner.named_children() if type(part) not in PARTS]
    if strange:
        raise ValueError(
            f'{" and ".join(strange)} cannot be folded for inference: fold knows the methods '
            f'{", ".join(METHODS)} and their parts; write what takes its place in '
            'dgtl_core/folding/fold.py (docs/design.md, "A method")')
