# SPDX-License-Identifier: Apache-2.0
"""SoMA's low-rank adapters: merged, they compute what they computed beside their layers."""

from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.lora import merge_lora, unwrap
from dgtl_core.model.released import segmenter_from_released
import golden_weights as recipe
import pytest
from test_import_weights import facebook
from test_released import DIM, HEAD
import torch
import torch.nn.functional as F
from training.import_weights import main

DEPTH, RANK, START, SIZE = 4, 3, 1, 48  # adapters from block 1 on, as the released from 8 on
LAYERS = {'attn.q': (DIM, DIM), 'attn.k': (DIM, DIM), 'attn.v': (DIM, DIM),
          'attn.proj': (DIM, DIM), 'mlp.fc1': (4 * DIM, DIM), 'mlp.fc2': (DIM, 4 * DIM)}


def backbone_file():
    """The backbone as SoMA converts it: patches of 16, and the grid of its crop."""
    shapes = recipe.dinov2_shapes(DEPTH, DIM, patch=16, places=(SIZE // 16) ** 2 + 1)
    return recipe.state_dict(shapes)


def soma_file(seed=0):
    """What SoMA publishes: adapters, biases of every layer, and the head; all under its names."""
    make = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=make) * 0.1

    state = recipe.state_dict(recipe.head_shapes(True, **HEAD))
    state = {key: value for key, value in state.items() if key.startswith('decode_head.')}
    state['backbone.model.mask_token'] = torch.zeros(1, DIM)
    for block in range(DEPTH):
        for name, (out, width) in LAYERS.items():
            layer = f'backbone.model.blocks.{block}.{name}'
            state[f'{layer}.bias'] = random(out)
            if block >= START:
                state[f'{layer}.lora_A.weight'] = random(RANK, width)
                state[f'{layer}.lora_B.weight'] = random(out, RANK)
    return state


def features_as_published(images, base, soma, out_indices):
    """DINOv2 with the adapters beside its layers: x W' + (x A') B' alpha / r, alpha = r."""
    def get(name):
        return soma.get(f'backbone.model.{name}', base.get(f'backbone.{name}'))

    def linear(x, block, name):
        layer = f'blocks.{block}.{name}'
        if name.startswith('attn.') and name != 'attn.proj':
            weight = base[f'backbone.blocks.{block}.attn.qkv.weight'].chunk(3)[
                'qkv'.index(name[-1])]
        else:
            weight = base[f'backbone.{layer}.weight']
        result = x @ weight.T + get(f'{layer}.bias')
        a, b = get(f'{layer}.lora_A.weight'), get(f'{layer}.lora_B.weight')
        return result if a is None else result + (x @ a.T) @ b.T * (RANK / RANK)

    def norm(x, name):
        return F.layer_norm(x, (DIM,), get(f'{name}.weight'), get(f'{name}.bias'), 1e-6)

    x = F.conv2d(images, get('patch_embed.proj.weight'), get('patch_embed.proj.bias'), stride=16)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat((get('cls_token').expand(len(x), -1, -1), x), 1) + get('pos_embed')
    features = []
    for block in range(DEPTH):
        prefix = f'blocks.{block}'
        y = norm(x, f'{prefix}.norm1')
        q, k, v = (linear(y, block, f'attn.{letter}').unflatten(-1, (2, 64)).transpose(1, 2)
                   for letter in 'qkv')
        y = ((q / 8) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), block, 'attn.proj') * get(
            f'{prefix}.ls1.gamma')
        y = F.gelu(linear(norm(x, f'{prefix}.norm2'), block, 'mlp.fc1'))
        x = x + linear(y, block, 'mlp.fc2') * get(f'{prefix}.ls2.gamma')
        if block in out_indices:
            features.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
    return features


def test_merged_adapters_give_the_features_of_the_published_formula():
    base, soma = backbone_file(), soma_file()
    model = segmenter_from_released({**base, **soma}, 'soma', 2, (0, 1, 2, 3))
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        found = model.backbone(images)
        expected = features_as_published(images, base, soma, (0, 1, 2, 3))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_came_of_it_is_a_mask2former_with_free_queries():
    model = segmenter_from_released({**backbone_file(), **soma_file()}, 'soma', 2, (0, 1, 2, 3))
    config = model.config
    assert model.adapter is None and config.method == 'mask2former'
    assert config.neck == 'interpolate' and config.head.queries == 'learned'
    assert not any('lora' in key for key in model.state_dict())
    assert torch.equal(model.mask_decoder.query_content.weight,
                       soma_file()['decode_head.query_feat.weight'])


def test_a_checkpoint_merged_by_their_tool_is_read_alone():
    """Everything below backbone.model, and q, k and v with weights of their own."""
    whole = soma_file()
    for key, value in unwrap(backbone_file()).items():
        whole.setdefault(key.replace('backbone.', 'backbone.model.', 1), value)
    one = segmenter_from_released(whole, 'soma', 2, (0, 1, 2, 3))
    two = segmenter_from_released({**backbone_file(), **soma_file()}, 'soma', 2, (0, 1, 2, 3))
    for key, value in two.state_dict().items():
        assert torch.equal(one.state_dict()[key], value), key


def test_the_command_takes_facebooks_file_and_the_adapters(tmp_path):
    torch.save(facebook(), tmp_path / 'dinov2.pth')
    torch.save({'state_dict': soma_file(), 'ema_state_dict': {}}, tmp_path / 'soma.pth')
    out = tmp_path / 'model.safetensors'
    assert main(['--method', 'soma', '--backbone', str(tmp_path / 'dinov2.pth'), '--adapter',
                 str(tmp_path / 'soma.pth'), '--image-size', '48', str(out)]) == 0
    model, config = load_segmenter(out)
    assert config.name == 'soma-dinov2' and config.input_size == (48, 48)
    found = model.state_dict()['backbone.vit.blocks.0.attn.qkv.weight']  # below the first adapter
    assert torch.equal(found, facebook()['blocks.0.attn.qkv.weight'])
    found = model.state_dict()['backbone.vit.blocks.3.mlp.fc2.weight']
    assert not torch.equal(found, facebook()['blocks.3.mlp.fc2.weight'])


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize('state, message', [
    (soma_file(), 'has no backbone'),
    ({**backbone_file(), **without(soma_file(), 'lora')}, 'no low-rank adapters'),
    ({**backbone_file(), **without(soma_file(), 'blocks.2.mlp.fc1.lora_B')},
     r'backbone.blocks.2.mlp.fc1 has an adapter but no lora_B'),
    ({**without(backbone_file(), 'blocks.2.mlp.fc1.weight'), **soma_file()},
     r'backbone.blocks.2.mlp.fc1 has an adapter but no weight'),
    ({**backbone_file(), **soma_file(),
      'backbone.model.blocks.2.mlp.fc1.lora_A.weight': torch.zeros(RANK, 5)},
     r'the adapter of backbone.blocks.2.mlp.fc1 is'),
])
def test_what_is_missing_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        segmenter_from_released(state, 'soma', 2, (0, 1, 2, 3))


def test_the_scale_is_that_of_the_adapters():
    state = {'backbone.blocks.0.mlp.fc1.weight': torch.zeros(2, 3),
             'backbone.blocks.0.mlp.fc1.lora_A.weight': torch.ones(1, 3),
             'backbone.blocks.0.mlp.fc1.lora_B.weight': torch.ones(2, 1)}
    assert torch.equal(merge_lora(state, 2.0)['backbone.blocks.0.mlp.fc1.weight'],
                       torch.full((2, 3), 2.0))
