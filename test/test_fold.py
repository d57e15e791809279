# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
from dgtl_core.folding.fold import fold
from dgtl_core.model.adapter import Adapter
from dgtl_core.model.mask_decoder import semantic_scores
from dgtl_core.model.segmenter import Segmenter
import pytest
from small_segmenter import normalised, small_config, small_segmenter, street
import torch
from torch.utils.flop_counter import FlopCounterMode

PRESETS = ['dgtl-dinov2-s', 'dgtl-dinov2-l', 'rein-dinov2-l', 'vltseg-eva02-l',
           'vltseg-eva02-l-clip', 'dgtl-eva02-l', 'dgtl-dinov3-l', 'dgtl-mini']


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def disagreement(model, folded, pictures):
    """Relative errors of classes and masks, fraction of differing labels, number of labels."""
    with torch.no_grad():
        images = torch.cat([normalised(picture, model.config) for picture in pictures])
        plain = model.predict(images)
        quick = folded(torch.stack([torch.from_numpy(picture) for picture in pictures]))
    expected, labels = (semantic_scores(x, folded.size).argmax(1) for x in (plain, quick))
    return (relative(quick.classes, plain.classes), relative(quick.masks, plain.masks),
            float((labels != expected).float().mean()), len(expected.unique()))


def assert_same(config, size, form='grid_sample', pictures=None):
    """
    Compare a segmenter with its folded form; one of three sets of weights must agree.

    Rounding can flip a bit of an attention mask, in the segmenter as well, and then everything
    after it differs by some 1e-3. A wrong constant does that with all weights.
    """
    found = []
    for seed in range(3):
        shown = pictures or [street(size, seed), street(size, seed + 10)]
        model = small_segmenter(config, shown[0], seed)
        classes, masks, labels, distinct = disagreement(model, fold(model, size, form), shown)
        assert distinct >= 3, 'a picture of one class shows nothing'
        if classes < 1e-4 and masks < 1e-4 and labels <= 1e-4:
            return
        found.append((classes, masks, labels))
    pytest.fail(f'errors of classes and masks, fraction of differing labels: {found}')


@pytest.mark.parametrize('name', PRESETS)
def test_folded_gives_the_same(name):
    config = small_config(name)
    assert_same(config, config.input_size)


@pytest.mark.parametrize('family', ['vit', 'dinov2-reg', 'clip', 'siglip2'])
def test_folded_gives_the_same_for_every_backbone(family):
    config = small_config('dgtl-dinov2-s', family)
    assert_same(config, config.input_size)


@pytest.mark.parametrize('form', ['gather', 'embedding_bag'])
@pytest.mark.parametrize('name', ['dgtl-mini', 'vltseg-eva02-l'])
def test_every_form_of_sampling_gives_the_same(name, form):
    config = small_config(name)
    assert_same(config, config.input_size, form)


def test_odd_grid_full_tokens_and_no_mask_link():
    config = small_config('dgtl-dinov2-l')
    config = replace(config, adapter=replace(config.adapter, rank=0, mask_link=False))
    assert_same(config, (80, 112))


@pytest.mark.parametrize('layers', [1, 2])
def test_fewer_decoder_layers_than_scales(layers):
    config = small_config('dgtl-mini')
    config = replace(config, head=replace(config.head, decoder_layers=layers))
    assert_same(config, config.input_size)


@pytest.mark.parametrize('name', PRESETS)
def test_folded_gives_the_same_on_real_pictures(name, shared):
    config = small_config(name)
    files = sorted((shared / 'data/camvid_day/val/images').iterdir())[::50]
    height, width = config.input_size
    pictures = [cv2.resize(cv2.imread(str(file))[..., ::-1], (width, height)) for file in files]
    assert_same(config, config.input_size, pictures=pictures)


def test_folding_leaves_the_segmenter_alone():
    config = small_config('dgtl-dinov2-s')
    model = small_segmenter(config, street(config.input_size)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model, config.input_size)
    assert model.training and not folded.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert not any(p.requires_grad for p in folded.parameters())


def test_folding_saves_work():
    config = small_config('rein-dinov2-l')
    picture = street(config.input_size)
    model = small_segmenter(config, picture)
    counts = []
    for call in (lambda: model(normalised(picture, config)),
                 lambda: fold(model, config.input_size)(torch.from_numpy(picture)[None])):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        counts.append(counter.get_total_flops())
    # Ten full-size predictions become one, token products and a 1x1 convolution become none.
    assert counts[1] < 0.95 * counts[0]


def test_refuses_what_it_cannot_fold():
    model = small_segmenter(small_config('dgtl-mini'), street((160, 224)))
    with pytest.raises(ValueError, match='multiples of the patch'):
        fold(model, (100, 224))
    with pytest.raises(ValueError, match="must be one of .*gather.*got 'nearest'"):
        fold(model, (160, 224), 'nearest')


def test_a_method_that_it_does_not_know_is_refused_and_not_left_out():
    made_of = small_config('rein-dinov2-l')
    model = Segmenter(replace(made_of, adapter=replace(made_of.adapter, method='lora')))
    with pytest.raises(ValueError, match="adapter.method 'lora' cannot be folded.*fold.py"):
        fold(model, made_of.input_size)


def test_a_part_that_it_does_not_know_is_refused_and_not_left_out():
    class Gate(Adapter):
        """Acts otherwise than an adapter does, and has the same parameters."""

        def forward(self, features, tokens, values):
            return 2 * super().forward(features, tokens, values)

    made_of = small_config('rein-dinov2-l')
    model = Segmenter(made_of)
    model.prompts = torch.nn.Embedding(4, 8)
    with pytest.raises(ValueError, match=r'the part prompts \(Embedding\) cannot be folded'):
        fold(model, made_of.input_size)
    del model.prompts
    model.adapter.__class__ = Gate
    with pytest.raises(ValueError, match=r'the part adapter \(Gate\) cannot be folded'):
        fold(model, made_of.input_size)
