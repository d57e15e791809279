# SPDX-License-Identifier: Apache-2.0
"""The light head: queries inside the encoder, and the stem that feeds it."""

from dataclasses import replace

from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import set_precision
from dgtl_core.model.light_head import class_scores, unturned
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import from_dict, override, to_dict
import pytest
from small_segmenter import normalised, street
from timm.layers import apply_rot_embed_cat
import torch

SIZE = (128, 192)


def config(family='vit', queries='texts', patch=16, stem='patch', trainable=True):
    base = preset('dgtl-rt-mini')
    backbone = replace(
        base.backbone, name=family, embed_dim=64, depth=4, num_heads=2, patch_size=patch,
        stem=stem, img_size=SIZE, out_indices=(0, 1, 2, 3), trainable=trainable)
    head = replace(base.head, queries=queries, num_blocks=2, num_queries=8, upscale=())
    adapter = replace(base.adapter, num_tokens=8, rank=4, mask_link=queries == 'tokens')
    return replace(base, backbone=backbone, head=head, adapter=adapter, input_size=SIZE,
                   window_stride=SIZE, text=replace(base.text, width=24))


@torch.no_grad()
def lively(made_of, seed=0):
    """Return a light segmenter in eval mode that tells places and classes apart."""
    torch.manual_seed(seed)
    model = Segmenter(made_of)
    model.set_texts(torch.randn_like(model.texts))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(('bias', 'running_mean')):
            value += 0.1 * torch.randn_like(value)
        elif name.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif 'gamma' in name:
            value.fill_(0.5)
    model.adapter.scale.fill_(0.3)
    return model.eval()


@pytest.mark.parametrize('queries, count', [
    ('texts', 19), ('classes', 19), ('tokens', 8), ('learned', 8)])
@pytest.mark.parametrize('family, patch, frozen', [
    ('vit', 16, False), ('vit', 32, True), ('dinov2', 32, False), ('dinov2-reg', 16, True),
    ('dinov3', 16, False), ('dinov3', 32, True), ('eva02', 16, True), ('eva02', 32, False),
    ('clip', 16, True), ('siglip2', 16, False), ('siglip2', 32, True)])
def test_every_backbone_and_kind_of_query_learns(family, patch, frozen, queries, count):
    model = lively(config(family, queries, patch, trainable=not frozen)).train()
    last = model(torch.randn(2, 3, *SIZE))[-1]
    assert last.classes.shape == (2, count, 20)
    assert last.masks.shape == (2, count, SIZE[0] // 4, SIZE[1] // 4)
    (last.masks.square().mean() + last.classes.square().mean()).backward()
    idle = [name for name, parameter in model.light_head.named_parameters()
            if parameter.grad is None or not parameter.grad.any()]
    learns = [parameter.grad is not None for parameter in model.backbone.parameters()]
    assert any(learns) != frozen
    assert not idle


@pytest.mark.parametrize('family, queries, patch, stem', [
    ('vit', 'texts', 32, 'conv'), ('vit', 'texts', 16, 'conv'), ('vit', 'tokens', 16, 'patch'),
    ('dinov2-reg', 'texts', 16, 'patch'), ('dinov3', 'tokens', 16, 'patch'),
    ('eva02', 'learned', 16, 'patch'), ('vit', 'classes', 16, 'patch'),
    ('siglip2', 'texts', 32, 'patch')])
def test_folded_gives_the_same(family, queries, patch, stem):
    model = lively(config(family, queries, patch, stem))
    folded = fold(model, SIZE)
    picture = street(SIZE)
    with torch.no_grad():
        plain = model.predict(normalised(picture, model.config))
        quick = folded(torch.from_numpy(picture)[None])
    error = (quick.masks - plain.masks).norm() / plain.masks.norm()
    assert error < 1e-4
    if model.config.head.fixed:
        assert quick.classes is None
        labels = LabelNetwork(folded, SIZE)(torch.from_numpy(picture)[None])[0]
        expected = model.scores(normalised(picture, model.config)).argmax(1)
        assert (labels == expected).float().mean() > 0.999
        assert len(expected.unique()) > 1
    else:
        torch.testing.assert_close(quick.classes, plain.classes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('stem, patch', [('conv', 32), ('patch', 16)])
@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_sixteen_bits_give_nearly_the_same_labels(precision, stem, patch):
    model = lively(config('vit', 'texts', patch, stem))
    picture = torch.from_numpy(street(SIZE))[None]
    with torch.no_grad():
        full = LabelNetwork(fold(model, SIZE), SIZE)(picture)[0]
        short = set_precision(LabelNetwork(fold(model, SIZE), SIZE), precision)(picture)[0]
    assert (full == short).float().mean() > 0.9


def test_what_stands_for_one_class_sums_to_one_and_keeps_the_labels_of_the_masks():
    masks = torch.randn(2, 5, 8, 12) * 3
    scores = class_scores(masks, (32, 48))
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 32, 48))
    large = torch.nn.functional.interpolate(masks, (32, 48), mode='bilinear')
    assert torch.equal(scores.argmax(1), large.argmax(1))


