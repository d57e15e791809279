# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints: what is read from shapes, what is refused and how."""

import json
import pickle
import re

from dgtl_core.config import AdapterConfig
from dgtl_core.model.backbone_weights import backbone_state, read_state_dict
from dgtl_core.model.released import segmenter_from_released
from dgtl_core.model.vit import Backbone
import golden_weights as recipe
import pytest
import torch

DIM = 128  # two heads of 64
HEAD = {'in_channels': DIM, 'dim': 32, 'queries': 12, 'classes': 5, 'encoder': (2, 40),
        'decoder': (3, 48), 'points': 2}


def dgtl_state(rank=3, depth=4, places=10, **changes):
    shapes = {**recipe.dinov2_shapes(depth, DIM, patch=16, places=places),
              **recipe.adapter_shapes(depth, rank, DIM, tokens=12, hidden=32),
              **recipe.head_shapes(False, **{**HEAD, **changes})}
    return recipe.state_dict(shapes)


def vltseg_state(depth=4, grid=4):
    shapes = {**recipe.eva_shapes(depth, grid, dim=DIM, hidden=int(DIM * 8 / 3)),
              **recipe.head_shapes(True, **HEAD)}
    return recipe.state_dict(shapes)


def load(state, method='dgtl', **options):
    return segmenter_from_released(state, method, 2, (0, 1, 2, 3), **options)


def run(model, size):
    with torch.no_grad():
        return model(torch.randn(1, 3, *size))[-1]


@pytest.mark.parametrize('rank', [0, 3])
def test_everything_is_read_from_the_shapes(rank):
    model = load(dgtl_state(rank))
    config = model.config
    assert config.backbone.sizes == (DIM, 4, 2)
    assert (config.backbone.patch_size, config.backbone.img_size) == (16, (48, 48))
    assert config.adapter == AdapterConfig(num_tokens=12, rank=rank)
    assert (config.head.hidden_dim, config.head.num_queries) == (32, 12)
    assert (config.head.encoder_layers, config.head.decoder_layers) == (2, 3)
    assert (config.head.encoder_feedforward, config.head.decoder_feedforward) == (40, 48)
    assert config.head.num_points == 2 and config.num_classes == 5
    assert not model.training
    assert run(model, (48, 64)).classes.shape == (1, 12, 6)


def test_rein_has_no_text_and_no_mask_link():
    model = load(dgtl_state(), 'rein')
    assert model.config.method == 'rein' and model.adapter.text_link is None
    assert not model.config.adapter.mask_link


def test_vltseg_is_a_whole_model_of_its_own_size():
    model = load(vltseg_state(), 'vltseg', image_size=63)
    assert model.config.method == 'vltseg' and model.adapter is None
    assert model.config.backbone.img_size == model.config.input_size == (63, 63)
    assert all(p.requires_grad for p in model.parameters())
    assert run(model, (63, 63)).masks.shape == (1, 12, 16, 16)
    assert load(vltseg_state(), 'vltseg').config.input_size == (56, 56)


