# SPDX-License-Identifier: Apache-2.0
"""The tokens between frozen backbone and head, and the class texts that they are linked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Learnable tokens linked to features, texts and masks."""

    method: Literal['dgtl', 'rein', 'none'] = 'dgtl'
    num_tokens: int = 100  # learnable tokens per backbone block
    rank: int = 16  # tokens are (num_tokens, rank) @ (rank, embed_dim); 0: stored in full
    # 'present': the classes in the labels, while training (released); 'all': every class, always
    text_link: Literal['off', 'present', 'all'] = 'present'
    mask_link: bool = True
    scale: float = 0.001  # initial weight of the feature link
    # Ours, for short training: the link's last projection starts at zero, so that the first step
    # sees the backbone's own features (take scale 1); queries come from normalised tokens.
    zero_start: bool = False
    query_norm: bool = False

    def __post_init__(self) -> None:
        if self.num_tokens < 2:
            raise ValueError(f'adapter.num_tokens must be at least 2, got {self.num_tokens}')
        if not 0 <= self.rank <= self.num_tokens:
            raise ValueError(
                f'adapter.rank must be in 1..num_tokens ({self.num_tokens}), or 0 for full '
                f'tokens, got {self.rank}')
        if self.method != 'dgtl' and (self.text_link != 'off' or self.mask_link):
            raise ValueError(
                f"adapter.method {self.method!r} has no text link and no mask link: set text_link "
                f"'off' and mask_link false (got {self.text_link!r}, {self.mask_link}), or take "
                "method 'dgtl'")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Class text embeddings; they live in a buffer of the model and in every checkpoint."""

    file: str = ''  # .npz made by training.embed_classes; '' leaves them for the checkpoint
    width: int = 1024  # of one embedding (RN50; ViT-B/16 has 512)
