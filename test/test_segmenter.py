# SPDX-License-Identifier: Apache-2.0
"""The whole segmenter: contract, training, presets, sliding window."""

import dataclasses

from dgtl_core.config import LightHeadConfig, preset, PRESETS
from dgtl_core.model.segmenter import build_segmenter, Segmenter, slide
from dgtl_core.processing import windows
import numpy as np
import pytest
from tiny_segmenter import CLASSES, plain_adapter, tiny
import torch

RELEASED = {'backbone': {'trainable': False}, 'text': {'width': 64},
            'adapter': {'text_link': 'present'}}


def model(**changes):
    torch.manual_seed(0)
    made = build_segmenter(tiny(**changes))
    if made.adapter is not None and made.adapter.text_link is not None:
        made.set_texts(torch.randn_like(made.adapter.text_link.texts))
    return made


def pictures(batch=2, height=64, width=96):
    torch.manual_seed(1)
    return torch.randn(batch, 3, height, width)


@pytest.mark.parametrize('changes', [
    {}, RELEASED, {'adapter': {'rank': 0}}, plain_adapter(), {'adapter': {'mask_link': False}},
    {'adapter': {'method': 'rein', 'text_link': 'off', 'mask_link': False}},
    {'backbone': {'name': 'eva02', 'positions': 'size'}, 'neck': 'beit', **plain_adapter()},
    {'backbone': {'name': 'dinov3'}}, {'backbone': {'name': 'siglip2'}},
], ids=str)
def test_one_prediction_per_layer_and_gradients_for_all_that_is_trained(changes):
    made = model(**changes).train()
    for parameter in made.parameters():  # some weights start as zeros
        parameter.data += 0.02 * torch.randn_like(parameter)
    labels = torch.zeros(2, 64, 96, dtype=torch.long)
    layers = made(pictures(), labels)
    assert len(layers) == 5
    for layer in layers:
        assert layer.classes.shape == (2, 10, 4)
        assert layer.masks.shape == (2, 10, 16, 24)
    sum(part.square().mean() for layer in layers for part in layer).backward()
    without = [name for name, p in made.named_parameters()
               if p.requires_grad and (p.grad is None or not p.grad.any())]
    # the last block's prefix tokens and the keys' bias have no influence on any output
    assert not [name for name in without if not name.startswith('backbone.vit.')], without
    frozen = [name for name, p in made.named_parameters()
              if not p.requires_grad and p.grad is not None]
    assert not frozen


def test_eval_depends_on_each_picture_alone():
    made, images = model().eval(), pictures(3)
    with torch.no_grad():
        batch, single = made(images)[-1], made(images[1:2])[-1]
    torch.testing.assert_close(batch.masks[1:2], single.masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch.classes[1:2], single.classes, rtol=1e-4, atol=1e-4)


def test_predict_and_scores_are_the_last_layer():
    made, images = model().eval(), pictures()
    with torch.no_grad():
        last, short = made(images)[-1], made.predict(images)
        assert made.scores(images).shape == (2, 3, 64, 96)
    assert torch.equal(last.masks, short.masks) and torch.equal(last.classes, short.classes)


def test_forward_stores_nothing():
    made = model().train()
    before = {key: id(value) for module in made.modules() for key, value in vars(module).items()}
    state = {key: value.clone() for key, value in made.state_dict().items()}
    made(pictures(), torch.zeros(2, 64, 96, dtype=torch.long))
    after = {key: id(value) for module in made.modules() for key, value in vars(module).items()}
    assert before == after
    assert all(torch.equal(state[key], value) for key, value in made.state_dict().items())


def test_released_text_link_needs_labels_only_while_training():
    made = model(**RELEASED)
    with torch.no_grad():
        made.eval()(pictures())
        with pytest.raises(ValueError, match=r'call model\(images, labels\)'):
            made.train()(pictures())


def test_refuses_labels_that_are_not_those_of_the_pictures():
    made, labels = model(**RELEASED).train(), torch.zeros(3, 64, 96, dtype=torch.uint8)
    for wrong in (labels[:1], labels[:, None]):
        with pytest.raises(ValueError, match=r'labels must be \(B, H, W\) with B = 3'):
            made(torch.randn(3, 3, 64, 96), wrong)


@pytest.mark.parametrize('size', [(16, 64), (64, 16)])
def test_refuses_a_picture_of_one_patch(size):
    with pytest.raises(ValueError, match='at least 32x32, two patches of 16 each way, got'):
        model().eval()(torch.randn(1, 3, *size))


def test_text_link_reaches_the_features():
    made, images = model().eval(), pictures(1)
    with torch.no_grad():
        before = made(images)[-1].classes
        made.set_texts(torch.randn(3, 24))
        assert (made(images)[-1].classes - before).abs().max() > 1e-6


