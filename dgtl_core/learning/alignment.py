# SPDX-License-Identifier: Apache-2.0
"""
Token-text distribution alignment (TDN): the released form, and one that follows the paper's idea.

Legend: B pictures, Q queries (one for each token), K classes, C token width, N patches.
Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgtl_core.learning.processes import mean_over_processes
from dgtl_core.model.mask_decoder import MaskLogits
import torch
from torch import Tensor
import torch.nn.functional as F


def kmeans(rows: Tensor, clusters: int, iterations: int = 10, seed: int = 0) -> Tensor:
    """
    Return the centroids of Lloyd's algorithm after k-means++ seeding (Arthur, Vassilvitskii 2007).

    The number of iterations is fixed: to test for convergence would wait for the device. An empty
    cluster keeps its centroid.

    Shape:
        rows (Q, C) -> (clusters, C)
    """
    generator = torch.Generator(rows.device).manual_seed(seed)
    draws = torch.rand(clusters, generator=generator, device=rows.device)
    centroids = rows.index_select(0, (draws[:1] * len(rows)).long())
    nearest = torch.full_like(rows[:, 0], torch.inf)
    for draw in draws[1:]:
        nearest = torch.minimum(nearest, (rows - centroids[-1]).square().sum(1))
        heap = nearest.cumsum(0)
        chosen = torch.searchsorted(heap, draw[None] * heap[-1]).clamp(max=len(rows) - 1)
        centroids = torch.cat([centroids, rows.index_select(0, chosen)])
    number = torch.arange(clusters, device=rows.device)[:, None]
    for _ in range(iterations):
        member = (torch.cdist(rows, centroids).argmin(1) == number).to(rows.dtype)
        count = member.sum(1, keepdim=True)
        centroids = torch.where(count > 0, member @ rows / count.clamp(min=1), centroids)
    return centroids


def released_alignment(
        layers: Sequence[MaskLogits], tokens: Tensor, texts: Tensor,
        centroids: Tensor | None = None) -> Tensor:
    """
    Return the TDN loss of the released code.

    Each mask, resized to sqrt(C) x sqrt(C), counts as a vector x of the token width; with Z the
    centroids of K clusters of the detached tokens and T the texts the loss is the mean of
    KL(softmax(x Z^T) || softmax(x T^T)) over layers, pictures and queries. Only the masks get a
    gradient. The released code multiplies it with 0.01.

    Shape:
        tokens (Q, C): the mean over the layers; texts (K, C); centroids (K, C) to use instead of
        those of :func:`kmeans` -> ()

    :raises ValueError: C is no square number, or tokens and texts differ in width.
    """
    side = int(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1] or texts.shape[1] != tokens.shape[1]:
        raise ValueError(
            "alignment 'released' compares masks of s x s cells with tokens and texts of s * s "
            f'numbers, got widths {tokens.shape[1]} and {texts.shape[1]}; use '
            "alignment 'similarity', which has no such limit")
    if centroids is None:
        centroids = kmeans(tokens.detach().float(), len(texts))
    means = []
    for layer in layers:
        masks = layer.masks.to(torch.promote_types(layer.masks.dtype, torch.float32))
        rows = F.interpolate(masks, (side, side), mode='bilinear').flatten(2)
        of_tokens = (rows @ centroids.to(rows.dtype).T).log_softmax(-1)
        of_texts = (rows @ texts.to(rows.dtype).T).log_softmax(-1)
        means.append((of_tokens.exp() * (of_tokens - of_texts)).sum(-1).mean())
    return torch.stack(means).mean()


def similarity_alignment(
        layer: MaskLogits, features: Tensor, tokens: Tensor, texts: Tensor,
        temperature: float = 0.1) -> Tensor:
    """
    Return our reading of the paper's TDN: what tokens and texts say about the same pixels agrees.

    With f_n the patch features, m_q the masks and p(q, k) the class probabilities of the last
    decoder layer, g_q the tokens and t_k the texts in token width,

        v_q = sum_n sigmoid(m_qn) f_n / sum_n sigmoid(m_qn)      what mask q looks at
        c_k = sum_q p(q, k) g_q / sum_q p(q, k)                  the token of class k
        P_q = softmax_k(cos(v_q, c_k) / temperature)
        R_q = softmax_k(cos(v_q, t_k) / temperature)
        loss = sum_q w_q KL(R_q || P_q) / sum_q w_q,  w_q = 1 - p(q, no object)

    p and w are weights only (no gradient); tokens, features, masks and the projection of the
    texts get one. It needs no clustering, and cluster k is class k by construction.

    Shape:
        features (B, C, h, w); tokens (Q, C); texts (K, C) -> ()
    """
    size = features.shape[-2:]
    masks = F.interpolate(layer.masks.float(), size, mode='bilinear').sigmoid().flatten(2)
    vectors = masks @ features.float().flatten(2).transpose(1, 2)  # (B, Q, C); cos needs no norm
    probability = layer.classes.detach().float().softmax(-1)[..., :-1]
    weight = probability.sum(-1)
    share = mean_over_processes(probability.sum(0).T)  # (K, Q)
    of_class = share @ tokens.float() / share.sum(1, keepdim=True)
    vectors = F.normalize(vectors, dim=-1) / temperature
    by_tokens = (vectors @ F.normalize(of_class, dim=-1).T).log_softmax(-1)
    by_texts = (vectors @ F.normalize(texts.float(), dim=-1).T).log_softmax(-1)
    divergence = (by_texts.exp() * (by_texts - by_tokens)).sum(-1)
    return (weight * divergence).sum() / mean_over_processes(weight.sum())
