# SPDX-License-Identifier: Apache-2.0
"""Deformable attention against the sum over points, written out, and Hugging Face's."""

from dgtl_core.model.deformable_attention import DeformableAttention, reference_points
import pytest
import torch

SIZES = [(2, 3), (4, 5), (7, 9)]
COUNT = sum(h * w for h, w in SIZES)


def attention():
    torch.manual_seed(0)
    module = DeformableAttention(16, num_heads=2, num_levels=3, num_points=4)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.4)
    return module


def bilinear(image, x, y):
    """Value of (d, h, w) at pixel centres counted from 0; zeros outside."""
    total = torch.zeros(len(image), dtype=image.dtype)
    left, top = int(x // 1), int(y // 1)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total = total + image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def test_is_the_weighted_sum_over_sampled_points():
    module = attention().double()
    query, values = torch.randn(2, 1, COUNT, 16, dtype=torch.float64)
    reference = reference_points(SIZES, torch.device('cpu')).double()
    with torch.no_grad():
        found = module(query, values, reference, SIZES)[0]
        offsets = module.sampling_offsets(query)[0].view(COUNT, 2, 3, 4, 2)
        weights = module.attention_weights(query)[0].view(COUNT, 2, 12).softmax(-1)
        value = module.value_proj(values)[0].view(COUNT, 2, 8)
        for n in (0, 5, 30, COUNT - 1):
            row = []
            for head in range(2):
                total, start = torch.zeros(8, dtype=torch.float64), 0
                for level, (h, w) in enumerate(SIZES):
                    image = value[start:start + h * w, head].T.unflatten(1, (h, w))
                    start += h * w
                    for point in range(4):
                        dx, dy = offsets[n, head, level, point]
                        x, y = reference[n, 0] * w + dx - 0.5, reference[n, 1] * h + dy - 0.5
                        weight = weights[n, head, level * 4 + point]
                        total += weight * bilinear(image, float(x), float(y))
                row.append(total)
            expected = module.output_proj(torch.cat(row))
            torch.testing.assert_close(found[n], expected, rtol=1e-6, atol=1e-6)


def test_equals_hugging_face():
    pytest.importorskip('transformers')
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former as other

    module = attention()
    theirs = other.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(
        16, num_heads=2, n_levels=3, n_points=4)
    theirs.load_state_dict(module.state_dict())
    assert Mask2FormerConfig is not None
    query, values = torch.randn(2, 2, COUNT, 16)
    reference = reference_points(SIZES, torch.device('cpu'))
    points = reference[None, :, None].expand(2, -1, 3, -1)
    starts = torch.tensor([0, 6, 26])
    expected = theirs(
        hidden_states=query, encoder_hidden_states=values, reference_points=points,
        spatial_shapes_list=SIZES, level_start_index=starts)[0]
    torch.testing.assert_close(
        module(query, values, reference, SIZES), expected, rtol=1e-4, atol=1e-5)


def test_reference_points_are_pixel_centres():
    points = reference_points([(2, 4)], torch.device('cpu'))
    assert points[0].tolist() == [0.125, 0.25]
    assert points[1].tolist() == [0.375, 0.25]
    assert points[4].tolist() == [0.125, 0.75]


def test_heads_start_in_eight_directions():
    module = DeformableAttention(256, 8, 3, 4)
    offsets = module.sampling_offsets.bias.view(8, 3, 4, 2)
    expected = torch.tensor(
        [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]).float()
    torch.testing.assert_close(offsets[:, 0, 0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(offsets[:, 2, 3], 4 * expected, rtol=0, atol=1e-5)
    assert not module.sampling_offsets.weight.any() and not module.attention_weights.weight.any()


def test_works_under_autocast_with_positions_in_float32():
    module = attention()
    query, values = torch.randn(2, 1, COUNT, 16)
    reference = reference_points(SIZES, torch.device('cpu'))
    exact = module(query, values, reference, SIZES)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = module(query, values, reference, SIZES)
    assert (rough - exact).norm() / exact.norm() < 0.1
