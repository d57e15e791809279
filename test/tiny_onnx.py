# SPDX-License-Identifier: Apache-2.0
"""A tiny model file that keeps the contract: label = red // divisor, confidence = green."""

import json
from pathlib import Path

from dgtl_core.classes import CITYSCAPES
from dgtl_core.model_file import ModelMetadata
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

METADATA = ModelMetadata(
    name='tiny', classes=CITYSCAPES, input_size=(32, 64), method='none', backbone='none')


def write_tiny_onnx(path: Path, size: tuple[int, int] = (32, 64), batch: int | str = 1,
                    metadata: str | None = 'default', slow: int = 0,
                    divisor: int = 8, signature: bool = False) -> Path:
    """
    Write the model; red must stay below 19 * divisor for the labels to be Cityscapes ids.

    ``metadata`` replaces the JSON text (None: leave it out). ``slow`` is a number of
    1024 x 1024 matrix products that one inference costs on top. ``signature`` adds that output:
    the means of red, green and blue.
    """
    shape = [batch, *size]
    constants = [
        numpy_helper.from_array(np.array(divisor, np.int32), 'divisor'),
        numpy_helper.from_array(np.array(0, np.int64), 'zero'),
        numpy_helper.from_array(np.array(1, np.int64), 'one')]
    nodes = [
        helper.make_node('Gather', ['image', 'zero'], ['red'], axis=3),
        helper.make_node('Gather', ['image', 'one'], ['confidence' if not slow else 'green'],
                         axis=3),
        # ONNX Runtime 1.19 does not calculate with bytes.
        helper.make_node('Cast', ['red'], ['red_number'], to=TensorProto.INT32),
        helper.make_node('Div', ['red_number', 'divisor'], ['labels_number']),
        helper.make_node('Cast', ['labels_number'], ['labels'], to=TensorProto.UINT8)]
    if slow:
        constants += [
            numpy_helper.from_array(np.zeros((1024, 1024), np.float32), 'matrix'),
            numpy_helper.from_array(np.array(slow, np.int64), 'trips'),
            numpy_helper.from_array(np.array(True), 'go')]
        body = helper.make_graph(
            [helper.make_node('MatMul', ['state', 'matrix'], ['next']),
             helper.make_node('Identity', ['keep'], ['still'])], 'body',
            [helper.make_tensor_value_info('i', TensorProto.INT64, []),
             helper.make_tensor_value_info('keep', TensorProto.BOOL, []),
             helper.make_tensor_value_info('state', TensorProto.FLOAT, [1024, 1024])],
            [helper.make_tensor_value_info('still', TensorProto.BOOL, []),
             helper.make_tensor_value_info('next', TensorProto.FLOAT, [1024, 1024])])
        nodes += [
            # The start depends on the picture, so that nothing is folded away.
            helper.make_node('Cast', ['green'], ['green_float'], to=TensorProto.FLOAT),
            helper.make_node('ReduceMax', ['green_float'], ['peak'], keepdims=0),
            helper.make_node('Add', ['matrix', 'peak'], ['start']),
            helper.make_node('Loop', ['trips', 'go', 'start'], ['end'], body=body),
            helper.make_node('ReduceMin', ['end'], ['nothing'], keepdims=0),
            helper.make_node('Add', ['green_float', 'nothing'], ['green_again']),
            helper.make_node('Cast', ['green_again'], ['confidence'], to=TensorProto.UINT8)]
    outputs = [helper.make_tensor_value_info('labels', TensorProto.UINT8, shape),
               helper.make_tensor_value_info('confidence', TensorProto.UINT8, shape)]
    if signature:
        constants.append(numpy_helper.from_array(np.array([1, 2]), 'sides'))
        nodes += [helper.make_node('Cast', ['image'], ['colors'], to=TensorProto.FLOAT),
                  helper.make_node('ReduceMean', ['colors', 'sides'], ['signature'], keepdims=0)]
        outputs.append(
            helper.make_tensor_value_info('signature', TensorProto.FLOAT, [batch, 3]))
    graph = helper.make_graph(
        nodes, 'tiny', [helper.make_tensor_value_info('image', TensorProto.UINT8, [*shape, 3])],
        outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    if metadata == 'default':
        metadata = json.dumps({**json.loads(METADATA.to_json()), 'input_size': list(size)})
    if metadata is not None:
        helper.set_model_props(model, {'dgtl': metadata})
    onnx.save(model, str(path))
    return path
