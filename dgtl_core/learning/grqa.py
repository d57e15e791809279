# SPDX-License-Identifier: Apache-2.0
"""
Group-relative query alignment (GRQA): queries are drawn to what their class looks like.

After "QPrompt-R1: real-time reasoning for domain-generalized semantic segmentation via
group-relative query alignment" (ICLR 2026, OpenReview Vttn6pCwut). It is for training alone.
Legend: B pictures, Q queries, K classes, D width of a mask embedding, h x w the mask grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dgtl_core.learning.processes import mean_over_processes
from dgtl_core.model.segmenter import Segmenter
import torch
from torch import nn, Tensor
import torch.nn.functional as F

MOMENTUM = 0.99  # of the moving averages
CLIP = 0.2  # a ratio further than this from 1 earns nothing more
KL = 0.04  # weight of the divergence from the moving average
EPS = 1e-6
HIDDEN = -1e4  # score of a class that was not seen yet


class QueryAlignment(nn.Module):
    """
    The loss, and the moving averages that it needs; they go on where a run is resumed.

    With e the pixel embeddings and q_bi the mask embedding of query i in picture b (their product
    is the mask), both divided by their lengths, and stop-gradients on P, A and q':

        f_c = mean of e over the pixels of class c;  P_c <- 0.99 P_c + 0.01 f_c
        S_bic = q_bi . P_c;  pi_bi = softmax over c of S_bi;  pi'_i the same of q'_i at length 1
        q'_i <- 0.99 q'_i + 0.01 mean over b of q_bi
        r_bi = S_bic of its greatest class c, which is its group
        A_bi = (r_bi - mean of the group) / deviation in the group
        rho_bi = pi_bi(c) / pi'_i(c)
        loss = mean over c of |f_c - P_c|^2
               - mean over b, i of min(rho A, clip(rho, 1 - 0.2, 1 + 0.2) A)
               + 0.04 mean over b, i of KL(pi_bi || pi'_i)

    Groups are of all pictures of a process. The averages begin as the first values, and a class
    takes part once it was seen. The three constants are our choice, as is usual for moving
    averages, in PPO and in GRPO; so is a moving average of the queries as the reference, which
    costs no second network.
    """

    def __init__(self, num_classes: int, num_queries: int, width: int) -> None:
        super().__init__()
        self.register_buffer('prototypes', torch.zeros(num_classes, width))
        self.register_buffer('seen', torch.zeros(num_classes))  # 1: it has a prototype
        self.register_buffer('queries', torch.zeros(num_queries, width))
        self.prototypes: Tensor
        self.seen: Tensor
        self.queries: Tensor

    @classmethod
    def of(cls, model: Segmenter) -> QueryAlignment:
        """Return the one of a model, which has seen nothing yet."""
        config, last = model.config, _sources(model)[0][-1]
        assert isinstance(last, nn.Linear)
        queries = config.num_classes if config.head.fixed else config.head.num_queries
        return cls(config.num_classes, queries, last.out_features)

    def forward(self, queries: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """
        Return the loss, and let the moving averages follow.

        With several processes the averages are those of all, the loss is each one's own.

        Shape: queries (B, Q, D); pixels (B, D, h, w); labels (B, H, W) uint8, 255 where there is
        none -> ()
        """
        queries, pixels = F.normalize(queries.float(), dim=-1), F.normalize(pixels.float(), dim=1)
        sums, counts = _of_classes(pixels, labels, len(self.seen))
        prototypes, known = self._followed(queries.detach(), sums.detach(), counts)
        shown = (counts > 0).float()
        means = sums / counts.clamp(min=1)[:, None]
        image = (shown * (means - prototypes).square().sum(1)).sum() / shown.sum().clamp(min=1)
        return image + self._query_loss(queries.flatten(0, 1), prototypes, known, len(queries))

    @torch.no_grad()
    def _followed(self, queries: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prototypes (K, D) after this batch, and which there are (K,) bool."""
        sums, counts = mean_over_processes(sums), mean_over_processes(counts)
        means = sums / counts.clamp(min=EPS)[:, None]
        step = torch.where(counts > 0, torch.where(self.seen > 0, 1 - MOMENTUM, 1.0), 0.0)
        prototypes = self.prototypes.lerp(means, step[:, None])
        mean = mean_over_processes(queries.mean(0))
        self.queries.lerp_(mean, torch.where(self.queries.any(), 1 - MOMENTUM, 1.0))
        self.prototypes.copy_(prototypes)
        self.seen.copy_(torch.maximum(self.seen, (counts > 0).float()))
        return prototypes, self.seen > 0

    def _query_loss(
            self, queries: Tensor, prototypes: Tensor, known: Tensor, batch: int) -> Tensor:
        """Shape: queries (B * Q, D), prototypes (K, D), known (K,) -> ()."""
        bias = torch.where(known, 0.0, HIDDEN)  # before the first label all are alike
        scores = queries @ prototypes.T + bias
        before = F.normalize(self.queries, dim=-1) @ prototypes.T + bias
        log_share, log_before = scores.log_softmax(-1), before.log_softmax(-1).repeat(batch, 1)
        reward, group = scores.detach().max(-1)
        advantage = _within_groups(reward, group, len(known))
        taken = (log_share - log_before).gather(1, group[:, None])[:, 0]
        ratio = taken.exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        divergence = (log_share.exp() * (log_share - log_before)).sum(-1)
        return KL * divergence.mean() - gain.mean()


def _within_groups(reward: Tensor, group: Tensor, count: int) -> Tensor:
    """Return by how many deviations of its group a reward is above the group's mean, (N,)."""
    member = F.one_hot(group, count).to(reward.dtype)  # (N, K)
    size = member.sum(0).clamp(min=1)
    centred = reward - ((reward @ member) / size)[group]
    deviation = ((centred.square() @ member) / size).sqrt()
    return centred / (deviation[group] + EPS)


def _of_classes(pixels: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the sums of pixel embeddings by class, (K, D), and their numbers, (K,)."""
    size = (pixels.shape[-2], pixels.shape[-1])
    truth = F.interpolate(labels[:, None].float(), size, mode='nearest-exact').flatten().long()
    member = F.one_hot(truth.where(truth < count, count), count + 1)[:, :count].to(pixels.dtype)
    return member.T @ pixels.permute(0, 2, 3, 1).flatten(0, 2), member.sum(0)


def _sources(model: Segmenter) -> tuple[nn.Sequential, nn.Module]:
    """Return what makes the mask embeddings, and what makes the pixel embeddings."""
    if model.light_head is not None:
        return model.light_head.mask_head, model.light_head.upscale[-1]
    return model.mask_decoder.mask_head, model.pixel_decoder.mask_feature


@contextmanager
def mask_factors(model: Segmenter) -> Iterator[dict[str, Tensor]]:
    """
    Collect what the masks of a call are products of, before the mask link.

    Shape: 'queries' (B, Q, D) and 'pixels' (B, D, h, w), of the last layer.
    """
    found: dict[str, Tensor] = {}
    hooks = [
        source.register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output}))
        for name, source in zip(('queries', 'pixels'), _sources(model), strict=True)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
