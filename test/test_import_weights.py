# SPDX-License-Identifier: Apache-2.0
"""Backbone files of every kind, the exact conversion, and the command."""

from pathlib import Path

from dgtl_core.config import BackboneConfig
from dgtl_core.model.backbone_weights import (
    backbone_state,
    convert_patch,
    convert_positions,
    load_backbone,
    resize_kernel,
)
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.released import default_out_indices, segmenter_from_released
from dgtl_core.model.vit import Backbone, timm_name
import golden_weights as recipe
import numpy as np
import pytest
from test_released import dgtl_state, DIM, HEAD, vltseg_state
import timm
import torch
from training.import_weights import main

SMALL = Path(__file__).parent / 'golden'


def close(actual, expected):
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 1e-6, error


def test_conversion_gives_the_recorded_numbers():
    case, _ = recipe.load_case(SMALL / 'conversion.npz')
    embedding = recipe.tensor('convert/pos_embed', (1, 1370, 1024))
    found = convert_positions(embedding, (32, 32), 1)
    assert found.shape == (1, 1025, 1024)
    close(recipe.checksum(found), case['pos_embed_512_checksum'])
    np.testing.assert_array_equal(found[0, 0].numpy(), case['pos_embed_512_cls'])
    rng = np.random.default_rng([__import__('zlib').crc32(b'convert/patch_embed.proj.weight'), 0])
    kernel = torch.from_numpy(rng.standard_normal((1024, 3, 14, 14)).astype(np.float32))
    patch = convert_patch(kernel, 16)
    assert patch.shape == (1024, 3, 16, 16)
    close(recipe.checksum(patch), case['patch_512_checksum'])
    step = 1024 // len(case['patch_512_sub'])
    close(patch[::step].numpy(), case['patch_512_sub'])
    eva = convert_positions(recipe.tensor('convert/eva/pos_embed', (1, 257, 1024)), (32, 32), 1)
    close(recipe.checksum(eva), case['eva_pos_checksum'])


def test_conversion_leaves_what_fits():
    kernel, embedding = torch.randn(4, 3, 16, 16), torch.randn(1, 7, 4)
    assert convert_patch(kernel, 16) is kernel
    assert convert_positions(embedding, (2, 3), 1) is embedding
    with pytest.raises(ValueError, match='no square grid'):
        convert_positions(embedding, (4, 4), 1)


@pytest.mark.parametrize('old, new', [(14, 32), (16, 32), (14, 15)])
def test_a_kernel_of_a_larger_patch_answers_to_an_enlarged_picture_alike(old, new):
    kernel, pictures = torch.randn(8, 3, old, old), torch.randn(6, 3, old, old)
    large = torch.nn.functional.interpolate(pictures, (new, new), mode='bilinear')
    expected = torch.nn.functional.conv2d(pictures, kernel)
    found = torch.nn.functional.conv2d(large, resize_kernel(kernel, new))
    assert (found - expected).norm() / expected.norm() < 1e-5
    plain = torch.nn.functional.conv2d(large, convert_patch(kernel, new))
    assert (plain - expected).norm() / expected.norm() > 1e-2


@pytest.mark.parametrize('patch, resized', [(16, convert_patch), (32, resize_kernel)])
def test_a_file_of_another_patch_is_resized_as_the_published_adapters_know_it_or_exactly(
        patch, resized):
    made, _ = backbone(patch_size=patch, img_size=(4 * patch, 4 * patch))
    state = backbone_state(facebook(), made, 'file')
    assert torch.equal(state['patch_embed.proj.weight'],
                       resized(facebook()['patch_embed.proj.weight'], patch))


def facebook(places=26, registers=0):
    """A file as facebook publishes it: patches of 14, no prefix."""
    shapes = recipe.dinov2_shapes(4, DIM, patch=14, places=places)
    state = {key.removeprefix('backbone.'): value
             for key, value in recipe.state_dict(shapes).items()}
    if registers:
        state['register_tokens'] = torch.randn(1, registers, DIM)
    return state