def test_a_rotary_table_does_not_turn_the_queries():
    table = torch.randn(6, 16)
    longer = unturned(table, 3)
    x = torch.randn(1, 2, 9, 8)
    turned = apply_rot_embed_cat(x, longer)
    torch.testing.assert_close(turned[:, :, :3], x[:, :, :3])
    torch.testing.assert_close(turned[:, :, 3:], apply_rot_embed_cat(x[:, :, 3:], table))
    assert unturned(None, 3) is None


def test_the_queries_change_the_patches_only_in_the_last_blocks():
    model = lively(config())
    images = torch.randn(1, 3, *SIZE)
    seen = []
    watch = [block.register_forward_hook(lambda _, i, output: seen.append(output))
             for block in model.backbone.vit.blocks]
    with torch.no_grad():
        model.predict(images)
        first, seen[:] = list(seen), []
        model.set_texts(torch.randn_like(model.texts))
        model.adapter.text_link.gain.zero_()  # so that the texts reach nothing but the queries
        model.predict(images)
    for handle in watch:
        handle.remove()
    prefix = model.backbone.vit.num_prefix_tokens
    count = (SIZE[0] // 16) * (SIZE[1] // 16)
    assert [x.shape[1] - prefix - count for x in seen] == [0, 0, 19, 19]
    assert not torch.equal(first[-1], seen[-1])


def test_batch_norm_is_part_of_the_convolutions_once_folded():
    folded = fold(lively(config('vit', 'texts', 32, 'conv')), SIZE)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_the_kind_of_a_head_decides_how_it_is_read():
    light = preset('dgtl-rt-mini')
    assert from_dict(SegmenterConfig, to_dict(light)) == light
    changed = override(preset('dgtl-mini'), {
        'head': {'kind': 'light', 'queries': 'texts'}, 'adapter': {'mask_link': False}})
    assert changed.head.kind == 'light' and changed.head.num_blocks == 4
    assert override(light, {'head': {'num_blocks': 1}}).head.upscale == light.head.upscale
    with pytest.raises(ValueError, match=r"head.kind must be one of \['mask2former', 'light'\]"):
        override(light, {'head': {'kind': 'heavy'}})
    with pytest.raises(ValueError, match='unknown key num_block; did you mean num_blocks'):
        override(light, {'head': {'num_block': 1}})


@pytest.mark.parametrize('changes, message', [
    ({'head': {'num_blocks': 9}}, 'head.num_blocks be at most 5'),
    ({'head': {'upscale': [64]}}, 'must hold 3 widths, for the steps from patches of 32'),
    ({'adapter': {'mask_link': True}}, 'has no tokens to link masks with'),
    ({'adapter': {'text_link': 'off'}}, "needs class texts: set adapter.text_link 'all'"),
    ({'backbone': {'trainable': False}}, "stem 'conv' has no published weights"),
    ({'head': {'kind': 'mask2former'}}, "stem 'conv' goes with the light head"),
    ({'neck': 'beit'}, 'a light head has no neck'),
])
def test_a_head_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        override(preset('dgtl-rt-mini'), changes)
