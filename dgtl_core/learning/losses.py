# SPDX-License-Identifier: Apache-2.0
"""
The set loss of Mask2Former over all decoder layers, and a dense term on the semantic scores.

Legend: L decoder layers, B pictures, Q queries, K classes, P points, M matched masks of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dgtl_core.learning.matcher import match, Matches
from dgtl_core.learning.points import fraction_of_class, PointSource, sample_masks
from dgtl_core.learning.processes import mean_over_processes
from dgtl_core.model.mask_decoder import MaskLogits
import torch
from torch import Tensor
import torch.nn.functional as F

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and points of the losses; the defaults are the released ones."""

    num_points: int = 12544  # points for matching and for the mask losses
    oversample: float = 3.0  # candidates for each loss point
    importance: float = 0.75  # share of loss points that lie where the mask is uncertain
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1  # weight of the class "no object" in the cross-entropy
    semantic_weight: float = 0.0  # dense term on the class scores of every layer; 0: off
    alignment: Literal['off', 'released', 'similarity'] = 'off'  # TDN, see alignment.py
    alignment_weight: float = 0.01
    # Queries drawn to prototypes of the classes (GRQA), in the last part of a run; see grqa.py
    grqa_weight: float = 0.0  # 0: off
    grqa_start: float = 2 / 3  # the share of the steps before it
    # Of a head with one query for each class, which needs nothing of the above:
    rarity: float = 0.35  # cross-entropy weighs a class by its share of the pixels ** -rarity
    class_dice_weight: float = 1.0  # beside a cross-entropy of weight 1
    # What a teacher says, where the recipe names one: the share of each class in each pixel,
    # where each class is (soft masks), and which patches are alike (features); see teacher.py
    teacher_weight: float = 1.0
    teacher_masks_weight: float = 0.0
    teacher_features_weight: float = 0.0
    temperature: float = 1.0  # higher: what it thinks of the less likely classes counts more

    def __post_init__(self) -> None:
        if self.num_points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise ValueError(
                'loss.num_points and loss.oversample must be >= 1, loss.importance in 0..1, got '
                f'{self.num_points}, {self.oversample}, {self.importance}')
        if self.grqa_weight < 0 or not 0 <= self.grqa_start < 1:
            raise ValueError(
                'loss.grqa_weight must not be negative and loss.grqa_start be in [0, 1), got '
                f'{self.grqa_weight} and {self.grqa_start}')
        if not 0 <= self.rarity <= 1 or self.class_dice_weight < 0:
            raise ValueError(
                'loss.rarity must be in 0..1 and loss.class_dice_weight not negative, got '
                f'{self.rarity} and {self.class_dice_weight}')
        teacher = (self.teacher_weight, self.teacher_masks_weight, self.teacher_features_weight)
        if min(teacher) < 0 or self.temperature <= 0:
            raise ValueError(
                'loss.teacher_weight, teacher_masks_weight and teacher_features_weight must not '
                f'be negative and loss.temperature positive, got {teacher} and '
                f'{self.temperature}')


def set_loss(
        layers: Sequence[MaskLogits], labels: Tensor, points: PointSource, config: LossConfig,
        *, unlabelled: bool = False) -> dict[str, Tensor]:
    """
    Match queries to classes and score them: cross-entropy of the classes, and binary cross-entropy
    and dice of the matched masks at P points each.

    With several processes, divisors are means over all of them, so that the mean gradient is that
    of one process with the joint batch.

    :param unlabelled: a picture without any label teaches nothing; else it teaches "no object",
        as in the released code.

    Shape:
        labels (B, H, W) uint8, 255 where unlabelled -> {'cls', 'mask', 'dice'}: (L,) each,
        weighted, and 'semantic' (L,) where it is switched on
    """
    matches = match(
        layers, labels, points, config.num_points,
        (config.class_weight, config.mask_weight, config.dice_weight))
    matched = sum(matches.per_picture)
    taught = [count > 0 or not unlabelled for count in matches.per_picture]
    queries = sum(taught) * layers[0].classes.shape[1]
    # The matcher has these numbers on the host, where they stay (gloo, also beside NCCL).
    count, class_norm = mean_over_processes(torch.tensor(
        [matched, matched + config.no_object_weight * (queries - matched)],
        dtype=torch.float64)).tolist()
    at, truth = _mask_points(layers, labels, matches, points, config)
    num_masks = max(count, 1.0)
    bce = F.binary_cross_entropy_with_logits(at, truth, reduction='none').mean(-1).sum(-1)
    probability = at.sigmoid()
    overlap = 2 * (probability * truth).sum(-1) + 1
    dice = (1 - overlap / (probability.sum(-1) + truth.sum(-1) + 1)).sum(-1)
    losses = {
        'cls': config.class_weight * _class_loss(
            layers, matches, config, taught) / (class_norm + EPS),
        'mask': config.mask_weight * bce / (num_masks + EPS),
        'dice': config.dice_weight * dice / (num_masks + EPS)}
    if config.semantic_weight:
        losses['semantic'] = config.semantic_weight * torch.stack([
            semantic_loss(layer, labels) for layer in layers])
    return losses