def backbone(family='dinov2', **changes):
    options = {'name': family, 'embed_dim': DIM, 'depth': 4, 'num_heads': 2,
               'img_size': (48, 64), 'out_indices': (0, 1, 2, 3), **changes}
    return Backbone(BackboneConfig(**options)), BackboneConfig(**options)


def test_facebook_file_is_converted_and_loaded_from_a_path(tmp_path):
    torch.save(facebook(), tmp_path / 'dinov2.pth')
    made, config = backbone(weights=str(tmp_path / 'dinov2.pth'))
    load_backbone(made, config)
    state = made.vit.state_dict()
    assert torch.equal(state['blocks.3.mlp.fc1.weight'], facebook()['blocks.3.mlp.fc1.weight'])
    assert torch.equal(
        state['patch_embed.proj.weight'],
        convert_patch(facebook()['patch_embed.proj.weight'], 16))
    assert torch.equal(state['pos_embed'], convert_positions(facebook()['pos_embed'], (3, 4), 1))


def test_facebook_file_with_registers_adds_the_place_of_the_class_token():
    made, _ = backbone('dinov2-reg')
    given = facebook(registers=4)
    state = backbone_state(given, made, 'file')
    assert torch.equal(state['cls_token'], given['cls_token'] + given['pos_embed'][:, :1])
    assert torch.equal(
        state['pos_embed'], convert_positions(given['pos_embed'][:, 1:], (3, 4), 0))
    assert torch.equal(state['reg_token'], given['register_tokens'])


def test_timms_file_needs_no_mask_token():
    made, _ = backbone()
    given = {key: value + 1 for key, value in made.vit.state_dict().items()
             if key != 'mask_token'}
    assert torch.equal(backbone_state(given, made, 'file')['cls_token'], given['cls_token'])


def eva_file(grid=4):
    """EVA-CLIP's tower: with the attention norm, final norm, head, rotary tables and a text."""
    shapes = recipe.eva_shapes(4, grid, neck=False, dim=DIM, hidden=int(DIM * 8 / 3))
    state = {key.replace('backbone.', 'visual.'): value
             for key, value in recipe.state_dict(shapes).items()}
    for i in range(4):
        for kind in ('weight', 'bias'):
            state[f'visual.blocks.{i}.attn.inner_attn_ln.{kind}'] = torch.randn(DIM)
    state.update({
        'visual.norm.weight': torch.ones(DIM), 'visual.norm.bias': torch.ones(DIM),
        'visual.head.weight': torch.ones(8, DIM), 'visual.rope.freqs_cos': torch.ones(16, 64),
        'text.x': torch.ones(1), 'logit_scale': torch.ones(())})
    return state


def test_eva_clip_file_is_kept_whole():
    made, _ = backbone('eva02', patch_size=14, img_size=(70, 70), positions='size')
    state = backbone_state(eva_file(), made, 'file')
    given = eva_file()
    assert torch.equal(state['blocks.1.mlp.fc1_g.weight'], given['visual.blocks.1.mlp.w1.weight'])
    assert torch.equal(state['blocks.1.attn.q_proj.bias'], given['visual.blocks.1.attn.q_bias'])
    assert 'blocks.1.attn.norm.weight' in state
    assert torch.equal(
        state['pos_embed'], convert_positions(given['visual.pos_embed'], (5, 5), 1))


def test_eva_clip_file_as_vltseg_treats_it(caplog):
    made, _ = backbone(
        'eva02', patch_size=14, img_size=(70, 70), positions='fixed', attn_norm=False)
    state = backbone_state(eva_file(), made, 'file')
    assert not any('attn.norm' in key for key in state)
    assert torch.equal(state['pos_embed'], made.vit.pos_embed)  # skipped, so random
    assert 'it is left random' in caplog.text


