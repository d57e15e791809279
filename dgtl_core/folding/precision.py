# SPDX-License-Identifier: Apache-2.0
"""
Sixteen-bit networks with explicit types: what is fragile stays in float32.

A folded module names its own such layers and buffers, in ``float32_layers(precision)`` and
``float32_buffers``; what is fragile by its kind is found here. In both types these stay: the patch
embedding (a pixel has 8 bits, as a bfloat16 has: rounding there costs more labels than all the
rest of the network), group norms (sums over a whole map), sampling positions (pixels of a wide
picture), rotary tables, the softmax of links and sampling weights. In float16 layer norms take and
give 16 bits and sum in float32, as every engine's kernel does; in bfloat16 they stay float32, and
so do the sums over the blocks (residuals) and the two last products.
"""

from __future__ import annotations

from typing import get_args, Literal

from dgtl_core.folding.labels import LabelNetwork
import torch
from torch import nn, Tensor

Precision = Literal['fp32', 'fp16', 'bf16']
PRECISIONS: tuple[str, ...] = get_args(Precision)


def set_precision(network: LabelNetwork, precision: Precision,
                  map_dtype: torch.dtype = torch.float16) -> LabelNetwork:
    """
    Change the types of a network in place, and return it.

    :param map_dtype: for ``bf16``, the type of the convolutions and of the maps around them.
        They are normalised, so float16 holds them; opset 18 has no bfloat16 convolution.
    :raises ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be one of {list(PRECISIONS)}, got {precision!r}')
    if precision == 'fp32':
        return network
    safe: set[nn.Module] = {m for m in network.modules() if isinstance(m, nn.GroupNorm)}
    for module in network.modules():
        own_layers = getattr(module, 'float32_layers', None)
        if own_layers is not None:
            safe.update(own_layers(precision))
    if precision == 'fp16':
        dtype = map_dtype = torch.float16
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                kept = name in getattr(module, 'float32_buffers', ())
                if not kept and buffer.is_floating_point():
                    setattr(module, name, buffer.to(dtype))
    else:
        dtype = torch.bfloat16
        safe |= {m for m in network.modules() if isinstance(m, nn.LayerNorm)}
        # A sum of the two types is a float32; the next product rounds it.
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.register_forward_pre_hook(_in_own_type)
    for module in network.modules():
        if module not in safe:
            convolution = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
            own = map_dtype if convolution else dtype
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(own)
    network.score_dtype = map_dtype if map_dtype == torch.float16 else torch.float32
    return network


def _in_own_type(layer: nn.Linear | nn.LayerNorm, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(layer.weight.dtype),)