@pytest.mark.parametrize('size, stride', [(512, 341), (1024, 683)])
def test_window_strides_of_dgtl(size, stride):
    model = load(dgtl_state(places=(size // 16) ** 2 + 1))
    assert model.config.input_size == (size, size)
    assert model.config.window_stride == (stride, stride)


@pytest.mark.parametrize('size, stride', [(112, 93), (512, 426), (1024, 768)])
def test_window_strides_of_vltseg(size, stride):
    model = load(vltseg_state(grid=size // 14), 'vltseg', image_size=size)
    assert model.config.window_stride == (stride, stride)


def test_texts_are_for_training():
    texts = torch.randn(5, DIM)
    model = load(dgtl_state(), text=texts)
    assert torch.equal(model.adapter.text_link.texts, texts)
    images, labels = torch.randn(2, 3, 48, 48), torch.full((2, 48, 48), 3)
    model.train()(images, labels)
    without = load(dgtl_state()).train()
    with pytest.raises(ValueError, match='needs class texts'):
        without(images, labels)
    with pytest.raises(ValueError, match=r'text must be .* = \(5, 128\), got \(4, 128\)'):
        load(dgtl_state(), text=texts[:4])


def test_frozen_tensors_are_shared_and_trained_ones_copied():
    state = dgtl_state()
    model = load(state)
    assert model.backbone.vit.cls_token.data_ptr() == state['backbone.cls_token'].data_ptr()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    model.adapter.scale.data += 1
    model.mask_decoder.class_head.weight.data += 1
    again = dgtl_state()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_names_beside_the_weights_are_dropped():
    state = dgtl_state()
    state['backbone.reins.clip_model.visual.conv1.weight'] = torch.zeros(1)
    del state['backbone.mask_token'], state['backbone.norm.weight'], state['backbone.norm.bias']
    load(state)
    state = vltseg_state()
    for prefix in ('backbone.rope', 'backbone.blocks.0.attn.rope'):
        state[f'{prefix}.freqs_cos'] = torch.zeros(16, 64)
    load(state, 'vltseg')


def without(state, start):
    return {key: value for key, value in state.items() if not key.startswith(start)}


@pytest.mark.parametrize('change, message', [
    (lambda s: {k: v for k, v in s.items() if 'reins' in k or 'decode_head' in k},
     r'no backbone .* holds only adapter and head. Add the DINOv2 file .* --backbone'),
    (lambda s: without(s, 'backbone.reins'), r'no adapter \(backbone.reins.\*\)'),
    (lambda s: without(s, 'decode_head'), 'no head'),
    (lambda s: without(s, 'backbone.blocks.2.norm1'),
     r'2 missing \(backbone.blocks.2.norm1.bias, .*Take the file of the same'),
    (lambda s: {**s, 'backbone.blocks.9.extra': torch.zeros(1)}, 'missing|shape|unexpected'),
    (lambda s: {**s, 'decode_head.extra': torch.zeros(1)}, r'1 unexpected \(decode_head.extra\)'),
    (lambda s: {**s, 'decode_head.querys2feat.bias': torch.zeros(7)},
     r'1 of another shape \(decode_head.querys2feat.bias is \(7,\) instead of \(32,\)\)'),
    (lambda s: {**s, 'backbone.pos_embed': torch.zeros(1, 12, DIM)}, 'square grid, got 12'),
    (lambda s: without(s, 'decode_head.level_embed'), 'no decode_head.level_embed.weight'),
    (lambda s: {**s, **recipe.state_dict(recipe.adapter_shapes(6, 3, DIM, 12, 32))},
     r'tokens_a is \(6, 12, 3\) instead of \(4, 12, 3\)'),
    (lambda s: {**s, **recipe.state_dict(recipe.dinov2_shapes(4, 192, places=10))},
     r'of another shape .*\(128, 128\) instead of \(192, 192\)'),
], ids=['backbone', 'adapter', 'head', 'block', 'extra block', 'extra', 'shape', 'grid', 'level',
        'depth', 'width'])
def test_a_file_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load(change(dgtl_state()))


@pytest.mark.parametrize('key', [
    'backbone.blocks.1.ls1.gamma', 'backbone.reins.learnable_tokens_b', 'backbone.reins.scale',
    'decode_head.cls_embed.bias', 'decode_head.mask_embed.2.bias',
    'decode_head.pixel_decoder.input_convs.1.gn.bias',
    'decode_head.pixel_decoder.lateral_convs.0.gn.weight',
    'decode_head.pixel_decoder.encoder.layers.1.norms.0.weight',
    'decode_head.transformer_decoder.layers.2.cross_attn.attn.in_proj_bias',
    'decode_head.transformer_decoder.layers.0.ffn.layers.1.bias'])
def test_a_missing_tensor_is_named_as_in_the_published_file(key):
    state = dgtl_state()
    del state[key]
    with pytest.raises(ValueError, match=rf'1 missing \({re.escape(key)}\)'):
        load(state)


@pytest.mark.parametrize('key', [
    'backbone.blocks.1.attn.q_bias', 'backbone.blocks.0.mlp.w3.weight', 'backbone.fpn1.1.bias',
    'backbone.blocks.3.mlp.ffn_ln.bias', 'decode_head.query_embed.weight'])
def test_a_missing_tensor_of_vltseg_is_named_as_in_the_published_file(key):
    state = vltseg_state()
    del state[key]
    with pytest.raises(ValueError, match=rf'1 missing \({re.escape(key)}\)'):
        load(state, 'vltseg')


@pytest.mark.parametrize('method, width, file', [
    ('dgtl', 384, 'dinov2_vits14_pretrain.pth'), ('rein', 768, 'dinov2_vitb14_pretrain.pth'),
    ('rein', 1024, 'dinov2_vitl14_pretrain.pth'), ('vltseg', 0, 'the published VLTSeg .pth')])
def test_says_which_file_has_the_missing_backbone(method, width, file):
    state = {'decode_head.cls_embed.weight': torch.zeros(1)}
    if width:
        state['backbone.reins.mlp_delta_f.bias'] = torch.zeros(width)
    with pytest.raises(ValueError, match=f'no backbone .*{file}') as error:
        load(state, method)
    assert method != 'vltseg' or '--adapter' not in str(error.value)


def test_takes_what_a_training_run_wraps_around_the_tensors():
    state = dgtl_state()
    wrapped = {'state_dict': {f'module.{key}': value for key, value in state.items()},
               'meta': {'epoch': 3}}
    assert torch.equal(load(wrapped).adapter.tokens_a, state['backbone.reins.learnable_tokens_a'])
    load({**state, 'iter': 40000})
    with pytest.raises(ValueError, match='the state dict holds no weights: expected a mapping'):
        load({key: value.numpy() for key, value in state.items()})


def test_refuses_an_unknown_method_and_another_image_size():
    with pytest.raises(ValueError, match='method must be one of .* got .sora'):
        load(dgtl_state(), 'sora')
    with pytest.raises(ValueError, match='image_size 512 has 36x36 patches of 14, but .* 4x4'):
        load(vltseg_state(), 'vltseg', image_size=512)


def listed(entries, prefix=''):
    """Tensors with shapes and no numbers, from a recorded list of keys."""
    return {f'{prefix}{key}': torch.empty(
        entry['shape'], dtype=getattr(torch, entry['dtype']), device='meta')
        for key, entry in entries.items()}


def count(model, trained):
    return sum(p.numel() for p in model.parameters() if p.requires_grad == trained)


def test_every_key_of_the_published_files_finds_its_place(shared):
    golden = shared / 'golden'
    recorded = json.loads((golden / 'dgtl_checkpoint_keys.json').read_text())
    trained = recorded['training_checkpoint']
    adapter = {**listed(trained['rein_and_head']), **listed(trained['clip_model'])}
    state = {**adapter, **listed(recorded['backbone_file']['keys'], 'backbone.')}
    for method in ('dgtl', 'rein'):
        model = segmenter_from_released(state, method, 16, (7, 11, 15, 23))
        assert model.config.name == f'{method}-dinov2-l'
        assert model.config.input_size == (512, 512) and model.config.num_classes == 19
        assert (count(model, True), count(model, False)) == (23_569_877, 304_199_680)
    facebook = listed(recorded['facebook_dinov2_vitl14_pretrain']['keys'])
    with torch.device('meta'):
        made = Backbone(model.config.backbone)
    converted = backbone_state(facebook, made, 'the file of facebook')
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in made.vit.state_dict().items()}

    recorded = json.loads((golden / 'rein_eva02_checkpoint_keys.json').read_text())
    model = segmenter_from_released(
        {**listed(recorded['rein_and_head']), **listed(recorded['backbone'])}, 'rein', 16,
        (7, 11, 15, 23))
    assert model.config.backbone.family == 'eva02' and count(model, True) == 23_569_877

    recorded = json.loads((golden / 'vltseg' / 'vltseg_checkpoint_keys.json').read_text())
    model = segmenter_from_released(
        listed(recorded['keys']), 'vltseg', 16, (9, 14, 19, 23), image_size=512)
    assert count(model, True) == 337_484_948 and count(model, False) == 0
    assert model.config.input_size == (512, 512)


class Payload:
    def __reduce__(self):
        return (__import__('os').system, ('touch /nonexistent/executed',))


class HistoryBuffer:  # takes the place of mmengine's, below
    def __init__(self):
        self.values = [1.0, 2.0]


def test_training_bookkeeping_is_tolerated_without_its_library(tmp_path, monkeypatch):
    import collections

    import numpy as np

    monkeypatch.setattr(HistoryBuffer, '__module__', 'mmengine.logging.history_buffer')
    fake = type(recipe)('mmengine.logging.history_buffer')
    fake.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(__import__('sys').modules, 'mmengine', type(recipe)('mmengine'))
    monkeypatch.setitem(__import__('sys').modules, 'mmengine.logging', type(recipe)('logging'))
    monkeypatch.setitem(__import__('sys').modules, 'mmengine.logging.history_buffer', fake)
    path = tmp_path / 'training.pth'
    torch.save({
        'state_dict': {'module.w': torch.ones(2)},
        'meta': {'seed': np.int64(3), 'time': 'now'},
        'message_hub': {'log_scalars': collections.OrderedDict(loss=HistoryBuffer()),
                        'history': np.arange(4.0), 'window': collections.deque([1, 2])},
    }, path)
    monkeypatch.undo()
    assert torch.equal(read_state_dict(path)['w'], torch.ones(2))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / 'bad.pth'
    torch.save({'state_dict': {'w': torch.ones(2)}, 'meta': Payload()}, path)
    with pytest.raises(ValueError, match=r'refused: loading it would run code \(.*system\)'):
        read_state_dict(path)


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / 'bad.pth'
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match=r'pickle with code in it, which is not run. Expected'):
        read_state_dict(path)


@pytest.mark.parametrize('content, message', [
    (b'nonsense', 'cannot be read as weights'), (b'', 'cannot be read as weights')])
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(path)
    path = tmp_path / 'x.safetensors'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='is not a .safetensors file'):
        read_state_dict(path)


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({'meta': 1}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='holds no weights'):
        read_state_dict(tmp_path / 'x.pth')
    torch.save([1], tmp_path / 'y.pth')
    with pytest.raises(ValueError, match='got list'):
        read_state_dict(tmp_path / 'y.pth')
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / 'none.pth')


@pytest.mark.parametrize('method, state', [
    ('dgtl', dgtl_state(depth=8)), ('vltseg', vltseg_state(depth=8))])
def test_heads_and_blocks_have_the_values_of_the_released_codes(method, state):
    backbone = segmenter_from_released(state, method).config.backbone
    assert backbone.out_indices == (1, 3, 5, 7) and backbone.num_heads == 2
