# SPDX-License-Identifier: Apache-2.0
"""The work of a model file, counted from its graph as the roofline counts a network's."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path

import onnx
from training.bench.roofline import Work

Shape = Sequence[int]


def count_onnx(path: Path, batch: int = 1) -> Work:
    """
    Count matrix products and convolutions, 1 multiply-add = 2 FLOP, and the stored numbers.

    :param batch: pictures in one call, of a file with an open batch.
    :raises ValueError: the shapes within the graph do not follow from its input.
    """
    model = onnx.load(path)
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    if first.dim_param:
        first.dim_value = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField('shape')
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f'the shapes of {path} do not follow from its input: {error}') from None
    shapes: dict[str, Shape] = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    flops = 0
    for node in graph.node:
        if node.op_type in _RULES:
            known = [shapes.get(name, ()) for name in (*node.input[:2], node.output[0])]
            if not all(math.prod(shape) and shape for shape in known):
                raise ValueError(f'the shapes at {node.name} of {path} are unknown: {known}')
            flops += 2 * _RULES[node.op_type](*known)
    weights = sum(math.prod(i.dims) for i in graph.initializer if i.data_type in _NUMBERS)
    return Work(float(flops), float(weights))


_NUMBERS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# Multiply-adds from the shapes of both inputs and the output.
_RULES = {
    'Gemm': lambda a, b, out: math.prod(a) * out[-1],
    'MatMul': lambda a, b, out: math.prod(out) * a[-1],
    'Conv': lambda x, kernel, out: math.prod(out) * math.prod(kernel[1:]),
    'ConvTranspose': lambda x, kernel, out: math.prod(x) * math.prod(kernel[1:])}
