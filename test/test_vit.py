# SPDX-License-Identifier: Apache-2.0
"""The backbone: timm's numbers, block by block, at any size."""

from dataclasses import replace

from dgtl_core.config import BackboneConfig, BACKBONES
from dgtl_core.model.vit import Backbone, timm_name
import pytest
import timm
import torch
import torch.nn.functional as F

FAMILIES = [name for name, sizes in BACKBONES.items() if sizes is None]


def config(family, **changes):
    patch = 14 if family == 'eva02' else 16
    positions = 'scale' if family.startswith('dinov2') else 'size'
    base = BackboneConfig(
        name=family, embed_dim=64, depth=4, num_heads=4, patch_size=patch, positions=positions,
        img_size=(4 * patch, 6 * patch), out_indices=(0, 1, 2, 3))
    return replace(base, **changes)


def varied(backbone):
    """Give every parameter a size that can be seen in the features."""
    torch.manual_seed(1)
    for name, parameter in backbone.named_parameters():
        spread = 0.5 if parameter.dim() != 2 else parameter.shape[1] ** -0.5
        center = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
        parameter.data.normal_(center, spread * (0.2 if center else 1))
    return backbone.eval()


@pytest.mark.parametrize('family', FAMILIES)
def test_equals_timm_at_its_own_size(family):
    backbone = varied(Backbone(config(family)))
    height, width = backbone.grid
    images = torch.randn(2, 3, height * backbone.patch_size, width * backbone.patch_size)
    with torch.no_grad():
        ours = backbone(images)
        theirs = backbone.vit.forward_intermediates(
            images, indices=[0, 1, 2, 3], norm=False, intermediates_only=True)
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('grid', [(3, 5), (8, 6)])
def test_takes_any_whole_number_of_patches(family, grid):
    backbone = varied(Backbone(config(family)))
    size = [side * backbone.patch_size for side in grid]
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, *size))
    assert [tuple(f.shape) for f in features] == [(1, 64, *grid)] * 4
    assert all(torch.isfinite(f).all() for f in features)


@pytest.mark.parametrize('name, expected', [
    ('dinov2-s', 'vit_small_patch14_dinov2.lvd142m'),
    ('dinov2-b-reg', 'vit_base_patch14_reg4_dinov2.lvd142m'),
    ('dinov3-l', 'vit_large_patch16_dinov3.lvd1689m'),
    ('eva02-l', 'eva02_large_patch14_clip_224.merged2b'),
    ('clip-b', 'vit_base_patch16_clip_quickgelu_224.openai'),
    ('siglip2-l', 'vit_large_patch16_siglip_512.v2_webli')])
def test_named_backbones_exist_in_timm(name, expected):
    indices = (3, 5, 7, 11)
    assert timm_name(BackboneConfig(name=name, out_indices=indices)) == expected
    assert expected in timm.list_pretrained()
    variant = BackboneConfig(name=name, out_indices=indices)
    architecture = expected.split('.')[0]
    with torch.device('meta'):
        model = timm.create_model(architecture)
    assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == variant.sizes


def test_attention_of_every_family_is_fused():
    for family in FAMILIES:
        assert all(block.attn.fused_attn for block in Backbone(config(family)).vit.blocks)