def _class_loss(
        layers: Sequence[MaskLogits], matches: Matches, config: LossConfig,
        taught: Sequence[bool]) -> Tensor:
    """Return the weighted sum of cross-entropies over all queries of taught pictures, (L,)."""
    logits = torch.stack([layer.classes.float() for layer in layers])  # (L, B, Q, K + 1)
    no_object = logits.shape[-1] - 1
    target = torch.full(logits.shape[:3], no_object, device=logits.device)
    layer = torch.arange(len(layers), device=logits.device)[:, None]
    target[layer, matches.pictures, matches.queries] = matches.classes
    cross_entropy = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction='none')
    weight = torch.where(target == no_object, config.no_object_weight, 1.0)
    weight = weight * torch.tensor(taught, device=weight.device)[:, None]
    return (weight * cross_entropy.view_as(weight)).flatten(1).sum(1)


def _mask_points(
        layers: Sequence[MaskLogits], labels: Tensor, matches: Matches, points: PointSource,
        config: LossConfig) -> tuple[Tensor, Tensor]:
    """
    Return logits and truth of the matched masks at their loss points.

    Of ``oversample * P`` uniform candidates those with the smallest absolute logit are taken for
    ``importance * P`` points, the rest is uniform (Kirillov et al. 2020, "PointRend").

    Shape:
        -> (L, M, P) twice
    """
    num_layers, num_masks = matches.queries.shape
    masks = torch.stack([
        layer.masks[picture, query].float() for layer, picture, query
        in zip(layers, matches.pictures, matches.queries, strict=True)])  # (L, M, H, W)
    masks = masks.flatten(0, 1).unsqueeze(1)
    wanted = int(config.importance * config.num_points)

    def draw(purpose: str, number: int) -> Tensor:
        parts = [points(purpose, b, (num_layers, n, number, 2))  # type: ignore[arg-type]
                 for b, n in enumerate(matches.per_picture)]
        return torch.cat(parts, 1).flatten(0, 1)  # (L * M, number, 2)

    with torch.no_grad():
        candidates = draw('candidates', int(config.oversample * config.num_points))
        uncertain = sample_masks(masks, candidates).squeeze(1).abs()
        nearest = uncertain.topk(wanted, largest=False, sorted=False).indices
        chosen = torch.cat([
            candidates.gather(1, nearest[..., None].expand(-1, -1, 2)),
            draw('random', config.num_points - wanted)], 1)
        truth = fraction_of_class(
            labels, matches.pictures.flatten(), matches.classes.flatten(), chosen)
    at = sample_masks(masks, chosen).squeeze(1)
    shape = num_layers, num_masks, config.num_points
    return at.view(shape), truth.view(shape)


def log_shares(layer: MaskLogits, *, fixed: bool) -> Tensor:
    """
    Return the log of the share of each class in each cell of the masks.

    Of fixed queries it is the log of a softmax over the masks. Of matched ones it is
    score(c) = sum over queries of p(q, c) * sigmoid(mask q), normalised over the classes; 1e-4
    gives a pixel that no query claims a finite loss and a useful gradient.

    Shape:
        -> (B, K, h, w)
    """
    if fixed:
        return layer.masks.float().log_softmax(1)
    classes = layer.classes.float().softmax(-1)[..., :-1]
    scores = torch.einsum('bqk,bqhw->bkhw', classes, layer.masks.float().sigmoid())
    return (scores + 1e-4).log() - (scores + 1e-4).sum(1, keepdim=True).log()


def semantic_loss(layer: MaskLogits, labels: Tensor) -> Tensor:
    """
    Return the mean negative log of the normalised class scores at the masks' resolution.

    Shares as :func:`log_shares` gives them. Ours, for networks
    without a pretrained backbone; the released recipes do not have it.

    Shape:
        labels (B, H, W) -> ()
    """
    log_share = log_shares(layer, fixed=False)
    size = layer.masks.shape[-2:]
    target = F.interpolate(labels[:, None].float(), size, mode='nearest-exact')[:, 0].long()
    target = target.masked_fill(target >= log_share.shape[1], -1)
    valid = mean_over_processes((target >= 0).sum()).clamp(min=1)
    return F.nll_loss(log_share, target, ignore_index=-1, reduction='sum') / valid
