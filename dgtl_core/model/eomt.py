# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of EoMT on DINOv2, of its authors or of transformers -> a segmenter with a light head.

Kerssies et al., "Your ViT is secretly an image segmentation model" (CVPR 2025). Its head is ours
with learned queries and no adapter; only the names differ.
"""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from dgtl_core.config import (
    AdapterConfig,
    BackboneConfig,
    BACKBONES,
    LightHeadConfig,
    SegmenterConfig,
)
from dgtl_core.model.backbone_weights import match, tensors_of
from dgtl_core.model.released import unnamed_classes
from dgtl_core.model.segmenter import Segmenter
import torch
from torch import Tensor


class _Naming(NamedTuple):
    """What the tensors of a published file are called."""

    names: tuple[tuple[str, str], ...]  # our name -> the published one; the first that fits
    needed: tuple[str, str, str, str, str]  # patch kernel, positions, queries, classes, masks
    block: str  # what stands before the number of a block
    apart: bool  # query, key and value have a tensor each
    unused: tuple[str, ...]  # what such files hold besides


_TRANSFORMERS = _Naming((
    (r'backbone\.vit\.cls_token$', 'embeddings.cls_token'),
    (r'backbone\.vit\.reg_token$', 'embeddings.register_tokens'),
    (r'backbone\.vit\.patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'backbone\.vit\.pos_embed$', 'embeddings.position_embeddings.weight'),
    (r'backbone\.vit\.blocks\.(\d+)\.attn\.qkv\.', r'layers.\1.attention.qkv.'),
    (r'backbone\.vit\.blocks\.(\d+)\.attn\.proj\.', r'layers.\1.attention.out_proj.'),
    (r'backbone\.vit\.blocks\.(\d+)\.ls(\d)\.gamma$', r'layers.\1.layer_scale\2.lambda1'),
    (r'backbone\.vit\.blocks\.', 'layers.'),
    (r'light_head\.query_embedding\.', 'query.'),
    (r'light_head\.norm\.', 'layernorm.'),
    (r'light_head\.upscale\.(\d+)\.up\.', r'upscale_block.block.\1.conv1.'),
    (r'light_head\.upscale\.(\d+)\.smooth\.', r'upscale_block.block.\1.conv2.'),
    (r'light_head\.upscale\.(\d+)\.norm\.', r'upscale_block.block.\1.layernorm2d.'),
    (r'light_head\.mask_head\.0\.', 'mask_head.fc1.'),
    (r'light_head\.mask_head\.2\.', 'mask_head.fc2.'),
    (r'light_head\.mask_head\.4\.', 'mask_head.fc3.'),
    (r'light_head\.class_head\.', 'class_predictor.'),
), (
    'embeddings.patch_embeddings.projection.weight', 'embeddings.position_embeddings.weight',
    'query.weight', 'class_predictor.weight', 'attn_mask_probs',
), 'layers.', True, ('criterion.',))
_AUTHORS = _Naming((  # whose backbone is timm's, as ours is
    (r'backbone\.vit\.', 'network.encoder.backbone.'),
    (r'light_head\.query_embedding\.', 'network.q.'),
    (r'light_head\.norm\.', 'network.encoder.backbone.norm.'),
    (r'light_head\.upscale\.(\d+)\.up\.', r'network.upscale.\1.conv1.'),
    (r'light_head\.upscale\.(\d+)\.smooth\.', r'network.upscale.\1.conv2.'),
    (r'light_head\.', 'network.'),
), (
    'network.encoder.backbone.patch_embed.proj.weight', 'network.encoder.backbone.pos_embed',
    'network.q.weight', 'network.class_head.weight', 'network.attn_mask_probs',
), 'network.encoder.backbone.blocks.', False, ('criterion.', 'network.encoder.pixel_'))
# Never used here: the backbone's own mask token and last norm, whose place light_head.norm takes.
_UNUSED = ('backbone.vit.mask_token', 'backbone.vit.norm.')


def segmenter_from_eomt(
        state_dict: Mapping[str, Any], num_heads: int | None = None) -> Segmenter:
    """
    Build a segmenter, in eval mode, from the tensors of a published EoMT.

    Depth, widths, patch, size and the numbers of queries, blocks and classes are read from the
    shapes.

    :param num_heads: heads of the backbone's attention; None: one for 64 channels, as DINOv2 has.
    :raises ValueError: it is another network, one that still masks its attention (its training
        has not ended), or names or shapes do not fit; the message says which.
    """
    tensors = tensors_of(state_dict, 'the state dict')
    naming = _AUTHORS if any(key.startswith('network.') for key in tensors) else _TRANSFORMERS
    state = {key: value.float() for key, value in tensors.items()
             if not key.startswith(naming.unused)}
    missing = [key for key in naming.needed if key not in state]
    if missing:
        raise ValueError(
            f'the checkpoint has no {" and no ".join(missing)}: expected an EoMT on DINOv2, '
            'pytorch_model.bin of its authors or model.safetensors of transformers '
            '(EomtForUniversalSegmentation)')
    places, masks = naming.needed[1], naming.needed[4]
    masked = state.pop(masks)
    if masked.any():
        raise ValueError(
            f'this EoMT masks its attention with probabilities {masked.tolist()}, which the light '
            'head does not; take a checkpoint whose training has ended (all are 0)')
    state[places] = state[places].reshape(1, -1, state[places].shape[-1])
    config = _config(state, naming, len(masked), num_heads)
    with torch.device('meta'):  # 300 million random numbers would take longer than the rest
        model = Segmenter(config)
    own = model.state_dict()
    weights = {key: torch.zeros(value.shape) for key, value in own.items()
               if key.startswith(_UNUSED)}
    parts = {key: _published_names(key, naming) for key in own if key not in weights}
    match(state, {name: part for key, names in parts.items()
                  for name, part in zip(names, own[key].chunk(len(names)))}, 'the EoMT checkpoint')
    for key, names in parts.items():
        weights[key] = torch.cat([state[name] for name in names])
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _config(state: Mapping[str, Tensor], naming: _Naming, num_blocks: int,
            num_heads: int | None) -> SegmenterConfig:
    kernel, positions, queries, classes = (state[key] for key in naming.needed[:4])
    width, patch, count = len(kernel), kernel.shape[-1], positions.shape[1]
    side = round(count ** 0.5)
    if side * side != count:
        raise ValueError(f'the position embedding must be a square grid, got {count} places')
    size = (side * patch, side * patch)
    depth = len({key.removeprefix(naming.block).partition('.')[0] for key in state
                 if key.startswith(naming.block)})
    sizes = (width, depth, num_heads or max(width // 64, 1))
    named = [name for name, known in BACKBONES.items()
             if known == sizes and name.startswith('dinov2-') and name.endswith('-reg')]
    embed_dim, free_depth, heads = (0, 0, 0) if named else sizes
    name = named[0] if named else 'dinov2-reg'
    return SegmenterConfig(
        name=f'eomt-{name}',
        backbone=BackboneConfig(
            name=name, embed_dim=embed_dim, depth=free_depth, num_heads=heads, patch_size=patch,
            img_size=size, positions='size', trainable=True,
            out_indices=tuple(depth * i // 4 - 1 for i in range(1, 5))),
        adapter=AdapterConfig(method='none', text_link='off', mask_link=False),
        head=LightHeadConfig(
            num_blocks=num_blocks, queries='learned', num_queries=len(queries)),
        classes=unnamed_classes(len(classes) - 1), input_size=size, window_stride=size)


def _published_names(key: str, naming: _Naming) -> list[str]:
    """Return what one of our tensors is published as: one, or three in this order."""
    for pattern, published in naming.names:
        key, count = re.subn(r'\A' + pattern, published, key)
        if count:
            break
    if naming.apart and '.qkv.' in key:
        return [key.replace('.qkv.', f'.{part}_proj.') for part in 'qkv']
    return [key]
