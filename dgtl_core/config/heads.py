# SPDX-License-Identifier: Apache-2.0
"""The two heads: Mask2Former's, and a light one inside the encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The Mask2Former head: deformable pixel decoder and masked-attention decoder."""

    kind: Literal['mask2former'] = 'mask2former'
    hidden_dim: int = 256
    num_heads: int = 8
    num_queries: int = 100
    queries: Literal['tokens', 'learned'] = 'tokens'  # made from the adapter's tokens, or free
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    num_points: int = 4  # sampled per head and level
    decoder_layers: int = 9
    decoder_feedforward: int = 2048

    @property
    def fixed(self) -> bool:
        """Whether query c stands for class c: in this head a matcher finds what each means."""
        return False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int) and value <= 0:
                raise ValueError(f'head.{item.name} must be positive, got {value}')
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise ValueError(
                f'head.hidden_dim must be a multiple of 32 (group norm) and of num_heads '
                f'({self.num_heads}), got {self.hidden_dim}')


@dataclass(frozen=True, kw_only=True)
class LightHeadConfig:
    """A head inside the encoder: queries enter its last blocks, masks are dot products."""

    kind: Literal['light'] = 'light'
    num_blocks: int = 4  # which the queries pass with the patches
    # 'last' are those of the backbone; 'own' are new ones behind it, on the sum of the features of
    # out_indices, for a backbone that stays frozen (PMT)
    blocks: Literal['last', 'own'] = 'last'
    # One query for each class, without a matcher: 'texts' from the text of the class, 'classes'
    # free, where there are no texts. Matched queries: 'tokens' from the adapter's, or 'learned'.
    queries: Literal['tokens', 'learned', 'texts', 'classes'] = 'tokens'
    num_queries: int = 100  # of 'tokens' and 'learned'
    # While it learns, a query sees the patches of its own mask alone, and block by block all of
    # them again (EoMT's mask annealing); the loss is then of every block. Inference is the same.
    annealed: bool = False
    # Widths of the steps from the patch grid to 1/4 of the picture, each twice as fine as the one
    # before; (): the backbone's own.
    upscale: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.num_blocks, self.num_queries, *self.upscale) < 1:
            raise ValueError(
                'head.num_blocks, head.num_queries and the widths in head.upscale must be '
                f'positive, got {self.num_blocks}, {self.num_queries} and {list(self.upscale)}')

    @property
    def fixed(self) -> bool:
        """Whether query c stands for class c."""
        return self.queries in ('texts', 'classes')
