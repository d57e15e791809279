# SPDX-License-Identifier: Apache-2.0
"""
Synthetic weights, pictures, labels and texts that the recorded numbers were made from.

Every tensor is a pure function of its name, shape and seed: standard normal numbers of PCG64,
seeded with (crc32 of the name, seed), times a spread, plus a centre.
"""

import json
from pathlib import Path
import zlib

import numpy as np
import torch

# (end of the name, centre, spread); the first match wins
_SPECIAL = (
    ('reins.scale', 0.2, 0.02), ('.gamma', 0.2, 0.05), ('cls_token', 0, 0.5),
    ('mask_token', 0, 0.02), ('pos_embed', 0, 0.5), ('level_embed.weight', 0, 1),
    ('level_encoding.weight', 0, 1), ('query_feat.weight', 0, 1), ('query_embed.weight', 0, 1),
    ('sampling_offsets.bias', 0, 1), ('token_embedding.weight', 0, 0.3),
    ('positional_embedding', 0, 0.3), ('logit_scale', 4.6, 0), ('running_mean', 0, 0.1),
    ('running_var', 1.5, 0.1))
# (end of the name, gain on 1 / sqrt(fan in))
_GAIN = (
    ('cross_attn.attn.out_proj.weight', 0.15), ('self_attn.attn.out_proj.weight', 0.1),
    ('patch_embed.proj.weight', 2), ('reins.transform.weight', 6), ('reins.merge.weight', 2),
    ('reins.mlp_token2feat.weight', 8), ('cls_embed.weight', 8), ('mask_embed.4.weight', 0.5),
    ('attn.qkv.weight', 1.5))
# last part of the name: (spread, sign, noise); block l is spread (sign^l shared + noise z_l)
_TOKENS = {'learnable_tokens_a': (0.75, -1, 0.1), 'learnable_tokens_b': (0.1, 1, 0.1),
           'learnable_tokens': (0.3, -1, 0.14)}


def _rng(name, seed):
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def _normal(name, shape, seed):
    return _rng(name, seed).standard_normal(shape)


def _spread(key, shape):
    for end, center, spread in _SPECIAL:
        if key.endswith(end):
            return center, spread
    if len(shape) > 1:
        transposed = key.endswith(('text_projection', '.proj')) and len(shape) == 2
        fan_in = shape[0] if transposed else int(np.prod(shape[1:]))
        gain = next((gain for end, gain in _GAIN if key.endswith(end)), 1)
        if 'transformer_decoder' in key and key.endswith('ffn.layers.1.weight'):
            gain = 0.5
        return 0, gain / fan_in ** 0.5
    return (1, 0.1) if key.endswith('weight') else (0, 0.02)


