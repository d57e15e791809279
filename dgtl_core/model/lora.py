# SPDX-License-Identifier: Apache-2.0
"""
Low-rank adapters of linear layers, merged: W + s B A, so that they cost nothing at inference.

Hu et al., LoRA (ICLR 2022), in the form of SoMA's checkpoints (Yun et al., CVPR 2025): adapters of
q, k, v, proj, fc1 and fc2 of the later blocks beside the backbone's own weights, with s = alpha /
rank = 1 in every published configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
import re

import torch
from torch import Tensor

_A, _B = '.lora_A.weight', '.lora_B.weight'
_WRAPPER = 'backbone.model.'  # SoMA's module around the backbone
_JOINED = re.compile(r'(.+\.attn\.)qkv\.(weight|bias)')


def unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return a state dict in which the adapter's file is laid over the backbone, with q, k, v apart.

    :param state: the backbone under ``backbone.``; what SoMA's file stores, adapters and trained
        biases, under ``backbone.model.``; other tensors are left as they are.
    """
    laid = {key: value for key, value in state.items() if not key.startswith(_WRAPPER)}
    _split(laid)
    over = {key.replace(_WRAPPER, 'backbone.', 1): value
            for key, value in state.items() if key.startswith(_WRAPPER)}
    _split(over)
    return {**laid, **over}


def merge_lora(state: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """
    Return an unwrapped state dict with plain linear layers, q, k and v joined as DINOv2 has them.

    Shape: A (r, I), B (O, r), W (O, I).

    :raises ValueError: there is no adapter, a half of one, or one without its layer, or shapes do
        not fit; the message names the layer.
    """
    merged = dict(state)
    layers = [key.removesuffix(_A) for key in merged if key.endswith(_A)]
    if not layers:
        raise ValueError(
            'the checkpoint has no low-rank adapters (backbone.model.*.lora_A.weight); add the '
            'published SoMA file')
    for layer in layers:
        a, b = merged.pop(layer + _A), merged.pop(layer + _B, None)
        weight = merged.get(f'{layer}.weight')
        if b is None or weight is None:
            lacks = 'lora_B' if b is None else 'weight'
            raise ValueError(f'{layer} has an adapter but no {lacks}')
        if b.dim() != 2 or a.dim() != 2 or b.shape[1] != a.shape[0] \
                or weight.shape != (b.shape[0], a.shape[1]):
            raise ValueError(
                f'the adapter of {layer} is {tuple(b.shape)} x {tuple(a.shape)}, its weight '
                f'{tuple(weight.shape)}')
        merged[f'{layer}.weight'] = weight.float() + scale * (b.float() @ a.float())
    _join(merged)
    return merged


def _split(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if _JOINED.fullmatch(key)]:
        for letter, part in zip('qkv', state.pop(key).chunk(3)):
            state[key.replace('.qkv.', f'.{letter}.')] = part


def _join(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if re.fullmatch(r'.+\.attn\.q\.(weight|bias)', key)]:
        names = [key.replace('.attn.q.', f'.attn.{letter}.') for letter in 'qkv']
        missing = [name for name in names if name not in state]
        if missing:
            raise ValueError(f'the checkpoint has {key} but no {missing[0]}')
        state[key.replace('.attn.q.', '.attn.qkv.')] = torch.cat([state.pop(n) for n in names])
