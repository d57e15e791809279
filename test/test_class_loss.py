# SPDX-License-Identifier: Apache-2.0
"""The loss of one mask for each class."""

from itertools import product

from dgtl_core.learning.class_loss import class_loss, class_weights
import pytest
import torch
import torch.nn.functional as F


def test_the_mean_over_all_places_is_the_loss_at_full_size():
    torch.manual_seed(0)
    masks, labels = torch.randn(2, 5, 6, 8), torch.randint(0, 5, (2, 24, 32), dtype=torch.uint8)
    found = [class_loss(masks, labels, torch.ones(5), torch.tensor([place, place]))[0]
             for place in product(range(4), range(4))]
    large = F.interpolate(masks, (24, 32), mode='bilinear', align_corners=False)
    torch.testing.assert_close(torch.stack(found).mean(), F.cross_entropy(large, labels.long()))


def test_weights_are_those_of_cross_entropy_and_unlabelled_pixels_do_not_count():
    torch.manual_seed(1)
    masks, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8)
    labels[0, :2] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    found = class_loss(masks, labels, weights, torch.tensor([[0, 0]]))
    expected = F.cross_entropy(
        masks, labels.long().masked_fill(labels > 2, -1), weights, ignore_index=-1)
    torch.testing.assert_close(found[0], expected)
    other = masks.clone()
    other[:, :, :2] += 5
    torch.testing.assert_close(
        class_loss(other, labels, weights, torch.tensor([[0, 0]])), found)


def test_dice_is_0_where_all_is_right_and_nothing_is_learned_from_no_labels():
    labels = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8).repeat(1, 40, 40)
    sure = 50 * F.one_hot(labels.long(), 3).permute(0, 3, 1, 2).float()
    right = class_loss(sure, labels, torch.ones(3), torch.tensor([[0, 0]]))
    wrong = class_loss(-sure, labels, torch.ones(3), torch.tensor([[0, 0]]))
    assert right.abs().max() < 1e-3 and wrong[1] > 0.9
    masks = torch.randn(1, 3, 4, 4, requires_grad=True)
    nothing = class_loss(masks, torch.full((1, 16, 16), 255, dtype=torch.uint8), torch.ones(3),
                         torch.tensor([[1, 2]]))
    nothing.sum().backward()
    assert nothing.tolist() == [0, 0] and not masks.grad.any()


def test_rare_classes_weigh_more_and_a_pixel_one_on_average():
    counts = torch.tensor([900.0, 90.0, 10.0])
    weights = class_weights(counts)
    assert weights[2] > weights[1] > weights[0]
    assert (weights * counts / counts.sum()).sum() == pytest.approx(1, rel=2e-2)
    assert float(weights[1] / weights[0]) == pytest.approx(10 ** 0.35, rel=1e-2)


def test_every_picture_is_looked_at_in_a_place_of_its_own():
    torch.manual_seed(2)
    masks, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 16, 20), dtype=torch.uint8)
    places = torch.tensor([[0, 3], [2, 1]])
    found = class_loss(masks, labels, torch.ones(3), places)[0]
    alone = [class_loss(masks[i:i + 1], labels[i:i + 1], torch.ones(3), places[i:i + 1])[0]
             for i in range(2)]
    torch.testing.assert_close(found, torch.stack(alone).mean())


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match='18x16 must be a whole multiple of the masks'):
        class_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 18, 16, dtype=torch.uint8),
                   torch.ones(3), torch.tensor([[0, 0]]))
