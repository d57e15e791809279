# SPDX-License-Identifier: Apache-2.0
"""A whole segmenter: its parts, and what they must have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import Literal

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.config.adapter import AdapterConfig, TextConfig
from dgtl_core.config.backbone import BackboneConfig
from dgtl_core.config.heads import HeadConfig, LightHeadConfig


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A whole segmenter; ``mean`` and ``std`` are RGB, for pixel values 0..255."""

    name: str = 'segmenter'
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    text: TextConfig = field(default_factory=TextConfig)
    neck: Literal['interpolate', 'beit'] = 'interpolate'  # how four scales come from one
    head: HeadConfig | LightHeadConfig = field(default_factory=HeadConfig)
    classes: ClassSet = CITYSCAPES
    input_size: tuple[int, int] = (512, 512)  # of a picture, or of one sliding window
    window_stride: tuple[int, int] = (341, 341)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        adapter, head, patch = self.adapter, self.head, self.backbone.patch_size
        if min(self.input_size) < 2 * patch or self.backbone.positions != 'fixed' and any(
                length % patch for length in self.input_size):
            raise ValueError(
                f'input_size must be multiples of backbone.patch_size ({patch}), at least two '
                f'each way, got {list(self.input_size)}')
        if min(self.std) <= 0:
            raise ValueError(f'std must be positive, got {list(self.std)}')
        if min(self.window_stride) <= 0:
            raise ValueError(f'window_stride must be positive, got {list(self.window_stride)}')
        if adapter.text_link != 'off' and self.text.width <= 0:
            raise ValueError(
                f'adapter.text_link {adapter.text_link!r} needs text.width, the width of one text '
                f'embedding (1024 for RN50, 512 for ViT-B/16), got {self.text.width}')
        if adapter.text_link == 'present' and self.text.width != self.backbone.sizes[0]:
            raise ValueError(
                f"adapter.text_link 'present' multiplies tokens by texts and needs equal widths, "
                f"got text.width {self.text.width} and embed_dim {self.backbone.sizes[0]}; "
                "text_link 'all' learns a projection")
        if isinstance(head, LightHeadConfig):
            self._check_light(head)
        elif self.backbone.stem == 'conv':
            raise ValueError("backbone.stem 'conv' goes with the light head: set head.kind light")
        if head.queries == 'tokens' and adapter.method == 'none':
            raise ValueError(
                "head.queries 'tokens' needs an adapter, got adapter.method 'none'; "
                "take head.queries 'learned'")
        linked = head.queries == 'tokens' or adapter.mask_link
        if linked and head.num_queries != adapter.num_tokens:
            raise ValueError(
                f'each query belongs to one token: head.num_queries must be adapter.num_tokens '
                f'({adapter.num_tokens}), got {head.num_queries}')

    @property
    def patch_steps(self) -> int:
        """How many times a light head doubles the patch grid: at least once (EoMT)."""
        return max(1, int(math.log2(self.backbone.patch_size)) - 2)

    def _check_light(self, head: LightHeadConfig) -> None:
        depth = self.backbone.sizes[1]
        if self.backbone.out_indices[-1] != depth - 1 \
                or head.blocks == 'last' and head.num_blocks > depth:
            raise ValueError(
                f'a light head reads the last block of the backbone: backbone.out_indices must '
                f'end with {depth - 1} and head.num_blocks be at most {depth}, got '
                f'{list(self.backbone.out_indices)} and {head.num_blocks}')
        steps = self.patch_steps
        if len(head.upscale) not in (0, steps):
            raise ValueError(
                f'head.upscale must hold {steps} widths, for the steps from patches of '
                f'{self.backbone.patch_size} to 1/4 of the picture, got {list(head.upscale)}')
        if self.neck != 'interpolate':
            raise ValueError(f'a light head has no neck: leave neck out, got {self.neck!r}')
        if head.queries == 'texts' and self.adapter.text_link == 'off':
            raise ValueError(
                "head.queries 'texts' needs class texts: set adapter.text_link 'all', got 'off'; "
                "or take head.queries 'classes', which needs none")
        if head.fixed and self.adapter.mask_link:
            raise ValueError(
                f'head.queries {head.queries!r} has no tokens to link masks with: set '
                'adapter.mask_link false')

    @property
    def method(self) -> str:
        """The name that goes into a model file: dgtl, rein, vltseg, eomt or mask2former."""
        if self.adapter.method != 'none':
            return self.adapter.method
        if isinstance(self.head, LightHeadConfig):
            return 'eomt'
        return 'vltseg' if self.neck == 'beit' else 'mask2former'

    @property
    def num_classes(self) -> int:
        """How many classes, without "no object"."""
        return len(self.classes)