def tensor(key, shape, seed=0):
    """The weight of that published name, float32."""
    shape = tuple(shape)
    if key.endswith('num_batches_tracked'):
        return torch.zeros(shape, dtype=torch.long)
    tokens = _TOKENS.get(key.rsplit('.', 1)[-1])
    if tokens:
        spread, sign, noise = tokens
        signs = (float(sign) ** np.arange(shape[0])).reshape(-1, 1, 1)
        shared = _normal(f'{key}/shared', shape[1:], seed)
        value = spread * (signs * shared + noise * _normal(key, shape, seed))
    else:
        center, spread = _spread(key, shape)
        value = center + spread * _normal(key, shape, seed)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def image(name, batch, height, width, seed):
    """A normalised picture batch (B, 3, H, W): 16x16 blocks plus noise."""
    coarse = _normal(f'{name}/coarse', (batch, 3, -(-height // 16), -(-width // 16)), seed)
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    fine = _normal(f'{name}/fine', (batch, 3, height, width), seed)
    return torch.from_numpy((coarse + 0.5 * fine).astype(np.float32))


def texts(classes=19, dim=1024, norm=3.0, common=0.8, seed=0):
    """Stand-ins for class texts (K, D): rows of equal norm that share a direction."""
    shared = _normal('text_features/shared', (dim,), seed)
    own = _normal('text_features/own', (classes, dim), seed)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    rows = common * shared / np.linalg.norm(shared) + (1 - common ** 2) ** 0.5 * own
    rows *= norm / np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows.astype(np.float32))


def checksum(values):
    """Sum, sum of absolute values, index-weighted sum, in float64."""
    values = np.asarray(values, dtype=np.float64).ravel()
    return np.array([values.sum(), np.abs(values).sum(),
                     (values * (np.arange(values.size) % 97 + 1)).sum()])


def head_shapes(learned, in_channels=1024, dim=256, queries=100, classes=19, encoder=(6, 1024),
                decoder=(9, 2048), points=4):
    """
    Published names and shapes of the head; ``learned`` queries (VLTSeg) or from tokens.

    ``encoder`` and ``decoder`` are (layers, feed-forward width); 8 heads and 3 levels.
    """
    shapes = {}

    def layer(name, out, *rest, bias=True):
        shapes[f'{name}.weight'] = (out, *rest)
        if bias:
            shapes[f'{name}.bias'] = (out,)

    pixel, transformer = 'decode_head.pixel_decoder', 'decode_head.transformer_decoder'
    for i in range(3):
        layer(f'{pixel}.input_convs.{i}.conv', dim, in_channels, 1, 1)
        layer(f'{pixel}.input_convs.{i}.gn', dim)
    for i in range(encoder[0]):
        here = f'{pixel}.encoder.layers.{i}'
        layer(f'{here}.self_attn.sampling_offsets', 8 * 3 * points * 2, dim)
        layer(f'{here}.self_attn.attention_weights', 8 * 3 * points, dim)
        layer(f'{here}.self_attn.value_proj', dim, dim)
        layer(f'{here}.self_attn.output_proj', dim, dim)
        layer(f'{here}.ffn.layers.0.0', encoder[1], dim)
        layer(f'{here}.ffn.layers.1', dim, encoder[1])
        layer(f'{here}.norms.0', dim)
        layer(f'{here}.norms.1', dim)
    shapes[f'{pixel}.level_encoding.weight'] = (3, dim)
    for name, *shape in (('lateral_convs.0', dim, in_channels, 1, 1),
                         ('output_convs.0', dim, dim, 3, 3)):
        layer(f'{pixel}.{name}.conv', *shape, bias=False)
        layer(f'{pixel}.{name}.gn', dim)
    layer(f'{pixel}.mask_feature', dim, dim, 1, 1)
    for i in range(decoder[0]):
        here = f'{transformer}.layers.{i}'
        for kind in ('self', 'cross'):
            shapes[f'{here}.{kind}_attn.attn.in_proj_weight'] = (3 * dim, dim)
            shapes[f'{here}.{kind}_attn.attn.in_proj_bias'] = (3 * dim,)
            layer(f'{here}.{kind}_attn.attn.out_proj', dim, dim)
        layer(f'{here}.ffn.layers.0.0', decoder[1], dim)
        layer(f'{here}.ffn.layers.1', dim, decoder[1])
        for norm in range(3):
            layer(f'{here}.norms.{norm}', dim)
    layer(f'{transformer}.post_norm', dim)
    if learned:
        shapes['decode_head.query_embed.weight'] = (queries, dim)
        shapes['decode_head.query_feat.weight'] = (queries, dim)
    else:
        layer('decode_head.querys2feat', dim, dim)
    shapes['decode_head.level_embed.weight'] = (3, dim)
    layer('decode_head.cls_embed', classes + 1, dim)
    for i in (0, 2, 4):
        layer(f'decode_head.mask_embed.{i}', dim, dim)
    return shapes


def adapter_shapes(depth, rank=16, dim=1024, tokens=100, hidden=256):
    """Published names and shapes of the adapter; rank 0: plain tokens."""
    here = 'backbone.reins'
    shapes = {f'{here}.scale': ()}
    if rank:
        shapes[f'{here}.learnable_tokens_a'] = (depth, tokens, rank)
        shapes[f'{here}.learnable_tokens_b'] = (depth, rank, dim)
    else:
        shapes[f'{here}.learnable_tokens'] = (depth, tokens, dim)
    for name, out, into in (('mlp_token2feat', dim, dim), ('mlp_delta_f', dim, dim),
                            ('transform', hidden, dim), ('merge', hidden, 3 * hidden)):
        shapes[f'{here}.{name}.weight'] = (out, into)
        shapes[f'{here}.{name}.bias'] = (out,)
    return shapes


def dinov2_shapes(depth, dim=1024, patch=16, places=1025):
    """Published names and shapes of the DINOv2 backbone."""
    shapes = {'cls_token': (1, 1, dim), 'pos_embed': (1, places, dim), 'mask_token': (1, dim),
              'patch_embed.proj.weight': (dim, 3, patch, patch), 'patch_embed.proj.bias': (dim,)}
    for i in range(depth):
        for name, *shape in (
                ('norm1.weight', dim), ('norm1.bias', dim), ('attn.qkv.weight', 3 * dim, dim),
                ('attn.qkv.bias', 3 * dim), ('attn.proj.weight', dim, dim),
                ('attn.proj.bias', dim), ('ls1.gamma', dim), ('norm2.weight', dim),
                ('norm2.bias', dim), ('mlp.fc1.weight', 4 * dim, dim), ('mlp.fc1.bias', 4 * dim),
                ('mlp.fc2.weight', dim, 4 * dim), ('mlp.fc2.bias', dim), ('ls2.gamma', dim)):
            shapes[f'blocks.{i}.{name}'] = tuple(shape)
    shapes['norm.weight'] = shapes['norm.bias'] = (dim,)
    return {f'backbone.{key}': value for key, value in shapes.items()}


def eva_shapes(depth, grid, patch=14, neck=True, dim=1024, hidden=2730):
    """Published names and shapes of the EVA02 backbone and, for VLTSeg, its neck."""
    shapes = {'cls_token': (1, 1, dim), 'pos_embed': (1, grid * grid + 1, dim),
              'patch_embed.proj.weight': (dim, 3, patch, patch), 'patch_embed.proj.bias': (dim,)}
    for i in range(depth):
        for name, *shape in (
                ('norm1.weight', dim), ('norm1.bias', dim), ('attn.q_bias', dim),
                ('attn.v_bias', dim), ('attn.q_proj.weight', dim, dim),
                ('attn.k_proj.weight', dim, dim), ('attn.v_proj.weight', dim, dim),
                ('attn.proj.weight', dim, dim), ('attn.proj.bias', dim), ('norm2.weight', dim),
                ('norm2.bias', dim), ('mlp.w1.weight', hidden, dim), ('mlp.w1.bias', hidden),
                ('mlp.w2.weight', hidden, dim), ('mlp.w2.bias', hidden),
                ('mlp.ffn_ln.weight', hidden), ('mlp.ffn_ln.bias', hidden),
                ('mlp.w3.weight', dim, hidden), ('mlp.w3.bias', dim)):
            shapes[f'blocks.{i}.{name}'] = tuple(shape)
    if neck:
        for name in ('fpn1.0', 'fpn1.3', 'fpn2.0'):
            shapes[f'{name}.weight'] = (dim, dim, 2, 2)
            shapes[f'{name}.bias'] = (dim,)
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'fpn1.1.{name}'] = (dim,)
        shapes['fpn1.1.num_batches_tracked'] = ()
    return {f'backbone.{key}': value for key, value in shapes.items()}


def state_dict(shapes, seed=0):
    """The weights of all those names."""
    return {key: tensor(key, shape, seed) for key, shape in shapes.items()}


def load_case(path: Path):
    """One recorded case: (arrays by name, the facts about it)."""
    arrays = dict(np.load(path))
    return arrays, json.loads(bytes(arrays.pop('meta_json')))
