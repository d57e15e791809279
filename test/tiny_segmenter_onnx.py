# SPDX-License-Identifier: Apache-2.0
"""A random model file with the parts that matter to an engine builder: attention, sampling."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
from tiny_onnx import METADATA

WIDTH, HEADS, PATCH = 64, 4, 8


class Graph:
    """Nodes and constants, each named after its place."""

    def __init__(self, dtype: type) -> None:
        self.dtype, self.nodes, self.constants = dtype, [], []
        self._random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, out: str = '', **attributes: object) -> str:
        out = out or f'{kind}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out

    def const(self, value: object, dtype: type | None = None) -> str:
        name = f'c{len(self.constants)}'
        array = np.asarray(value, dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def weight(self, *shape: int) -> str:
        return self.const(self._random.normal(size=shape) / np.sqrt(np.prod(shape[1:])))


def write_tiny_segmenter(path: Path, dtype: type = np.float32, batch: int | str = 1,
                         size: tuple[int, int] = (64, 128), sampling: str = 'bilinear',
                         opset: int = 18, metadata: bool = True) -> Path:
    """Write patches -> attention -> sampling -> upsampling -> labels and confidence."""
    height, width = size
    rows, columns = height // PATCH, width // PATCH
    tokens, dim = rows * columns, WIDTH // HEADS
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    g = Graph(dtype)
    x = g.op('Transpose', g.op('Cast', 'image', to=kind), perm=[0, 3, 1, 2])
    x = g.op('Mul', x, g.const(1 / 255))
    x = g.op('Conv', x, g.weight(WIDTH, 3, PATCH, PATCH), strides=[PATCH, PATCH])
    x = g.op('Transpose', g.op('Reshape', x, g.ints(-1, WIDTH, tokens)), perm=[0, 2, 1])

    def heads() -> str:
        y = g.op('Reshape', g.op('MatMul', x, g.weight(WIDTH, WIDTH)),
                 g.ints(-1, tokens, HEADS, dim))
        return g.op('Transpose', y, perm=[0, 2, 1, 3])

    keys = g.op('Transpose', heads(), perm=[0, 1, 3, 2])
    scores = g.op('Mul', g.op('MatMul', heads(), keys), g.const(dim ** -0.5))
    y = g.op('MatMul', g.op('Softmax', scores, axis=-1), heads())
    y = g.op('Reshape', g.op('Transpose', y, perm=[0, 2, 1, 3]), g.ints(-1, tokens, WIDTH))
    x = g.op('Transpose', g.op('Add', x, y), perm=[0, 2, 1])
    x = g.op('Reshape', x, g.ints(-1, WIDTH, rows, columns))
    if sampling:
        grid = np.stack(np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)), -1)
        x = g.op('GridSample', x, g.const(grid[None]), mode=sampling, align_corners=0)
    x = g.op('Conv', x, g.weight(19, WIDTH, 1, 1))
    x = g.op('Resize', x, '', g.const([1, 1, PATCH, PATCH], np.float32), mode='linear')
    probabilities = g.op('Softmax', x, axis=1)
    g.op('Cast', g.op('ArgMax', probabilities, axis=1, keepdims=0), out='labels',
         to=TensorProto.UINT8)
    best = g.op('ReduceMax', probabilities, g.ints(1), keepdims=0)
    g.op('Cast', g.op('Round', g.op('Mul', best, g.const(255))), out='confidence',
         to=TensorProto.UINT8)
    values = {name: helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, *size, *more])
              for name, more in (('image', [3]), ('labels', []), ('confidence', []))}
    graph = helper.make_graph(g.nodes, 'segmenter', [values['image']],
                              [values['labels'], values['confidence']], g.constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=9)
    onnx.checker.check_model(model)
    if metadata:
        said = dataclasses.replace(METADATA, input_size=size)
        helper.set_model_props(model, {'dgtl': said.to_json()})
    onnx.save(model, str(path))
    return path
