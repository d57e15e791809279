# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of a segmenter, and the variants that are known by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgtl_core.strict import suggestion

# name: (embed_dim, depth, num_heads) of the named variants; a family's own name leaves them free
BACKBONES: dict[str, tuple[int, int, int] | None] = {
    'vit': None, 'dinov2': None, 'dinov2-reg': None, 'dinov3': None, 'eva02': None,
    'clip': None, 'siglip2': None,
    'mini': (192, 8, 3),
    'dinov2-s': (384, 12, 6), 'dinov2-b': (768, 12, 12), 'dinov2-l': (1024, 24, 16),
    'dinov2-s-reg': (384, 12, 6), 'dinov2-b-reg': (768, 12, 12), 'dinov2-l-reg': (1024, 24, 16),
    'dinov3-s': (384, 12, 6), 'dinov3-b': (768, 12, 12), 'dinov3-l': (1024, 24, 16),
    'eva02-l': (1024, 24, 16),
    'clip-b': (768, 12, 12), 'clip-l': (1024, 24, 16),
    'siglip2-b': (768, 12, 12), 'siglip2-l': (1024, 24, 16),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """
    The vision transformer.

    ``embed_dim``, ``depth`` and ``num_heads`` belong to the names without a size ("dinov2",
    "eva02", "vit", ...); a named variant ("dinov2-l") brings its own, see :attr:`sizes`.
    """

    name: str = 'dinov2-l'
    patch_size: int = 16
    img_size: tuple[int, int] = (512, 512)  # the picture that the position embedding is made for
    embed_dim: int = 0  # 0: the variant's
    depth: int = 0
    num_heads: int = 0
    # 'conv': convolutions in place of the patch projection, whose finer maps go to a light head;
    # for a network that learns without pretraining.
    stem: Literal['patch', 'conv'] = 'patch'
    out_indices: tuple[int, ...] = (7, 11, 15, 23)  # blocks whose patch features the neck takes
    # How the position embedding follows another picture size: 'scale' is DINOv2's rule (bicubic
    # by scale factor), 'size' is plain bicubic, 'fixed' refuses (VLTSeg's code).
    positions: Literal['scale', 'size', 'fixed'] = 'scale'
    attn_norm: bool = True  # EVA02 only: the layer norm inside the attention of the CLIP tower
    drop_path: float = 0.0  # stochastic depth of the last block, linear from 0
    trainable: bool = False
    weights: str = ''  # '' random, 'timm' the published ones by name, else a file

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            raise ValueError(
                f'unknown backbone.name {self.name!r}{suggestion(self.name, BACKBONES)}')
        variant = BACKBONES[self.name]
        given = (self.embed_dim, self.depth, self.num_heads)
        if variant is None and min(given) <= 0:
            raise ValueError(
                f'backbone {self.name!r} has no size of its own: give embed_dim, depth and '
                f'num_heads (got {given}) or choose one of {_sized(self.name)}')
        if variant is not None and any(g not in (0, v) for g, v in zip(given, variant)):
            raise ValueError(
                f'backbone {self.name!r} has (embed_dim, depth, num_heads) {variant}, got {given};'
                f' leave them out, or take the family name {self.name.split("-")[0]!r}')
        embed_dim, depth, num_heads = self.sizes
        if embed_dim % num_heads:
            raise ValueError(
                f'backbone.embed_dim must be a multiple of num_heads ({num_heads}), '
                f'got {embed_dim}')
        indices = self.out_indices
        if len(indices) != 4 or list(indices) != sorted(set(indices)) or indices[0] < 0 \
                or indices[-1] >= depth:
            raise ValueError(
                f'backbone.out_indices must be four rising block numbers in 0..{depth - 1}, '
                f'got {list(indices)}')
        if self.patch_size <= 0 or min(self.img_size) < self.patch_size:
            raise ValueError(
                f'backbone.img_size must be at least one patch ({self.patch_size}), '
                f'got {list(self.img_size)}')
        if not 0 <= self.drop_path < 1:
            raise ValueError(f'backbone.drop_path must be in [0, 1), got {self.drop_path}')
        if self.stem == 'conv' and (self.patch_size not in (16, 32) or not self.trainable):
            raise ValueError(
                "backbone.stem 'conv' has no published weights and a stride of 16 or 32: set "
                f'backbone.trainable true and patch_size 16 or 32, got {self.trainable} and '
                f'{self.patch_size}')

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(embed_dim, depth, num_heads)."""
        return BACKBONES[self.name] or (self.embed_dim, self.depth, self.num_heads)

    @property
    def family(self) -> str:
        """The name without its size: vit, dinov2, dinov2-reg, dinov3, eva02, clip, siglip2."""
        if self.name == 'mini':
            return 'vit'
        return '-'.join(part for part in self.name.split('-') if part not in ('s', 'b', 'l'))


def _sized(family: str) -> list[str]:
    start = family.split('-')[0]
    sized = [name for name, sizes in BACKBONES.items() if sizes]
    return [name for name in sized if name.split('-')[0] == start] or sized
