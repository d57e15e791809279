# SPDX-License-Identifier: Apache-2.0
"""The assignment of queries to classes, and the points it is made at."""

from itertools import permutations

from dgtl_core.learning.matcher import (
    assign,
    match,
    matching_cost,
    NonFiniteError,
    present_classes,
)
from dgtl_core.learning.points import (
    class_fractions,
    fraction_of_class,
    RandomPoints,
    sample_masks,
)
from dgtl_core.model.mask_decoder import MaskLogits
import numpy as np
import pytest
import torch
import torch.nn.functional as F

CPU = torch.device('cpu')
WEIGHTS = (2.0, 5.0, 5.0)


def layer(batch=2, queries=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MaskLogits(torch.randn(batch, queries, classes + 1, generator=generator),
                      2 * torch.randn(batch, queries, 6, 8, generator=generator))


def blocks(batch=2, seed=0):
    """Return labels of 0..3 in blocks, with a stripe of 255."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (batch, 4, 5), generator=generator)
    labels = labels.repeat_interleave(6, 1).repeat_interleave(6, 2)
    labels[:, :, :3] = 255
    return labels.to(torch.uint8)


def test_cost_is_what_the_formula_says():
    prediction, labels = layer(), blocks()
    points = torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(1))
    cost = matching_cost(prediction, labels, points, WEIGHTS)
    for b in range(2):
        for k in labels[b].unique()[:-1].tolist():
            mask = (labels[b:b + 1, None] == k).float()
            g = sample_masks(mask, points[b:b + 1])[0, 0]
            for q in range(5):
                x = sample_masks(prediction.masks[b:b + 1, q:q + 1], points[b:b + 1])[0, 0]
                p = x.sigmoid()
                dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
                bce = F.binary_cross_entropy_with_logits(x, g)
                by_class = prediction.classes[b, q].softmax(-1)[k]
                expected = -2 * by_class + 5 * bce + 5 * dice
                assert cost[b, q, k].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(cost[:, 0].isfinite(), present_classes(labels, 4))


def test_assignment_is_the_cheapest_of_all():
    costs = np.random.default_rng(0).random((3, 2, 5, 4)).astype(np.float32)
    costs[:, 0, :, 1] = np.inf  # picture 0 has no class 1
    found = assign(costs, CPU)
    assert found.per_picture == (3, 4)
    for i in range(3):
        for b, classes in enumerate(([0, 2, 3], [0, 1, 2, 3])):
            mine = found.pictures[i] == b
            queries, of_class = found.queries[i][mine], found.classes[i][mine]
            assert queries.tolist() == sorted(queries.tolist())
            assert sorted(of_class.tolist()) == classes
            total = costs[i, b, queries.numpy(), of_class.numpy()].sum()
            best = min(sum(costs[i, b, q, k] for q, k in zip(order, classes))
                       for order in permutations(range(5), len(classes)))
            assert total == pytest.approx(best, rel=1e-6)


def test_each_class_gets_the_query_that_draws_it():
    labels = blocks(batch=1)
    masks = torch.stack([F.interpolate(
        torch.where(labels[:, None] == k, 9.0, -9.0), (12, 15), mode='nearest')[:, 0]
        for k in (3, 1, 0, 2)], 1)
    found = match([MaskLogits(torch.zeros(1, 4, 5), masks)], labels, RandomPoints([0], CPU), 200)
    drawn = torch.tensor([3, 1, 0, 2])
    assert torch.equal(found.classes[0], drawn[found.queries[0]])


def test_predictions_that_are_not_finite_are_refused():
    prediction = layer()
    prediction.masks[1, 2] = torch.nan
    with pytest.raises(NonFiniteError):
        match([prediction], blocks(), RandomPoints([0, 1], CPU), 8)


def test_fractions_equal_sampled_binary_masks():
    labels = blocks()
    points = torch.rand(2, 300, 2, generator=torch.Generator().manual_seed(2)) * 1.04 - 0.02
    masks = F.one_hot(labels.long().clamp(max=4), 5).permute(0, 3, 1, 2)[:, :4].float()
    expected = sample_masks(masks, points)  # (B, K, P), zero outside of the picture
    inside = ((points >= 0) & (points <= 1)).all(-1)
    found = class_fractions(labels, points.clamp(0, 1), 4).transpose(1, 2)
    difference = (found - expected).abs().amax(1)
    assert difference[inside].max() < 1e-5
    one = fraction_of_class(labels, torch.tensor([1, 0]), torch.tensor([2, 3]),
                            points[[1, 0]].clamp(0, 1))
    assert (one - expected[[1, 0], [2, 3]]).abs()[inside[[1, 0]]].max() < 1e-5


def test_at_pixel_centres_a_point_has_one_class():
    labels = blocks(batch=1)
    y, x = torch.tensor([5, 20]), torch.tensor([4, 29])
    points = torch.stack(((x + 0.5) / 30, (y + 0.5) / 24), -1)[None]
    fractions = class_fractions(labels, points, 4)
    assert torch.equal(fractions.argmax(-1)[0], labels[0, y, x].long())
    torch.testing.assert_close(fractions.sum(-1), torch.ones(1, 2))


def test_points_of_a_picture_do_not_depend_on_its_neighbours():
    alone, among = RandomPoints([7], CPU), RandomPoints([3, 7, 9], CPU)
    among('match', 0, (2, 5, 2))
    assert torch.equal(alone('match', 0, (2, 5, 2)), among('match', 1, (2, 5, 2)))
    again = RandomPoints([7], CPU)('match', 0, (2, 5, 2))
    assert not torch.equal(among('match', 2, (2, 5, 2)), again)
