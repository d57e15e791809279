# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of DGTL, Rein, SoMA and VLTSeg -> a segmenter with our names, loaded strictly.

Everything about the network is read from the tensors' shapes, except what no shape tells: the
number of heads of the backbone and the blocks whose features are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any, Literal

from dgtl_core.classes import CITYSCAPES, ClassSet, SegmentationClass
from dgtl_core.config import (
    AdapterConfig,
    BackboneConfig,
    BACKBONES,
    HeadConfig,
    SegmenterConfig,
    TextConfig,
)
from dgtl_core.model.backbone_weights import EVA_NAMES, match, tensors_of
from dgtl_core.model.lora import merge_lora, unwrap
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import CLIP_PREFIX
import numpy as np
import torch
from torch import Tensor

METHODS = ('dgtl', 'rein', 'soma', 'vltseg')
_LETTERS = {384: 's', 768: 'b'}  # of DINOv2's sizes by width; any other is 'l'
_HEAD_HEADS = 8  # of the attentions of the head; no tensor tells

# our name -> the published one, the first match wins
_NAMES = (
    (r'adapter\.tokens_([ab])$', r'backbone.reins.learnable_tokens_\1'),
    (r'adapter\.tokens_full$', 'backbone.reins.learnable_tokens'),
    (r'adapter\.scale$', 'backbone.reins.scale'),
    (r'adapter\.token_value\.', 'backbone.reins.mlp_token2feat.'),
    (r'adapter\.delta\.', 'backbone.reins.mlp_delta_f.'),
    (r'adapter\.query_transform\.', 'backbone.reins.transform.'),
    (r'adapter\.query_merge\.', 'backbone.reins.merge.'),
    (r'neck\.up4\.', 'backbone.fpn1.'),
    (r'neck\.up2\.', 'backbone.fpn2.0.'),
    (r'backbone\.vit\.', 'backbone.'),
    (r'pixel_decoder\.input_projections\.(\d+)\.0\.',
     r'decode_head.pixel_decoder.input_convs.\1.conv.'),
    (r'pixel_decoder\.input_projections\.(\d+)\.1\.',
     r'decode_head.pixel_decoder.input_convs.\1.gn.'),
    (r'pixel_decoder\.layers\.(\d+)\.attention\.',
     r'decode_head.pixel_decoder.encoder.layers.\1.self_attn.'),
    (r'pixel_decoder\.layers\.', 'decode_head.pixel_decoder.encoder.layers.'),
    (r'pixel_decoder\.(lateral|output)\.0\.', r'decode_head.pixel_decoder.\1_convs.0.conv.'),
    (r'pixel_decoder\.(lateral|output)\.1\.', r'decode_head.pixel_decoder.\1_convs.0.gn.'),
    (r'pixel_decoder\.', 'decode_head.pixel_decoder.'),
    (r'mask_decoder\.layers\.(\d+)\.(self|cross)_attention\.in_proj\.',
     r'decode_head.transformer_decoder.layers.\1.\2_attn.attn.in_proj_'),
    (r'mask_decoder\.layers\.(\d+)\.(self|cross)_attention\.out_proj\.',
     r'decode_head.transformer_decoder.layers.\1.\2_attn.attn.out_proj.'),
    (r'mask_decoder\.layers\.', 'decode_head.transformer_decoder.layers.'),
    (r'mask_decoder\.norm\.', 'decode_head.transformer_decoder.post_norm.'),
    (r'mask_decoder\.query_position\.', 'decode_head.query_embed.'),
    (r'mask_decoder\.level_embedding\.', 'decode_head.level_embed.'),
    (r'mask_decoder\.class_head\.', 'decode_head.cls_embed.'),
    (r'mask_decoder\.mask_head\.', 'decode_head.mask_embed.'),
)
# Never used, and not in every file (fact 3).
_UNUSED = ('backbone.mask_token', 'backbone.norm.weight', 'backbone.norm.bias')


