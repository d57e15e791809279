# SPDX-License-Identifier: Apache-2.0
"""
Parity with the released codes: the recorded numbers come out of ours.

Small copies in ``test/golden`` run everywhere; the marker ``parity`` stands for the recordings
themselves. Tolerances are relative in the L2 norm unless they say otherwise.
"""

from functools import lru_cache
import os
from pathlib import Path

from dgtl_core.model.adapter import mask_link_matrix
from dgtl_core.model.mask_decoder import semantic_scores
from dgtl_core.model.neck import INTERPOLATE
from dgtl_core.model.released import segmenter_from_released
from dgtl_core.model.segmenter import slide
from dgtl_core.processing import windows
import golden_weights as recipe
import numpy as np
import pytest
import torch
import torch.nn.functional as F

SMALL = Path(__file__).parent / 'golden'
SHARED = Path(os.environ.get('DGTL_SHARED', '../shared')) / 'golden'


def case_params(small, large, folder):
    """Test the small copies always, the recordings with ``-m parity``."""
    marks = [pytest.mark.parity,
             pytest.mark.skipif(not SHARED.is_dir(), reason='no recordings: set DGTL_SHARED')]
    return [pytest.param(SMALL, name, id=f'{name}-small') for name in small] + [
        pytest.param(SHARED / folder, name, id=name, marks=marks) for name in large]


@lru_cache(maxsize=1)
def dgtl(depth, rank, out_indices, method='dgtl'):
    shapes = {**recipe.dinov2_shapes(depth), **recipe.adapter_shapes(depth, rank),
              **recipe.head_shapes(learned=False)}
    return segmenter_from_released(
        recipe.state_dict(shapes), method, 16, out_indices,
        text=recipe.texts() if method == 'dgtl' else None)


