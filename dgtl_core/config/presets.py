# SPDX-License-Identifier: Apache-2.0
"""Segmenters by name: the released ones, and ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from dgtl_core.config.adapter import AdapterConfig, TextConfig
from dgtl_core.config.backbone import BackboneConfig
from dgtl_core.config.heads import HeadConfig, LightHeadConfig
from dgtl_core.config.segmenter import SegmenterConfig
from dgtl_core.strict import suggestion


def _dinov2(method: Literal['dgtl', 'rein'], size: str) -> SegmenterConfig:
    large = size == 'l'
    # The released text link needs texts as wide as the tokens: CLIP RN50's 1024 fits ViT-L only.
    link: Literal['off', 'present', 'all'] = 'off'
    if method == 'dgtl':
        link = 'present' if large else 'all'
    return SegmenterConfig(
        name=f'{method}-dinov2-{size}',
        backbone=BackboneConfig(
            name=f'dinov2-{size}', out_indices=(7, 11, 15, 23) if large else (3, 5, 7, 11)),
        adapter=AdapterConfig(method=method, text_link=link, mask_link=method == 'dgtl'))


def _vltseg() -> SegmenterConfig:
    return SegmenterConfig(
        name='vltseg-eva02-l',
        backbone=BackboneConfig(
            name='eva02-l', patch_size=14, out_indices=(9, 14, 19, 23), positions='fixed',
            attn_norm=False, drop_path=0.2, trainable=True),
        adapter=AdapterConfig(method='none', text_link='off', mask_link=False),
        neck='beit', head=HeadConfig(queries='learned'), window_stride=(426, 426))


def _vltseg_clip() -> SegmenterConfig:
    released = _vltseg()
    return replace(  # whole patches only: 504 = 36 * 14
        released, name='vltseg-eva02-l-clip', input_size=(504, 504), window_stride=(420, 420),
        backbone=replace(
            released.backbone, attn_norm=True, positions='size', img_size=(504, 504)))


def _eva02() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-eva02-l', backbone=BackboneConfig(name='eva02-l', positions='size'),
        adapter=AdapterConfig(text_link='all'), text=TextConfig(width=768))


def _dinov3() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-dinov3-l', backbone=BackboneConfig(name='dinov3-l'),
        adapter=AdapterConfig(text_link='all'))


def _mini() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-mini',
        backbone=BackboneConfig(
            name='mini', img_size=(256, 512), out_indices=(1, 3, 5, 7), positions='size',
            trainable=True),
        adapter=AdapterConfig(num_tokens=50, text_link='all'),
        text=TextConfig(width=512),
        head=HeadConfig(
            hidden_dim=128, num_heads=4, num_queries=50, encoder_layers=3,
            encoder_feedforward=256, decoder_layers=3, decoder_feedforward=512),
        input_size=(256, 512), window_stride=(256, 512))


def _real_time(size: str, patch: int) -> SegmenterConfig:
    large = size == 'l'
    backbone = BackboneConfig(
        name=f'dinov2-{size}', patch_size=patch, img_size=(512, 1024), positions='size',
        out_indices=(7, 11, 15, 23) if large else (3, 5, 7, 11))
    width = backbone.sizes[0]
    # At full width the steps to 1/4 cost a third of what a backbone on patches of 32 does.
    upscale = (width // 2, width // 4) if patch == 16 else (width // 2, width // 4, width // 4)
    return SegmenterConfig(
        name=f'dgtl-rt-{size}' + ('' if patch == 16 else f'-p{patch}'),
        backbone=backbone,
        adapter=AdapterConfig(text_link='all', mask_link=False),
        head=LightHeadConfig(num_blocks=4 if large else 3, queries='texts', upscale=upscale),
        input_size=(512, 1024), window_stride=(512, 1024))


def _rt_mini() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-rt-mini',
        backbone=BackboneConfig(
            name='vit', embed_dim=256, depth=5, num_heads=4, patch_size=32, stem='conv',
            img_size=(384, 768), out_indices=(1, 2, 3, 4), positions='size', trainable=True),
        adapter=AdapterConfig(num_tokens=32, text_link='all', mask_link=False),
        text=TextConfig(width=512),
        head=LightHeadConfig(num_blocks=3, queries='texts', upscale=(128, 96, 64)),
        input_size=(384, 768), window_stride=(384, 768))


PRESETS: dict[str, SegmenterConfig] = {
    config.name: config for config in (
        *(_dinov2('dgtl', size) for size in 'sbl'), *(_dinov2('rein', size) for size in 'sbl'),
        _vltseg(), _vltseg_clip(), _eva02(), _dinov3(), _mini(), _rt_mini(),
        *(_real_time(size, patch) for size in 'sbl' for patch in (16, 32)))}


def preset(name: str) -> SegmenterConfig:
    """
    Return the segmenter configuration of that name.

    :raises ValueError: there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f'unknown preset {name!r}{suggestion(name, PRESETS)}')
    return PRESETS[name]