def default_out_indices(state: Mapping[str, Any], method: str) -> tuple[int, ...]:
    """Return the blocks whose features the released codes take, or every fourth part."""
    depth = _count(state, r'backbone\.blocks\.(\d+)\.')
    if depth % 12 == 0:
        quarters = (10, 15, 20, 24) if method == 'vltseg' else (8, 12, 16, 24)
        return tuple(depth * i // 24 - 1 for i in quarters)
    return tuple(depth * i // 4 - 1 for i in range(1, 5))


def segmenter_from_released(
        state_dict: Mapping[str, Any], method: Literal['dgtl', 'rein', 'soma', 'vltseg'],
        num_heads: int | None = None, out_indices: tuple[int, ...] | None = None,
        image_size: int | tuple[int, int] | None = None,
        text: Tensor | np.ndarray | None = None) -> Segmenter:
    """
    Build a segmenter, in eval mode, from a published checkpoint's tensors.

    Depth, widths, rank, numbers of tokens, queries and classes are read from the shapes. Tensors
    of the frozen backbone are shared with ``state_dict``, the others are copied.

    :param state_dict: backbone, adapter (``reins``) and head under their published names; what a
        training run wraps around them (``{'state_dict': ..., 'meta': ...}``) may be there.
    :param num_heads: heads of the backbone's attention; None: one for 64 channels, as all
        published ones have (16 for ViT-L).
    :param out_indices: the four blocks whose features are taken, counted from 0; None: those of
        the released codes.
    :param image_size: pixels the position embedding was made for, where whole patches do not
        tell (VLTSeg: 512 pixels are 36 patches of 14 and a rest).
    :param text: (K, D) class texts, D the backbone's width; a DGTL training forward needs them.
    :raises ValueError: a part is missing, or names or shapes do not fit; the message says which,
        by their published names.
    """
    if method not in METHODS:
        raise ValueError(f'method must be one of {list(METHODS)}, got {method!r}')
    text = None if text is None else torch.as_tensor(text)
    state = {key: value.float() if value.is_floating_point() else value
             for key, value in tensors_of(state_dict, 'the state dict').items()
             if not key.startswith(CLIP_PREFIX) and '.rope.freqs_' not in key}
    if method == 'soma':
        state = unwrap(state)
    _check_parts(state, method)
    if method == 'soma':
        state = merge_lora(state)
    width = state['backbone.patch_embed.proj.weight'].shape[0]
    config = _config(
        state, method, num_heads or max(width // 64, 1),
        tuple(out_indices or default_out_indices(state, method)), image_size, text)
    with torch.device('meta'):  # 300 million random numbers would take longer than the rest
        model = Segmenter(config)
    own, names = model.state_dict(), published_names(model)
    expected = {published: own[ours] for published, ours in names.items()}
    for key in _UNUSED:
        if key not in expected:
            state.pop(key, None)
        elif key not in state:
            state[key] = torch.zeros(expected[key].shape)
    match(state, expected, f'the {method} checkpoint')
    shared = () if config.backbone.trainable else ('backbone.vit.',)
    weights = {names[key]: value if names[key].startswith(shared) else value.clone()
               for key, value in state.items()}
    if config.adapter.text_link == 'present':
        weights['adapter.text_link.texts'] = text.detach().float().clone() \
            if text is not None else torch.zeros(own['adapter.text_link.texts'].shape)
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if hasattr(module, 'init_non_persistent_buffers'):  # timm's rotary frequencies
            module.to_empty(device='cpu', recurse=False)
            module.init_non_persistent_buffers()  # type: ignore[operator]
    return model.eval()


def _check_parts(state: Mapping[str, Tensor], method: str) -> None:
    """Tell a file that lacks a whole part from one that is damaged."""
    if 'backbone.patch_embed.proj.weight' not in state:
        lacks = 'the checkpoint has no backbone (backbone.patch_embed.proj.weight and so on): '
        if method == 'vltseg':
            raise ValueError(
                lacks + 'take the published VLTSeg .pth, which holds the whole model')
        width = state.get('backbone.reins.mlp_delta_f.bias', torch.empty(0)).numel()
        file = f'dinov2_vit{_LETTERS.get(width, "l")}14_pretrain.pth'
        raise ValueError(
            f'{lacks}the published {method} file holds only adapter and head. Add the DINOv2 '
            f'file ({file}, or its conversion such as dinov2_converted.pth): '
            f'"python -m training.import_weights --method {method} --backbone {file} '
            '--adapter ADAPTER.pth OUT", or merge its keys under "backbone."')
    if method in ('dgtl', 'rein') and not any(key.startswith('backbone.reins.') for key in state):
        raise ValueError(
            f'the checkpoint has no adapter (backbone.reins.*), which {method} needs; add the '
            "published adapter file, or take method 'vltseg' for a whole EVA02 model")
    if 'decode_head.cls_embed.weight' not in state:
        raise ValueError(
            'the checkpoint has no head (decode_head.cls_embed.weight and so on); add the '
            'published file that holds adapter and head')


def _config(
        state: Mapping[str, Tensor], method: str, num_heads: int, out_indices: tuple[int, ...],
        image_size: int | tuple[int, int] | None, text: Tensor | None) -> SegmenterConfig:
    patch_weight = state['backbone.patch_embed.proj.weight']
    embed_dim, patch = patch_weight.shape[0], patch_weight.shape[-1]
    places = state['backbone.pos_embed'].shape[1] - 1 if 'backbone.pos_embed' in state else 0
    side = round(places ** 0.5)
    if side * side != places or not places:
        raise ValueError(
            f'backbone.pos_embed must hold a class token and a square grid, got {places + 1} '
            'places')
    size = (side * patch, side * patch)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if size[0] // patch * (size[1] // patch) != places:
            raise ValueError(
                f'image_size {image_size} has {size[0] // patch}x{size[1] // patch} patches of '
                f'{patch}, but the checkpoint has {side}x{side}')
    eva = 'backbone.blocks.0.attn.q_proj.weight' in state
    family = 'eva02' if eva else 'dinov2'
    depth = _count(state, r'backbone\.blocks\.(\d+)\.')
    sizes = (embed_dim, depth, num_heads)
    named = [name for name, known in BACKBONES.items()
             if known == sizes and name.rsplit('-', 1)[0] == family]
    positions: Literal['scale', 'size', 'fixed'] = 'size' if eva else 'scale'
    backbone = BackboneConfig(
        name=named[0] if named else family, patch_size=patch, img_size=size,
        embed_dim=0 if named else embed_dim, depth=0 if named else depth,
        num_heads=0 if named else num_heads, out_indices=out_indices,
        positions='fixed' if method == 'vltseg' else positions, attn_norm=not eva,
        drop_path=0.2 if method == 'vltseg' else 0.0, trainable=method == 'vltseg')
    if method in ('soma', 'vltseg'):
        queries: Literal['tokens', 'learned'] = 'learned'
        adapter = AdapterConfig(method='none', text_link='off', mask_link=False)
        num_queries = _shape(state, 'decode_head.query_feat.weight')[0]
    else:
        queries = 'tokens'
        full = 'backbone.reins.learnable_tokens' in state
        tokens = _shape(state, 'backbone.reins.learnable_tokens' + ('' if full else '_a'))
        num_queries = tokens[1]
        adapter = AdapterConfig(
            method='dgtl' if method == 'dgtl' else 'rein', num_tokens=num_queries,
            rank=0 if full else tokens[2], mask_link=method == 'dgtl',
            text_link='present' if method == 'dgtl' else 'off')
    num_classes = _shape(state, 'decode_head.cls_embed.weight')[0] - 1
    if text is not None and text.shape != (num_classes, embed_dim):
        raise ValueError(
            f'text must be (classes, width) = {(num_classes, embed_dim)}, '
            f'got {tuple(text.shape)}')
    # 341 and 683 of 512 and 1024; VLTSeg: 426 and 768
    stride = round(min(size) * 2 / 3)
    if method == 'vltseg':
        stride = 768 if min(size) == 1024 else round(min(size) * 426 / 512)
    return SegmenterConfig(
        name=f'{method}-{backbone.name}', backbone=backbone, adapter=adapter,
        text=TextConfig(width=embed_dim),
        neck='beit' if method == 'vltseg' else 'interpolate',
        head=_head(state, num_queries, queries), classes=unnamed_classes(num_classes),
        input_size=size, window_stride=(stride, stride))


def _head(
        state: Mapping[str, Tensor], num_queries: int,
        queries: Literal['tokens', 'learned']) -> HeadConfig:
    encoder = 'decode_head.pixel_decoder.encoder.layers.'
    decoder = 'decode_head.transformer_decoder.layers.'
    offsets = _shape(state, f'{encoder}0.self_attn.attention_weights.weight')[0]
    levels = _shape(state, 'decode_head.level_embed.weight')[0]
    return HeadConfig(
        hidden_dim=_shape(state, 'decode_head.cls_embed.weight')[1], num_heads=_HEAD_HEADS,
        num_queries=num_queries, queries=queries,
        encoder_layers=_count(state, re.escape(encoder) + r'(\d+)\.'),
        encoder_feedforward=_shape(state, f'{encoder}0.ffn.layers.0.0.weight')[0],
        num_points=offsets // (_HEAD_HEADS * levels),
        decoder_layers=_count(state, re.escape(decoder) + r'(\d+)\.'),
        decoder_feedforward=_shape(state, f'{decoder}0.ffn.layers.0.0.weight')[0])


def unnamed_classes(count: int) -> ClassSet:
    """Return Cityscapes' classes where there are as many, else a set that names none."""
    if count == len(CITYSCAPES):
        return CITYSCAPES
    return ClassSet('released', tuple(
        SegmentationClass(id=i, name=f'class {i}', color=(i * 67 % 256, i * 131 % 256, 90))
        for i in range(count)))


def published_names(model: Segmenter) -> dict[str, str]:
    """Return {published name: our name} of the tensors that a published file holds."""
    names = {}
    for ours in model.state_dict():
        if ours != 'adapter.text_link.texts':
            names[_published_name(ours, model.config)] = ours
    return names


def _published_name(key: str, config: SegmenterConfig) -> str:
    if key.startswith('mask_decoder.query_content.'):
        learned = config.head.queries == 'learned'
        name = 'query_feat' if learned else 'querys2feat'
        return key.replace('mask_decoder.query_content', f'decode_head.{name}')
    for pattern, published in _NAMES:
        key, count = re.subn(r'\A' + pattern, published, key)
        if count:
            break
    if key.startswith('backbone.'):
        if config.backbone.family == 'eva02':
            for theirs, timms in EVA_NAMES:
                key = key.replace(timms, theirs)
        return key
    # both kinds of layers: FFN and numbered norms
    key = key.replace('.linear1.', '.ffn.layers.0.0.').replace('.linear2.', '.ffn.layers.1.')
    return re.sub(r'\.norm(\d)\.', lambda found: f'.norms.{int(found[1]) - 1}.', key)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(found[1]) for found in (re.match(pattern, key) for key in state) if found]
    return max(numbers, default=-1) + 1


def _shape(state: Mapping[str, Tensor], key: str) -> torch.Size:
    if key not in state:
        raise ValueError(
            f'the checkpoint has no {key}; it is no released file of this method, or damaged')
    return state[key].shape
