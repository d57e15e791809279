# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of EoMT on DINOv2, as ``transformers`` stores them -> a segmenter with a light head.

Kerssies et al., "Your ViT is secretly an image segmentation model" (CVPR 2025). Its head is ours
with learned queries and no adapter; only the names differ.
"""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any

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

# our name -> the published one
_NAMES = (
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
)
# Never used here: the backbone's own mask token and last norm, whose place light_head.norm takes.
_UNUSED = ('backbone.vit.mask_token', 'backbone.vit.norm.')
_NEEDED = (
    'embeddings.patch_embeddings.projection.weight', 'embeddings.position_embeddings.weight',
    'query.weight', 'class_predictor.weight', 'attn_mask_probs')


def segmenter_from_eomt(
        state_dict: Mapping[str, Any], num_heads: int | None = None) -> Segmenter:
    """
    Build a segmenter, in eval mode, from the tensors of ``EomtForUniversalSegmentation``.

    Depth, widths, patch, size and the numbers of queries, blocks and classes are read from the
    shapes.

    :param num_heads: heads of the backbone's attention; None: one for 64 channels, as DINOv2 has.
    :raises ValueError: it is another network, one that still masks its attention (its training
        has not ended), or names or shapes do not fit; the message says which.
    """
    state = {key: value.float() for key, value in tensors_of(state_dict, 'the state dict').items()
             if not key.startswith('criterion.')}
    missing = [key for key in _NEEDED if key not in state]
    if missing:
        raise ValueError(
            f'the checkpoint has no {" and no ".join(missing)}: expected an EoMT on DINOv2 as '
            'transformers stores it (model.safetensors of EomtForUniversalSegmentation)')
    masked = state.pop('attn_mask_probs')
    if masked.any():
        raise ValueError(
            f'this EoMT masks its attention with probabilities {masked.tolist()}, which the light '
            'head does not; take a checkpoint whose training has ended (all are 0)')
    config = _config(state, len(masked), num_heads)
    places = 'embeddings.position_embeddings.weight'
    state[places] = state[places][None]
    with torch.device('meta'):  # 300 million random numbers would take longer than the rest
        model = Segmenter(config)
    own = model.state_dict()
    weights = {key: torch.zeros(value.shape) for key, value in own.items()
               if key.startswith(_UNUSED)}
    parts = {key: _published_names(key) for key in own if key not in weights}
    match(state, {name: part for key, names in parts.items()
                  for name, part in zip(names, own[key].chunk(len(names)))}, 'the EoMT checkpoint')
    for key, names in parts.items():
        weights[key] = torch.cat([state[name] for name in names])
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _config(state: Mapping[str, Tensor], num_blocks: int,
            num_heads: int | None) -> SegmenterConfig:
    kernel, positions, queries, classes = (state[key] for key in _NEEDED[:4])
    width, patch, side = len(kernel), kernel.shape[-1], round(len(positions) ** 0.5)
    if side * side != len(positions):
        raise ValueError(
            f'the position embedding must be a square grid, got {len(positions)} places')
    size = (side * patch, side * patch)
    depth = len({key.split('.')[1] for key in state if key.startswith('layers.')})
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


def _published_names(key: str) -> list[str]:
    """Return what one of our tensors is published as: one, or three in this order."""
    for pattern, published in _NAMES:
        key, count = re.subn(r'\A' + pattern, published, key)
        if count:
            break
    return [key.replace('.qkv.', f'.{part}_proj.') for part in 'qkv'] if '.qkv.' in key else [key]
