# SPDX-License-Identifier: Apache-2.0
"""
Sixteen-bit networks with explicit types: what is fragile stays in float32.

Float32 stay: group norms (sums over a whole map), sampling positions (pixels of a wide picture),
rotary tables, the input's mean and the softmax of links and sampling weights. Layer norms take and
give 16 bits and sum in float32, as every engine's kernel does.
"""

from __future__ import annotations

from typing import get_args, Literal

from dgtl_core.export.labels import LabelNetwork
from dgtl_core.export.sampling import FoldedDeformableAttention
import torch
from torch import nn

Precision = Literal['fp32', 'fp16', 'bf16']
PRECISIONS: tuple[str, ...] = get_args(Precision)
_FLOAT32_BUFFERS = ('places', 'rope', 'mean', 'weight')


def set_precision(network: LabelNetwork, precision: Precision,
                  map_dtype: torch.dtype = torch.float16) -> LabelNetwork:
    """
    Change the types of a network in place, and return it.

    :param map_dtype: for ``bf16``, the type of the one 3x3 convolution and of the maps around it.
        They are normalised, so float16 holds them; opset 18 has no bfloat16 convolution.
    :raises ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be one of {list(PRECISIONS)}, got {precision!r}')
    if precision == 'fp32':
        return network
    dtype = torch.float16 if precision == 'fp16' else torch.bfloat16
    if precision == 'fp16':
        map_dtype = torch.float16
    safe: set[nn.Module] = {m for m in network.modules() if isinstance(m, nn.GroupNorm)}
    safe |= {m.positions for m in network.modules() if isinstance(m, FoldedDeformableAttention)}
    conv = network.network.pixel_decoder.output[0]
    for module in network.modules():
        if module in safe:
            continue
        target = map_dtype if module is conv else dtype
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(target)
        for name, buffer in module.named_buffers(recurse=False):
            if name not in _FLOAT32_BUFFERS and buffer.is_floating_point():
                setattr(module, name, buffer.to(target))
    network.score_dtype = map_dtype if map_dtype == torch.float16 else torch.float32
    return network