@pytest.mark.parametrize('family, positions', [
    ('dinov2', 'scale'), ('dinov2-reg', 'scale'), ('dinov3', 'size'), ('eva02', 'size'),
    ('clip', 'size'), ('siglip2', 'size')])
def test_timms_file_of_every_family_fits(family, positions):
    patch = 14 if family == 'eva02' else 16
    made, config = backbone(family, positions=positions, patch_size=patch, img_size=(56, 112))
    published = timm.create_model(  # as _published makes it: at its own patch and picture size
        timm_name(config), num_classes=0, embed_dim=DIM, depth=4, num_heads=2)
    state = backbone_state(published.state_dict(), made, 'file')
    made.vit.load_state_dict(state)
    theirs = published.state_dict()
    for key in ('blocks.3.mlp.fc2.weight', 'blocks.0.norm1.bias'):
        assert torch.equal(made.vit.state_dict()[key], theirs[key])
    if made.vit.pos_embed is not None:
        assert made.vit.pos_embed.shape[1] - theirs['pos_embed'].shape[1] < 0  # resized
    with torch.no_grad():
        assert made(torch.randn(1, 3, 2 * patch, 4 * patch))[-1].isfinite().all()


@pytest.mark.parametrize('method, depth, expected', [
    ('dgtl', 24, (7, 11, 15, 23)), ('rein', 12, (3, 5, 7, 11)), ('vltseg', 24, (9, 14, 19, 23)),
    ('dgtl', 4, (0, 1, 2, 3))])
def test_features_come_from_the_released_blocks(method, depth, expected):
    state = {f'backbone.blocks.{i}.norm1.weight': torch.zeros(1) for i in range(depth)}
    assert default_out_indices(state, method) == expected


def test_a_backbone_file_that_does_not_fit_names_the_keys():
    made, _ = backbone()
    given = facebook()
    del given['blocks.1.norm1.bias']
    given['blocks.7.x'] = torch.zeros(1)
    with pytest.raises(
            ValueError, match=r'1 missing \(blocks.1.norm1.bias\); 1 unexpected \(blocks.7.x\)'):
        backbone_state(given, made, 'file')


