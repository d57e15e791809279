# SPDX-License-Identifier: Apache-2.0
"""
Learnable tokens and their links: to texts, to patch features and to masks (DGTL, Rein).

After Bi et al., DGTL (Knowledge-Based Systems 330, 2025), and Wei et al., Rein (CVPR 2024). Item
numbers in comments count the facts about the released code that are kept on purpose.
Shape legend: L blocks, M tokens per block, C width, K classes, D head width, N patches.
"""

from __future__ import annotations

import math

from dgtl_core.config import AdapterConfig
import torch
from torch import distributed, nn, Tensor
import torch.nn.functional as F


class PresentTextLink(nn.Module):
    """The released text link: t <- t + (t S^T) S with the ground-truth classes' texts S."""

    def __init__(self, num_classes: int, text_width: int) -> None:
        super().__init__()
        self.register_buffer('texts', torch.zeros(num_classes, text_width))
        self.texts: Tensor

    def forward(self, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """
        Link the tokens with the texts of the classes in ``labels``, while training.

        Item 7: in eval mode, and for a batch of one picture, the released code links no text. The
        batch is that of all processes, so that two of them learn what one with both parts does.
        Shape: tokens (L, M, C); labels (B, H, W), 255 = ignore -> (L, M, C).

        :raises ValueError: training without labels; on a CPU also without texts, or with a label
            that is no class. Elsewhere to look would make the host wait for the device.
        """
        if not self.training:
            return tokens
        if labels is None:
            raise ValueError(
                "text_link 'present' trains on ground-truth classes: call model(images, labels)")
        if labels.device.type == 'cpu':
            self._check(labels)
        processes = distributed.get_world_size() if _several_processes() else 1
        if len(labels) * processes == 1:
            return tokens
        present = torch.zeros(256, device=labels.device)
        present.scatter_(0, labels.flatten().long(), 1.0)
        if processes > 1:
            distributed.all_reduce(present, distributed.ReduceOp.MAX)
        # The row of an absent class is zero and adds nothing, as if it were left out.
        texts = (self.texts * present[:len(self.texts), None]).to(tokens.dtype)
        return tokens + (tokens @ texts.T) @ texts

    def texts_as_tokens(self) -> Tensor:
        """Return the texts, which are as wide as the tokens here, (K, C)."""
        return self.texts

    def _check(self, labels: Tensor) -> None:
        if not self.texts.any():
            raise ValueError(
                'training with a text link needs class texts: give text=..., or '
                'text.file in the configuration, or call set_texts')
        classes = len(self.texts)
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != 255)]
        if len(wrong):
            raise ValueError(
                f'labels must be in 0..{classes - 1} or 255, got {wrong.unique().tolist()}')


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class AllTextLink(nn.Module):
    """
    Link every token with every class, in training and at inference.

    With u_c = P s_c / |P s_c|: a = softmax over the classes of cos(t, u_c) / temperature, and
    t <- t + gain * sum_c a_c u_c. Temperature and gain are learned, and so is the projection P
    where the widths differ; else P = I.
    """

    no_decay = ('log_scale', 'gain')

    def __init__(self, num_classes: int, text_width: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer('texts', torch.zeros(num_classes, text_width))
        self.texts: Tensor
        self.project: nn.Linear | None = None
        if text_width != embed_dim:
            self.project = nn.Linear(text_width, embed_dim, bias=False)
            nn.init.xavier_normal_(self.project.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's initial value
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """Shape: tokens (L, M, C) -> (L, M, C); ``labels`` have no influence."""
        texts = F.normalize(self.texts_as_tokens(), dim=-1)
        cosine = F.normalize(tokens, dim=-1) @ texts.T
        share = (cosine * self.log_scale.exp()).softmax(dim=-1)
        return tokens + self.gain * (share @ texts)

    def texts_as_tokens(self) -> Tensor:
        """Return P s for each class, (K, C)."""
        return self.texts if self.project is None else self.project(self.texts)


class Adapter(nn.Module):
    """Tokens of all blocks; one scale and one pair of projections shared by all of them."""

    no_decay = ('tokens_a', 'tokens_b', 'tokens_full', 'scale')

    def __init__(
            self, config: AdapterConfig, embed_dim: int, depth: int, patch_size: int,
            hidden_dim: int | None, text_link: PresentTextLink | AllTextLink | None) -> None:
        """Make the tokens; ``hidden_dim`` is the width of queries made from them, or None."""
        super().__init__()
        self.text_link = text_link
        tokens, rank = config.num_tokens, config.rank
        patch = 3 * patch_size ** 2
        if rank:
            self.tokens_a = _uniform(patch + math.sqrt(embed_dim * rank), depth, tokens, rank)
            self.tokens_b = _uniform(patch + math.sqrt(embed_dim * rank), depth, rank, embed_dim)
        else:
            self.tokens_full = _uniform(patch + embed_dim, depth, tokens, embed_dim)
        self.rank = rank
        self.scale = nn.Parameter(torch.tensor(config.scale))
        self.token_value = nn.Linear(embed_dim, embed_dim)
        self.delta = nn.Linear(embed_dim, embed_dim)
        if config.zero_start:
            nn.init.zeros_(self.delta.weight)
            nn.init.zeros_(self.delta.bias)
        self.query_norm = config.query_norm
        self.query_transform: nn.Linear | None = None
        if hidden_dim is not None:
            self.query_transform = nn.Linear(embed_dim, hidden_dim)
            self.query_merge = nn.Linear(3 * hidden_dim, hidden_dim)

    def tokens(self) -> Tensor:
        """Return the learnable tokens of all blocks before any text link, (L, M, C)."""
        return self.tokens_a @ self.tokens_b if self.rank else self.tokens_full

    def linked_tokens(self, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """Return the tokens (L, M, C) after the text link; labels (B, H, W) or None."""
        return tokens if self.text_link is None else self.text_link(tokens, labels)

    def values(self, tokens: Tensor) -> Tensor:
        """
        Return what each token adds to a patch, (..., M, C), from tokens (..., M, C).

        Item 8: token 0 takes its share of the softmax but adds nothing.
        """
        values = self.token_value(tokens)
        keep = torch.ones_like(values[..., :1])
        keep[..., 0, :] = 0
        return values * keep

    def forward(self, features: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """
        Link the patch features of one block with its tokens (fact 8).

        P = softmax(f t^T / sqrt(C)); f <- f + scale (W2 (P v + f) + b2).
        Shape: features (B, N, C); tokens, values (M, C) -> (B, N, C).
        """
        share = (features @ tokens.T * features.shape[-1] ** -0.5).softmax(dim=-1)
        return features + self.scale * self.delta(share @ values + features)

    def output(self) -> tuple[Tensor, Tensor]:
        """Return scale W2 (C, C) and scale b2 (C,) of :meth:`forward` in float64, for folding."""
        scale = self.scale.double()
        return scale * self.delta.weight.double(), scale * self.delta.bias.double()

    def queries(self, tokens: Tensor) -> Tensor:
        """
        Make one query from each token's maximum, mean and last over the blocks (fact 9).

        With ``query_norm`` from tokens of unit variance. Fresh tokens are short (fact 6), so that
        as they are they make queries that are nearly equal, and those take long to part.
        Shape: tokens (L, M, C) without text -> (M, D). The three are interleaved: entry 3c + i of
        the input of ``query_merge`` is part i of channel c.
        """
        assert self.query_transform is not None
        if self.query_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        x = self.query_transform(tokens)
        return self.query_merge(torch.stack((x.amax(0), x.mean(0), x[-1]), dim=-1).flatten(1))


def mask_link_matrix(tokens: Tensor) -> Tensor:
    """
    Return I + G G^T, (M, M), with G the mean over the blocks of the tokens without text.

    Item 19: linked masks = (I + G G^T) masks over the queries. The same matrix on the mask
    embeddings gives the same masks and costs next to nothing.
    Shape: tokens (L, M, C).
    """
    mean = tokens.mean(dim=0)
    return torch.eye(len(mean), device=mean.device, dtype=mean.dtype) + mean @ mean.T


def _uniform(fan: float, *shape: int) -> nn.Parameter:
    bound = math.sqrt(6 / fan)  # fact 6
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