@lru_cache(maxsize=1)
def vltseg(depth, image_size, out_indices, seed):
    shapes = {**recipe.eva_shapes(depth, image_size // 14), **recipe.head_shapes(learned=True)}
    return segmenter_from_released(
        recipe.state_dict(shapes, seed), 'vltseg', 16, out_indices, image_size=image_size)


def close(actual, expected, tolerance, what=''):
    actual = np.asarray(actual.detach() if torch.is_tensor(actual) else actual, np.float64)
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, what
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error <= tolerance, f'{what}: relative error {error:.2e} > {tolerance:.0e}'


class Recorder:
    """Runs a segmenter and keeps what passes between its parts."""

    def __init__(self, model, images, labels=None):
        self.first, self.after_layer, self.allowed = {}, [], []
        block, adapter = model.backbone.vit.blocks[0], model.adapter
        hooks = [
            model.backbone.register_forward_hook(self._keep('features')),
            block.register_forward_hook(self._keep('block0')),
            block.attn.register_forward_hook(self._keep('attention0')),
            block.mlp.register_forward_hook(self._keep('mlp0')),
            block.register_forward_pre_hook(
                lambda _, args: self.first.setdefault('tokens_in', args[0])),
            model.neck.register_forward_hook(self._keep('pyramid')),
            model.pixel_decoder.register_forward_hook(self._keep('pixel'))]
        if adapter is not None:
            hooks.append(adapter.delta.register_forward_hook(self._keep('delta0')))
        for layer in model.mask_decoder.layers:
            hooks.append(layer.register_forward_pre_hook(
                lambda _, args: self.allowed.append(args[4])))
            hooks.append(layer.register_forward_hook(
                lambda _, __, out: self.after_layer.append(out)))
        try:
            with torch.no_grad():
                self.layers = model(images, labels)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, name):
        return lambda _, __, out: self.first.setdefault(name, out) is None or None


def check_head(run, head):
    if 'cls_pred' in head:
        classes = torch.stack([layer.classes for layer in run.layers])
        close(classes, head['cls_pred'], 2e-5, 'classes')
    for index, layer in enumerate(run.layers):
        masks = layer.masks.numpy()
        if f'mask_pred{index}' in head:
            close(masks, head[f'mask_pred{index}'], 2e-5, f'masks {index}')
        if f'mask_pred{index}_sub' in head:
            close(masks.ravel()[::head['mask_sub_step']], head[f'mask_pred{index}_sub'], 2e-5,
                  f'masks {index}')
    for index, allowed in enumerate(run.allowed):
        if f'attn_mask_bits_{index}' in head:
            blocked = np.unpackbits(head[f'attn_mask_bits_{index}'], count=allowed.numel())
            blocked = blocked.reshape(allowed.shape).astype(bool)
            blocked &= ~blocked.all(-1, keepdims=True)  # recorded before the unblocking
            different = (blocked == allowed.numpy()).sum()
            # A logit of 1e-6 may have either sign, depending on the processor.
            ties = 2 if head['min_margin'][index] < 1e-5 else 0
            assert different <= ties, f'{different} bits of attention mask {index}'
    mask_feature, memories = run.first['pixel']
    if 'mask_feature_sub' in head:
        step = 256 // head['mask_feature_sub'].shape[1]
        close(mask_feature[:, ::step], head['mask_feature_sub'], 1e-5, 'mask features')
    for index, memory in enumerate(memories):
        if f'memory{index}_sub' in head:
            expected = head[f'memory{index}_sub']
            close(memory[:, ::256 // expected.shape[1]], expected, 1e-5, f'memory {index}')
    if 'query_after_layer' in head:
        close(torch.stack(run.after_layer)[..., ::16], head['query_after_layer'], 2e-5, 'queries')


def check_semantic(run, semantic, size):
    scores = semantic_scores(run.layers[-1], size)
    step = int(semantic['seg_logits_stride'])
    close(scores[:, :, ::step, ::step], semantic['seg_logits'], 2e-5, 'scores')
    if 'argmax' in semantic:
        assert (scores.argmax(1).numpy() != semantic['argmax']).mean() < 1e-4


def check_checksum(values, expected, tolerance, what):
    found = recipe.checksum(values.detach().numpy())
    scale = expected[1]  # the sum of the absolute values
    weights = np.array([1, 1, 50])
    assert np.all(np.abs(found - expected) <= tolerance * scale * weights), what


DGTL_CASES = ['infer_64x96', 'train_64x96_b2', 'odd_infer_80x112', 'nonlora_infer_64x96']


@pytest.mark.parametrize(
    'folder, name', case_params(DGTL_CASES, [*DGTL_CASES, 'infer_512x512', 'full24_512x512'],
                                'cases'))
def test_dgtl(folder, name):
    backbone, facts = recipe.load_case(folder / f'{name}_backbone.npz')
    head, _ = recipe.load_case(folder / f'{name}_head.npz')
    semantic, _ = recipe.load_case(folder / f'{name}_semantic.npz')
    height, width, batch = facts['height'], facts['width'], facts['batch']
    model = dgtl(facts['depth'], 16 if facts['reins'] == 'LoRAReins' else 0,
                 tuple(facts['out_indices']))
    images = recipe.image(name, batch, height, width, facts['image_seed'])
    check_checksum(images, recipe.checksum(images), 0, 'recipe')
    labels = None
    if facts['labels'] is not None:
        labels = torch.from_numpy(backbone['labels'])
        model.train()
    try:
        run = Recorder(model, images, labels)
        tokens = model.adapter.tokens()
        linked = model.adapter.linked_tokens(tokens, labels)
    finally:
        model.eval()
    first = run.first
    channels = backbone['tokens_in'].shape[-1]
    step = 1024 // channels
    close(first['tokens_in'][..., ::step], backbone['tokens_in'], 1e-5, 'tokens in')
    close(first['block0'][..., ::step], backbone['block0_before_reins'], 1e-5, 'block 0')
    close(first['delta0'].transpose(0, 1)[..., ::step], backbone['delta0_unscaled'], 1e-5, 'delta')
    for index, feature in enumerate(first['features']):
        expected = backbone[f'feat{index}']
        close(feature[:, ::1024 // expected.shape[1]], expected, 1e-5, f'features {index}')
        expected = backbone[f'resized{index}_sub']
        resized = feature[:, ::1024 // expected.shape[1]]
        if INTERPOLATE[index] != 1:
            resized = F.interpolate(resized, scale_factor=INTERPOLATE[index], mode='bilinear')
        close(resized, expected, 1e-5, f'resized {index}')
    close(model.adapter.queries(tokens), backbone['queries'], 1e-5, 'queries')
    close(tokens[:, ::5, ::16], backbone['tokens_all_sub'], 1e-5, 'tokens')
    mean = backbone['global_token']
    close(tokens.mean(0)[:, ::1024 // mean.shape[1]], mean, 1e-5, 'mean token')
    for index in range(facts['depth']):
        close(linked[index, ::5, ::16], backbone[f'linked_tokens{index}_sub'], 1e-5, 'linked')
    check_head(run, head)
    if 'raw_mask_pred9_sub' in head:
        raw = torch.linalg.solve(  # undo the mask link
            mask_link_matrix(tokens).double(), run.layers[-1].masks.double().flatten(2))
        close(raw.flatten()[::int(head['mask_sub_step'])], head['raw_mask_pred9_sub'], 2e-5, 'raw')
    check_semantic(run, semantic, (height, width))


@pytest.mark.parametrize(
    'folder, name', case_params(['rein_infer_64x96'], ['rein_infer_64x96'], 'cases'))
def test_rein(folder, name):
    case, facts = recipe.load_case(folder / f'{name}.npz')
    model = dgtl(facts['depth'], 16, tuple(facts['out_indices']), 'rein')
    images = recipe.image('infer_64x96', 1, 64, 96, facts['image_seed'])
    run = Recorder(model, images)
    close(model.adapter.queries(model.adapter.tokens()), case['queries'], 1e-5, 'queries')
    for index, feature in enumerate(run.first['features']):
        expected = case[f'feat{index}']
        close(feature[:, ::1024 // expected.shape[1]], expected, 1e-5, f'features {index}')
    check_head(run, case)
    scores = semantic_scores(run.layers[-1], (64, 96))
    step = 64 // case['seg_logits'].shape[2]
    close(scores[:, :, ::step, ::step], case['seg_logits'], 2e-5, 'scores')
    assert (scores.argmax(1).numpy() != case['argmax']).mean() < 1e-3


@pytest.mark.parametrize('folder, name', case_params([], ['rein_eva02_512x512'], 'cases'))
def test_rein_on_eva02(folder, name):
    case, facts = recipe.load_case(folder / f'{name}.npz')
    depth = facts['depth']
    shapes = {**recipe.eva_shapes(depth, 32, patch=16, neck=False),
              **recipe.adapter_shapes(depth), **recipe.head_shapes(learned=False)}
    model = segmenter_from_released(recipe.state_dict(shapes), 'rein', 16, (0, 1, 2, 3))
    tokens = model.adapter.tokens()
    values = model.adapter.values(tokens)
    with torch.no_grad():
        features = model.backbone(
            recipe.image(name, 1, 512, 512, 1),
            lambda i, x: model.adapter(x, tokens[i], values[i]))
    close(model.adapter.queries(tokens), case['queries'], 1e-5, 'queries')
    for index, (feature, scale) in enumerate(zip(features, INTERPOLATE)):
        if scale != 1:
            feature = F.interpolate(feature, scale_factor=scale, mode='bilinear')
        check_checksum(feature, case[f'feat{index}_checksum'], 1e-6, f'features {index}')
        height = feature.shape[2]
        close(feature[:, ::32, ::height // 16, ::height // 16], case[f'feat{index}_sub'], 1e-5,
              f'features {index}')
    sine, cosine = model.backbone.rope((32, 32)).chunk(2, dim=1)
    np.testing.assert_array_equal(sine.numpy(), case['rope_sin'])
    np.testing.assert_array_equal(cosine.numpy(), case['rope_cos'])


def check_encoder(run, model, encoder):
    first = run.first
    sine, cosine = model.backbone.rope(model.backbone.grid).chunk(2, dim=1)
    step = int(encoder.get('rope_row_step', 1))
    np.testing.assert_array_equal(sine.numpy()[::step], encoder['rope_sin'])
    np.testing.assert_array_equal(cosine.numpy()[::step], encoder['rope_cos'])
    for ours, theirs in (('tokens_in', 'tokens_in'), ('attention0', 'attn0'), ('mlp0', 'mlp0')):
        if f'{theirs}_sub' in encoder:
            close(first[ours].flatten()[::int(encoder[f'{theirs}_step'])],
                  encoder[f'{theirs}_sub'], 3e-6, theirs)
    for ours, theirs in (('features', 'pre'), ('pyramid', 'neck')):
        for index, values in enumerate(first[ours]):
            step = int(encoder[f'{theirs}{index}_channel_step'])
            close(values[:, ::step], encoder[f'{theirs}{index}'], 3e-6, f'{theirs} {index}')


VLTSEG = ['full4_112', 'full4_128', 'full4_112_b2', 'enc4_img112_120x114', 'enc4_img112_56x224',
          'full24_224', 'full24_512']


@pytest.mark.parametrize(
    'folder, name', case_params(['full4_112', 'full4_128'], VLTSEG, 'vltseg/cases'))
def test_vltseg(folder, name):
    encoder, facts = recipe.load_case(folder / f'{name}_encoder.npz')
    size = (facts['height'], facts['width'])
    model = vltseg(
        facts['depth'], facts['img_size'], tuple(facts['out_indices']), facts['weight_seed'])
    images = recipe.image(name, facts['batch'], *size, facts['image_seed'])
    run = Recorder(model, images)
    check_encoder(run, model, encoder)
    if (folder / f'{name}_head.npz').exists():
        check_head(run, recipe.load_case(folder / f'{name}_head.npz')[0])
        check_semantic(run, recipe.load_case(folder / f'{name}_semantic.npz')[0], size)


@pytest.mark.parametrize('folder, name', case_params([], ['slide_512x700'], 'cases'))
def test_sliding_window_dgtl(folder, name):
    case, facts = recipe.load_case(folder / f'{name}.npz')
    check_slide(dgtl(4, 16, (0, 1, 2, 3)), case, facts, name)


@pytest.mark.parametrize(
    'folder, name', case_params([], ['slide4_112_150x260', 'slide4_512_512x1024'], 'vltseg/cases'))
def test_sliding_window_vltseg(folder, name):
    case, facts = recipe.load_case(folder / f'{name}.npz')
    model = vltseg(4, facts['img_size'], tuple(facts['out_indices']), facts['weight_seed'])
    assert model.config.window_stride == tuple(facts['stride'])
    check_slide(model, case, facts, name)


def check_slide(model, case, facts, name):
    height, width = facts['height'], facts['width']
    images = recipe.image(name, 1, height, width, facts['image_seed'])
    crop, stride = tuple(facts['crop']), tuple(facts['stride'])
    spans = windows((height, width), crop, stride)
    assert [[y1 - y0, x1 - x0] for y0, y1, x0, x1 in spans] == case[
        'window_sizes'].tolist()
    with torch.no_grad():
        scores = slide(model.scores, images, crop, stride)
    rows, columns = case['seg_logits_sub'].shape[2:]
    down, right = -(-height // rows), -(-width // columns)
    close(scores[:, :, ::down, ::right], case['seg_logits_sub'], 2e-5, 'scores')
    check_checksum(scores, case['seg_logits_checksum'], 1e-5, 'scores')
    found = scores.argmax(1).numpy()
    step = height // case['argmax'].shape[1]
    assert (found[:, ::step, ::step] != case['argmax']).mean() < 1e-4


@pytest.mark.parametrize('folder, name', case_params([], ['prepost'], 'cases'))
def test_input_and_output_around_the_model(folder, name):
    case, _ = recipe.load_case(folder / f'{name}.npz')
    model = dgtl(4, 16, (0, 1, 2, 3))
    rgb = torch.from_numpy(case['raw_bgr_u8'][..., ::-1].copy()).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.mean, model.config.std))
    close((rgb - mean) / std, case['eval_input'], 1e-6, 'input')
    with torch.no_grad():
        scores = model.scores(recipe.image('infer_64x96', 1, 64, 96, 3))
    scores = F.interpolate(scores, size=(130, 190), mode='bilinear', align_corners=False)
    check_checksum(scores, case['scores_130x190_checksum'], 1e-5, 'resized scores')
    assert (scores.argmax(1)[0].numpy() != case['pred_130x190']).mean() < 1e-4