def test_no_network_is_an_error_that_says_what_to_fetch(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    made, config = backbone(weights='timm')
    with pytest.raises(OSError, match=r'model.safetensors of timm/vit_large_patch14_dinov2.lvd142m'
                                      r' .* set backbone.weights to its path'):
        load_backbone(made, config)


def test_a_random_backbone_has_no_published_weights():
    made, config = backbone('vit', weights='timm')
    with pytest.raises(ValueError, match="'vit' has no published weights"):
        load_backbone(made, config)


def test_command_imports_dgtl_from_two_files(tmp_path, capsys):
    state = dgtl_state()
    adapter = {key: value for key, value in state.items()
               if 'reins' in key or 'decode_head' in key}
    torch.save(facebook(), tmp_path / 'backbone.pth')
    torch.save({'state_dict': adapter, 'meta': {'iter': 3}}, tmp_path / 'adapter.pth')
    out = tmp_path / 'model.safetensors'
    arguments = ['--method', 'dgtl', '--backbone', str(tmp_path / 'backbone.pth'), '--adapter',
                 str(tmp_path / 'adapter.pth'), '--image-size', '48', str(out)]
    assert main(arguments) == 0
    assert '5 classes, input 48x48' in capsys.readouterr().out
    model, config = load_segmenter(out)
    assert config.method == 'dgtl' and config.backbone.sizes == (DIM, 4, 2)
    converted = facebook()
    converted['patch_embed.proj.weight'] = convert_patch(converted['patch_embed.proj.weight'], 16)
    converted['pos_embed'] = convert_positions(converted['pos_embed'], (3, 3), 1)
    expected = segmenter_from_released(
        {**{f'backbone.{k}': v for k, v in converted.items()}, **adapter}, 'dgtl', 2, (0, 1, 2, 3))
    images = torch.randn(1, 3, 64, 64)  # group norm needs more than one place
    with torch.no_grad():
        torch.testing.assert_close(model(images)[-1].masks, expected(images)[-1].masks)


def test_command_imports_vltseg_from_one_file(tmp_path):
    torch.save({'state_dict': vltseg_state()}, tmp_path / 'v.pth')
    out = tmp_path / 'model.safetensors'
    assert main(['--method', 'vltseg', '--adapter', str(tmp_path / 'v.pth'), '--image-size', '60',
                 '--name', 'mine', str(out)]) == 0
    model, config = load_segmenter(out)
    assert (config.name, config.method, config.input_size) == ('mine', 'vltseg', (60, 60))
    with torch.no_grad():
        model(torch.randn(1, 3, 60, 60))


@pytest.mark.parametrize('backbone_file, message', [
    (None, 'has no backbone'), ({'x': torch.zeros(1)}, 'is no backbone file'),
    ({'patch_embed.proj.weight': torch.zeros(DIM, 3, 14, 14)}, 'it has no pos_embed')])
def test_command_says_what_is_missing(tmp_path, capsys, backbone_file, message):
    adapter = {key: value for key, value in dgtl_state().items()
               if 'reins' in key or 'decode_head' in key}
    torch.save(adapter, tmp_path / 'adapter.pth')
    extra = []
    if backbone_file:
        torch.save(backbone_file, tmp_path / 'backbone.pth')
        extra = ['--backbone', str(tmp_path / 'backbone.pth')]
    out = tmp_path / 'model.safetensors'
    assert main(['--method', 'dgtl', '--adapter', str(tmp_path / 'adapter.pth'), *extra,
                 str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize('size, message', [
    ('-5', 'image size must be a multiple of 16, got -5'),
    ('100', 'input_size must be multiples of backbone.patch_size')])
def test_command_refuses_an_image_size_that_the_model_could_not_take(
        tmp_path, capsys, size, message):
    backbone = {'patch_embed.proj.weight': torch.zeros(DIM, 3, 14, 14),
                'pos_embed': torch.zeros(1, 17, DIM)}
    state = dgtl_state()
    torch.save({**{key.removeprefix('backbone.'): value for key, value in state.items()
                   if key.startswith('backbone.') and 'reins' not in key}, **backbone},
               tmp_path / 'backbone.pth')
    torch.save({key: value for key, value in state.items()
                if 'reins' in key or 'decode_head' in key}, tmp_path / 'adapter.pth')
    assert main(['--method', 'dgtl', '--backbone', str(tmp_path / 'backbone.pth'), '--adapter',
                 str(tmp_path / 'adapter.pth'), '--image-size', size,
                 str(tmp_path / 'model.safetensors')]) == 1
    assert message in capsys.readouterr().err


def test_command_writes_safetensors_alone(tmp_path, capsys):
    assert main(['--method', 'vltseg', '--adapter', 'a.pth', str(tmp_path / 'model.pth')]) == 1
    assert 'must be a file that ends in .safetensors' in capsys.readouterr().err


def test_command_takes_texts_from_the_clip_inside(tmp_path):
    pytest.importorskip('open_clip')
    from test_text import clip_shapes

    head = {**HEAD, 'classes': 19}
    clip = recipe.state_dict(clip_shapes(64, 1, 49408, DIM))
    torch.save({'reins.scale': torch.ones(1), **clip}, tmp_path / 'headless.pth')
    assert main(['--method', 'dgtl', '--adapter', str(tmp_path / 'headless.pth'),
                 str(tmp_path / 'a.safetensors')]) == 1
    state = {**dgtl_state(**head), **clip}
    torch.save(state, tmp_path / 'all.pth')
    out = tmp_path / 'model.safetensors'
    assert main(['--method', 'dgtl', '--adapter', str(tmp_path / 'all.pth'), str(out)]) == 0
    model, _ = load_segmenter(out)
    assert model.adapter.text_link.texts.any(dim=1).all()