def test_texts_are_part_of_the_state_and_checked():
    made = model()
    assert made.state_dict()['adapter.text_link.texts'].shape == (3, 24)
    with pytest.raises(ValueError, match=r'\(classes, width\) = \(3, 24\), got \(4, 24\)'):
        made.set_texts(torch.zeros(4, 24))
    with pytest.raises(ValueError, match='has no text link'):
        model(**plain_adapter()).set_texts(torch.zeros(3, 24))


def test_texts_come_from_the_configured_file(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    path = tmp_path / 'texts.npz'
    np.savez(path, embeddings=rows, classes=np.array(['sky', 'train', 'road', 'car']))
    made = build_segmenter(tiny(text={'file': str(path), 'width': 24}))
    expected = torch.from_numpy(rows[[2, 3, 0]])  # in the order of the classes
    torch.testing.assert_close(made.adapter.text_link.texts, expected)
    np.savez(path, embeddings=rows[:2], classes=np.array(['sky', 'car']))
    with pytest.raises(ValueError, match=r"no text for \['road'\]"):
        build_segmenter(tiny(text={'file': str(path), 'width': 24}))


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_preset_builds_and_runs(name):
    config = preset(name)
    with torch.device('meta'):
        made = Segmenter(config).eval()
        layers = made(torch.empty(1, 3, *config.input_size))
    if isinstance(config.head, LightHeadConfig):
        assert len(layers) == 1
        assert layers[-1].classes.shape == (1, 19, 20)
    else:
        assert len(layers) == config.head.decoder_layers + 1
        assert layers[-1].classes.shape == (1, config.head.num_queries, 20)
    backbone = sum(p.requires_grad for p in made.backbone.parameters())
    assert bool(backbone) == config.backbone.trainable


def test_parameters_as_released():
    def count(part, trained):
        return sum(p.numel() for p in part.parameters() if p.requires_grad == trained)

    with torch.device('meta'):
        dgtl, vlt = Segmenter(preset('dgtl-dinov2-l')), Segmenter(preset('vltseg-eva02-l'))
    assert count(dgtl.adapter, True) == 2_990_081
    assert count(dgtl.pixel_decoder, True) + count(dgtl.mask_decoder, True) == 20_579_796
    assert count(dgtl, True) == 2_990_081 + 20_579_796
    assert count(dgtl, False) == 304_199_680
    assert count(vlt.backbone, True) == 304_331_712
    assert count(vlt.neck, True) == 12_588_032
    assert count(vlt.pixel_decoder, True) + count(vlt.mask_decoder, True) == 20_565_204


def test_learns_one_picture():
    """Some steps on one picture bring its loss down: the whole is connected the right way."""
    made = model(head={'decoder_layers': 2}, backbone={'trainable': True}).train()
    images = pictures(1)
    target = (torch.arange(24) < 12).float().expand(16, 24)
    optimizer = torch.optim.AdamW(made.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        last = made(images)[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            last.masks[0, 0], target) + torch.nn.functional.cross_entropy(
            last.classes[0, :1], torch.tensor([1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


def test_slide_is_the_mean_over_the_covering_windows():
    images = torch.randn(1, 3, 10, 25)

    def scores(part):  # knows where it is only through its content
        return torch.cat((part[:, :1] * 2, part.mean(dim=(2, 3), keepdim=True)[:, 1:2].expand(
            -1, -1, *part.shape[2:])), dim=1)

    found = slide(scores, images, (8, 10), (4, 6))
    torch.testing.assert_close(found[:, :1], images[:, :1] * 2)
    expected = torch.zeros(10, 25)
    cover = torch.zeros(10, 25)
    for y0, y1, x0, x1 in windows((10, 25), (8, 10), (4, 6)):
        expected[y0:y1, x0:x1] += images[0, 1, y0:y1, x0:x1].mean()
        cover[y0:y1, x0:x1] += 1
    torch.testing.assert_close(found[0, 1], expected / cover)


def test_configuration_of_another_class_set():
    assert tiny().num_classes == len(CLASSES) == 3
    assert dataclasses.replace(tiny(), name='x').name == 'x'


@pytest.mark.parametrize(
    'changes', [{}, RELEASED, plain_adapter()], ids=['all', 'present', 'none'])
def test_exports_without_data_dependent_operations(changes):
    made = model(**changes).eval()
    exported = torch.export.export(made, (pictures(1),))
    names = {str(node.target) for node in exported.graph.nodes if node.op == 'call_function'}
    assert not {n for n in names if 'nonzero' in n or 'scatter' in n or '_aa' in n}, names
    assert any('scaled_dot_product_attention' in n for n in names)
    with torch.no_grad():
        for ours, theirs in zip(made(pictures(1))[-1], exported.module()(pictures(1))[-1]):
            torch.testing.assert_close(ours, theirs)
