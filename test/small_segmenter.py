# SPDX-License-Identifier: Apache-2.0
"""Segmenters of every preset family at small depth, with weights that give lively label maps."""

from dataclasses import replace

from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.model.segmenter import build_segmenter, Segmenter
import numpy as np
import torch


def small_config(name: str, family: str = '') -> SegmenterConfig:
    """
    Return a preset with four narrow blocks, short decoders and a small input.

    ``family`` replaces the backbone's. ``dgtl-mini`` keeps its depth and width.
    """
    config = preset(name)
    size = (150, 220) if config.backbone.patch_size == 14 else (160, 224)
    if config.backbone.positions == 'size' and config.backbone.patch_size == 14:
        size = (140, 210)
    backbone = config.backbone
    if name != 'dgtl-mini':
        backbone = replace(
            backbone, name=family or backbone.family, embed_dim=192, depth=4, num_heads=3,
            out_indices=(0, 1, 2, 3))
    if backbone.positions == 'fixed':
        backbone = replace(backbone, img_size=size)  # whole patches: 140 x 210
    released = config.adapter.text_link == 'present'  # multiplies tokens and texts
    return replace(
        config, backbone=backbone, input_size=size, window_stride=size,
        text=replace(config.text, width=192 if released else 64),
        head=replace(config.head, encoder_layers=2, decoder_layers=4))


def street(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Shape: (H, W, 3) uint8: a plane, a sky, boxes, and noise on all of it."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.empty((height, width, 3), np.float64)
    image[:height // 2] = (140, 170, 220)
    image[height // 2:] = (90, 90, 95)
    for _ in range(12):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(8, height // 2), rng.integers(8, width // 3)
        image[y:y + h, x:x + w] = rng.integers(0, 256, 3)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def normalised(picture: np.ndarray, config: SegmenterConfig) -> torch.Tensor:
    """Shape: (H, W, 3) uint8 -> (1, 3, H, W), as a segmenter takes it."""
    image = (picture.astype(np.float64) - config.mean) / config.std
    return torch.from_numpy(image).float().permute(2, 0, 1)[None]


@torch.no_grad()
def small_segmenter(config: SegmenterConfig, picture: np.ndarray, seed: int = 0) -> Segmenter:
    """
    Build a segmenter whose every parameter matters, and that sees several classes in a picture.

    A fresh one labels every pixel alike: its queries agree, scales are tiny, biases zero, and
    its mask features hardly differ from place to place.
    """
    torch.manual_seed(seed)
    model = build_segmenter(config)

    def spread(tensor, std, mean=0.0):
        tensor.copy_(torch.randn(tensor.shape) * std + mean)

    for name, parameter in model.named_parameters():
        if 'gamma' in name:
            spread(parameter, 0.3, 0.5)
        elif name.endswith('bias'):
            spread(parameter, 0.2)
    for name, buffer in model.named_buffers():
        if name.endswith('texts'):
            spread(buffer, 1)
        elif name.endswith('running_mean'):
            spread(buffer, 0.5)
        elif name.endswith('running_var'):
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    if model.adapter is not None:
        model.adapter.scale.fill_(0.2)
        for name, parameter in model.adapter.named_parameters():
            if name.startswith('tokens_'):
                parameter.mul_(3)
        if model.adapter.query_transform is not None:
            # Tell the queries apart: of tokens alone they come out nearly equal.
            queries = model.adapter.queries(model.adapter.tokens())
            model.adapter.query_merge.weight.mul_(2 / queries.std(dim=0).mean())
            spread(model.mask_decoder.query_content.weight, config.head.hidden_dim ** -0.5)
    for layer in model.pixel_decoder.layers:
        spread(layer.attention.sampling_offsets.weight, 0.2)
        layer.attention.sampling_offsets.bias[::7] *= 20  # beyond the border too
        spread(layer.attention.attention_weights.weight, 0.2)
    model.eval()
    # Mask features with mean 0 and deviation 1 over the picture, so that masks have borders.
    feature, decoder = model.pixel_decoder.mask_feature, model.mask_decoder
    images = normalised(picture, config)
    _standardise(model, feature, images, axes=(0, 2, 3))
    # The same for the queries, so that they do not all say the same.
    _standardise(model, decoder.mask_head[4], images, axes=(0, 1))
    _standardise(model, decoder.class_head, images, axes=(0, 1))
    decoder.class_head.weight.mul_(4)
    decoder.class_head.bias.mul_(4)
    decoder.class_head.bias[-1] -= 2
    return model


def _standardise(model, layer, images, axes):
    """Give a layer new weights whose output has mean 0, deviation about 1 over ``axes``."""
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.predict(images)
    hook.remove()
    mean, std = seen[-1].mean(dim=axes), seen[-1].std(dim=axes)
    weight = torch.randn(layer.weight.shape) * len(mean) ** -0.5
    weight /= (std + 0.1).view(-1, *[1] * (weight.ndim - 2))
    layer.weight.copy_(weight)
    layer.bias.copy_(-weight.flatten(1) @ mean)
