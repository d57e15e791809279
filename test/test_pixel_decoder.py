# SPDX-License-Identifier: Apache-2.0
"""The pixel decoder against Hugging Face's on the same weights."""

from dgtl_core.config import HeadConfig
from dgtl_core.model.neck import BeitNeck, INTERPOLATE
from dgtl_core.model.pixel_decoder import PixelDecoder, sine_encoding
import pytest
import torch
import torch.nn.functional as F

CONFIG = HeadConfig(hidden_dim=32, num_heads=4, encoder_layers=2, encoder_feedforward=48)
TO_HUGGING_FACE = (
    ('level_encoding.weight', 'level_embed'), ('layers.', 'encoder.layers.'),
    ('.attention.', '.self_attn.'), ('.norm1.', '.self_attn_layer_norm.'),
    ('.norm2.', '.final_layer_norm.'), ('.linear1.', '.fc1.'), ('.linear2.', '.fc2.'),
    ('lateral.', 'adapter_1.'), ('output.', 'layer_1.'), ('mask_feature.', 'mask_projection.'))


def decoder(scales=(1, 1, 1, 1)):
    torch.manual_seed(0)
    made = PixelDecoder(CONFIG, 24, scales).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return made


def features():
    torch.manual_seed(1)
    return [torch.randn(2, 24, 32 // s, 48 // s) for s in (1, 2, 4, 8)]


def test_equals_hugging_face():
    pytest.importorskip('transformers')
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former as other

    ours = decoder()
    theirs = other.Mask2FormerPixelDecoder(Mask2FormerConfig(
        feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=48,
        encoder_layers=2, num_attention_heads=4), [24] * 4).eval()
    state = {}
    for key, value in ours.state_dict().items():
        for mine, other_name in TO_HUGGING_FACE:
            key = key.replace(mine, other_name)
        state[key] = value
    theirs.load_state_dict(state)
    with torch.no_grad():
        mask_features, memories = ours(features())
        expected = theirs(features())
    torch.testing.assert_close(mask_features, expected.mask_features, rtol=1e-4, atol=1e-4)
    for memory, other_memory in zip(memories, expected.multi_scale_features):
        torch.testing.assert_close(memory, other_memory, rtol=1e-4, atol=1e-4)


def test_scales_resize_the_maps_before_all_else():
    scaled, plain = decoder(INTERPOLATE), decoder()
    same = [torch.randn(1, 24, 5, 7) for _ in range(4)]
    resized = [f if scale == 1 else F.interpolate(f, scale_factor=scale, mode='bilinear')
               for f, scale in zip(same, INTERPOLATE)]
    assert resized[3].shape[2:] == (2, 3)  # odd sizes floor
    with torch.no_grad():
        found, memories = scaled(same)
        expected, others = plain(resized)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for memory, other in zip(memories, others):
        torch.testing.assert_close(memory, other, rtol=1e-4, atol=1e-4)


def test_sine_encoding_alternates_and_ends_at_a_full_turn():
    codes = sine_encoding((3, 5), 32, torch.device('cpu')).view(3, 5, 32)
    y, x = codes[..., :16], codes[..., 16:]
    assert torch.equal(y[:, 0], y[:, 4]) and torch.equal(x[0], x[2])
    turn = 2 * torch.pi
    torch.testing.assert_close(
        y[0, 0, :2], torch.tensor([turn / 3, turn / 3]).sin().mul(torch.tensor([1, 0]))
        + torch.tensor([turn / 3, turn / 3]).cos().mul(torch.tensor([0, 1])),
        rtol=1e-4, atol=1e-4)
    assert abs(float(x[0, 4, 0])) < 1e-4 and float(x[0, 4, 1]) == pytest.approx(1)


def test_initial_values_are_those_of_the_released_code():
    torch.manual_seed(0)
    made = PixelDecoder(HeadConfig(), 1024).requires_grad_(False)
    assert made.level_encoding.weight.std() == pytest.approx(1, abs=0.1)
    first = made.layers[0].linear1.weight  # Xavier-normal
    assert first.std() == pytest.approx((2 / (256 + 1024)) ** 0.5, rel=0.05)
    assert not made.layers[0].attention.sampling_offsets.weight.any()
    bound = (3 / (256 * 9)) ** 0.5  # Caffe2's Xavier
    assert made.output[0].weight.abs().max() == pytest.approx(bound, rel=0.01)
    bound = (6 / (1024 + 256)) ** 0.5  # Xavier-uniform
    assert made.input_projections[1][0].weight.abs().max() == pytest.approx(bound, rel=0.01)
    assert not made.input_projections[1][0].bias.any()
    assert sum(p.numel() for p in made.parameters()) == 6_101_440


def test_beit_neck_makes_four_scales_and_floors_odd_grids():
    torch.manual_seed(0)
    neck = BeitNeck(8).eval()
    maps = neck([torch.randn(1, 8, 9, 9) for _ in range(4)])
    assert [m.shape[2] for m in maps] == [36, 18, 9, 4]
    one = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(
        neck([one] * 4)[3], torch.nn.functional.max_pool2d(one[:, :, :8, :8], 2))
