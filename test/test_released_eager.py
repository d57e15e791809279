# SPDX-License-Identifier: Apache-2.0
"""The released form computes what a segmenter computes, with all of the released work."""

from dataclasses import replace

import pytest
from small_segmenter import normalised, small_config, small_segmenter, street
import torch
from training.bench.released_eager import ReleasedSegmenter

PRESETS = ['dgtl-dinov2-s', 'dgtl-dinov2-l', 'rein-dinov2-l', 'vltseg-eva02-l', 'dgtl-dinov3-l']


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize('name', PRESETS)
@torch.no_grad()
def test_it_gives_the_same(name):
    config = small_config(name)
    picture = street(config.input_size)
    model = small_segmenter(config, picture)
    images = normalised(picture, config)
    form = ReleasedSegmenter(model)
    ours, theirs = model(images), form(images)
    assert len(theirs) == len(ours) == config.head.decoder_layers + 1
    for mine, released in zip(ours, theirs):
        assert relative(released.classes, mine.classes) < 1e-4
        assert relative(released.masks, mine.masks) < 1e-4
    mine, released = model.scores(images), form.scores(images)
    assert relative(released, mine) < 1e-4
    labels = mine.argmax(1)
    assert len(labels.unique()) >= 3, 'a picture of one class shows nothing'
    # near-ties of random weights
    assert float((released.argmax(1) != labels).float().mean()) < 1e-3


@torch.no_grad()
def test_larger_pictures_go_window_by_window():
    config = small_config('dgtl-dinov2-l')
    config = replace(config, input_size=(80, 96), window_stride=(53, 64))
    model = small_segmenter(config, street((80, 96)))
    form = ReleasedSegmenter(model)
    sizes = []
    form.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    picture = normalised(street((80, 224)), config)
    scores = form.scores(picture)
    assert sizes == [(1, 3, 80, 96)] * 3 and scores.shape == (1, 19, 80, 224)
    alone = form.scores(picture[..., :96])
    torch.testing.assert_close(scores[..., :64], alone[..., :64])  # covered by the first alone


@torch.no_grad()
def test_weights_are_shared_and_the_segmenter_is_left_alone():
    config = small_config('dgtl-dinov2-l')
    picture = street(config.input_size)
    model = small_segmenter(config, picture)
    images = normalised(picture, config)
    before = model.scores(images)
    form = ReleasedSegmenter(model)
    form.scores(images)
    ours = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in form.parameters()} == ours
    torch.testing.assert_close(model.scores(images), before, rtol=0, atol=0)
    assert all(block.attn.fused_attn for block in model.backbone.vit.blocks)