def test_position_embedding_follows_dinov2s_rule():
    """Bicubic with the sampling step g / (h + 0.1), written out for one axis at a time."""
    backbone = varied(Backbone(config('dinov2', img_size=(128, 128))))
    grid = (5, 11)
    found = backbone.position_embedding(grid)
    stored = backbone.vit.pos_embed.detach()
    torch.testing.assert_close(found[:, :1], stored[:, :1])
    square = stored[0, 1:].unflatten(0, (8, 8)).double()

    def cubic(t):
        a, t = -0.75, abs(t)
        if t <= 1:
            return (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1
        return a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def weights(count):
        matrix = torch.zeros(count, 8, dtype=torch.float64)
        for i in range(count):
            place = (i + 0.5) * 8 / (count + 0.1) - 0.5
            for tap in range(int(place // 1) - 1, int(place // 1) + 3):
                matrix[i, min(max(tap, 0), 7)] += cubic(place - tap)
        return matrix

    expected = torch.einsum('ya,xb,abc->yxc', weights(5), weights(11), square).flatten(0, 1)
    torch.testing.assert_close(found[0, 1:].double(), expected, rtol=1e-4, atol=1e-4)
    by_size = F.interpolate(square.permute(2, 0, 1)[None], size=grid, mode='bicubic')
    assert (by_size[0].flatten(1).T - expected).abs().max() > 1e-2  # the rules do differ


def test_own_size_takes_the_embedding_as_it_is():
    backbone = Backbone(config('dinov2'))
    assert backbone.position_embedding(backbone.grid) is backbone.vit.pos_embed


def test_link_acts_after_every_block_and_spares_the_prefix():
    backbone = varied(Backbone(config('dinov2-reg')))
    images = torch.randn(1, 3, 64, 96)
    seen = []

    def link(index, patches):
        seen.append((index, tuple(patches.shape)))
        return 2 * patches

    prefixes = []
    for block in backbone.vit.blocks:
        block.register_forward_hook(lambda _, __, out: prefixes.append(out[:, :5]))
        block.register_forward_pre_hook(lambda _, args: prefixes.append(args[0][:, :5]))
    with torch.no_grad():
        linked = backbone(images, link)
        after = prefixes[1::2], prefixes[2::2]
        plain = backbone(images)
    assert seen == [(i, (1, 24, 64)) for i in range(4)]
    for left, entered in zip(*after):  # what leaves a block enters the next, but for the patches
        torch.testing.assert_close(left, entered)
    torch.testing.assert_close(linked[0], 2 * plain[0])
    assert (linked[1] - 2 * plain[1]).abs().max() > 1e-1  # the linked patches feed block 1


@pytest.mark.parametrize('size, message', [
    ((63, 96), r'multiples of the patch \(16\), got'),
    ((64, 90), r'multiples of the patch \(16\), got'),
    ((0, 96), 'at least 32x32'), ((16, 96), 'at least 32x32')])
def test_refuses_part_of_a_patch_and_less_than_two(size, message):
    with pytest.raises(ValueError, match=message):
        Backbone(config('dinov2'))(torch.zeros(1, 3, *size))


def test_fixed_positions_take_as_many_patches_in_any_shape():
    """VLTSeg drops the rest of a patch and looks at the count alone."""
    backbone = varied(Backbone(config('eva02', positions='fixed', attn_norm=False)))
    images = torch.randn(1, 3, 56, 84)
    with torch.no_grad():
        exact = backbone(images)
        rest = backbone(F.pad(images, (0, 13, 0, 5)))
        turned = backbone(torch.randn(1, 3, 84, 56))
    for a, b in zip(exact, rest):
        torch.testing.assert_close(a, b)
    assert turned[0].shape == (1, 64, 6, 4)
    # positions and rotary table are taken in flat order: the same patches in a row of another
    # length are the same picture
    patches = images.unfold(2, 14, 14).unfold(3, 14, 14).flatten(2, 3)  # (1, 3, 24, 14, 14)
    rows = patches.unflatten(2, (6, 4)).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 84, 56)
    with torch.no_grad():
        again = backbone(rows)
    for a, b in zip(exact, again):
        torch.testing.assert_close(a.flatten(2), b.flatten(2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r'takes pictures of 24 patches \(56x84 pixels\), got'):
        backbone(torch.zeros(1, 3, 56, 98))


def test_eva02_without_the_norm_inside_the_attention():
    with_norm = Backbone(config('eva02')).vit.state_dict()
    without = Backbone(config('eva02', attn_norm=False)).vit.state_dict()
    extra = with_norm.keys() - without.keys()
    assert extra == {f'blocks.{i}.attn.norm.{k}' for i in range(4) for k in ('weight', 'bias')}


def test_frozen_stays_in_eval_mode_and_trainable_drops_paths():
    frozen = Backbone(config('dinov2', drop_path=0.5)).train()
    assert not frozen.vit.training and not any(p.requires_grad for p in frozen.parameters())
    free = Backbone(config('dinov2', drop_path=0.5, trainable=True)).train()
    assert free.vit.training and all(p.requires_grad for p in free.parameters())
    images = torch.randn(4, 3, 64, 96)
    varied(free).train()
    assert not torch.equal(free(images)[-1], free(images)[-1])
    free.eval()
    torch.testing.assert_close(free(images)[-1], free(images)[-1])
