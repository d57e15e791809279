# SPDX-License-Identifier: Apache-2.0
"""
A model file from a segmenter: one ONNX graph from the uint8 picture to uint8 labels.

Opset 18, no custom operator, one file. The file is written beside its place, checked, compared
with torch on pictures, and only then put where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math
from pathlib import Path
from typing import Literal

from dgtl_core.engine.agreement import Agreement, agreement, Output
from dgtl_core.files import placing
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import Precision, set_precision
from dgtl_core.model_file import KEY, ModelMetadata
from dgtl_core.runtime.contract import INPUT, OUTPUTS, RunOptions, SIGNATURE
from dgtl_core.runtime.onnx import OnnxBackend
import numpy as np
import onnx
from onnx import numpy_helper, TensorProto
from onnxscript import FLOAT
from onnxscript import opset18 as op
import torch

# The only one that every TensorRT from 10.3 to 11 reads: 10.3 stops at 20, and from 20 on
# GridSample is called 'linear', which many versions silently run as 'nearest'.
OPSET = 18
_SMALL = 1024  # values; smaller constants stay float32 in a file with float16 weights

Weights = Literal['float32', 'float16']


class ExportError(ValueError):
    """The graph breaks a rule, or the file does not agree with the network; nothing is written."""


def round_weights(network: LabelNetwork) -> None:
    """Round the weights that a file with float16 weights stores, so that it is exact for them."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype == torch.float32 and tensor.numel() >= _SMALL:
            tensor.data.copy_(tensor.half().float())


def _gelu(x: FLOAT, approximate: str = 'none') -> FLOAT:
    """GELU in the order of operations that ONNX Runtime and TensorRT know to fuse."""
    def number(value: float) -> FLOAT:
        return op.CastLike(value, x)  # type: ignore[type-var]  # onnxscript takes plain numbers

    one, half = number(1.0), number(0.5)
    if approximate == 'tanh':
        cubic = op.Mul(op.Mul(x, op.Mul(x, x)), number(0.044715))
        inner = op.Mul(op.Add(x, cubic), number(math.sqrt(2 / math.pi)))
        return op.Mul(op.Mul(x, op.Add(op.Tanh(inner), one)), half)
    inner = op.Div(x, number(math.sqrt(2)))
    return op.Mul(op.Mul(x, op.Add(op.Erf(inner), one)), half)


def to_onnx(network: LabelNetwork, metadata: ModelMetadata, *, dynamic_batch: bool = False,
            weights: Weights = 'float32') -> onnx.ModelProto:
    """
    Trace a network into a model proto that keeps the model file contract.

    :param dynamic_batch: leave the batch open (the axis is called ``batch``); it is 1 otherwise.
    :param weights: how large constants are stored; the arithmetic is the network's either way.
    :raises ExportError: the graph breaks one of the rules of :func:`check`.
    """
    picture = torch.zeros((2 if dynamic_batch else 1, *network.picture_size, 3), dtype=torch.uint8)
    shapes = ({0: torch.export.Dim('batch', min=1, max=64)},) if dynamic_batch else None
    with torch.no_grad():
        program = torch.onnx.export(
            network, (picture,), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=['image'], output_names=[*OUTPUTS, SIGNATURE], dynamic_shapes=shapes,
            custom_translation_table={torch.ops.aten.gelu.default: _gelu})
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # source lines of this machine, several times the graph's size
        del node.metadata_props[:]
        node.doc_string = ''
    del model.graph.metadata_props[:], model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if dynamic_batch != bool(batch.dim_param):
        raise ExportError(f'the batch of the traced graph is {batch}, not an open axis')
    model.producer_name, model.producer_version = 'dgtl', ''
    if weights == 'float16':
        _store_as_float16(model)
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    check(model)
    return model


def _store_as_float16(model: onnx.ModelProto) -> None:
    """Halve the file: constants that float16 holds exactly, each followed by a Cast."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        value = numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        casts.append(onnx.helper.make_node(
            'Cast', [f'{name}_half'], [name], f'{name}_cast', to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check(model: onnx.ModelProto) -> None:
    """
    Check a model against onnx's own rules and those of the engines that will run it.

    :raises ExportError: a rule is broken; the message names the node.
    """
    opsets = {(item.domain, item.version) for item in model.opset_import if item.version}
    domains = {node.domain for node in model.graph.node} - {''}
    if ('', OPSET) not in opsets or domains:
        raise ExportError(
            f'the graph must use opset {OPSET} alone, it uses {sorted(opsets)} and the operator '
            f'domains {sorted(domains)}')
    for node in model.graph.node:
        if node.op_type == 'GridSample':
            modes = [a.s.decode() for a in node.attribute if a.name == 'mode']
            if modes not in ([], ['bilinear']):
                raise ExportError(f'{node.name} samples with mode {modes}, not bilinear')
    ends = [(value.name, value.type.tensor_type.elem_type)
            for value in (*model.graph.input, *model.graph.output)]
    if ends != [*((name, TensorProto.UINT8) for name in (INPUT, *OUTPUTS)),
                (SIGNATURE, TensorProto.FLOAT)]:
        raise ExportError(
            'inputs and outputs must be uint8 image, labels, confidence and float32 signature; '
            f'got {ends}')
    first = {node.op_type for node in model.graph.node if 'image' in node.input}
    if first - {'Shape'} != {'Cast'}:  # TensorRT computes nothing in uint8
        raise ExportError(f'the picture must go through a Cast first, it goes through {first}')
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f'onnx refuses the graph: {error}') from None


def write(model: onnx.ModelProto, path: Path) -> None:
    """
    Write a model.

    :raises OSError: it did not fit.
    """
    content = model.SerializeToString()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(
            error.errno, f'a model of {len(content) / 2**20:.1f} MiB cannot be written '
            f'({error.strerror})', str(path)) from None


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with float32 where it has bfloat16, which a CPU does not compute."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    attributes = [a for node in copy.graph.node for a in node.attribute]
    tensors = [*copy.graph.initializer, *(a.t for a in attributes if a.HasField('t'))]
    for tensor in tensors:
        if tensor.data_type == TensorProto.BFLOAT16:
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for attribute in attributes:
        if attribute.name in ('to', 'dtype') and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    metadata = ModelMetadata.from_json(
        next(p.value for p in copy.metadata_props if p.key == KEY), 'the model')
    onnx.helper.set_model_props(copy, {KEY: replace(metadata, precision='fp32').to_json()})
    return copy


@torch.no_grad()
def run_torch(network: LabelNetwork, pictures: Sequence[np.ndarray]) -> list[Output]:
    """Return (labels, confidence) of pictures (H, W, 3) uint8, one at a time."""
    results = []
    for picture in pictures:
        labels, confidence, _ = network(torch.from_numpy(picture)[None])
        results.append((labels[0].numpy(), confidence[0].numpy()))
    return results


def run_file(path: Path, pictures: Sequence[np.ndarray]) -> list[Output]:
    """Return (labels, confidence) of pictures as ONNX Runtime on the CPU gives them."""
    backend = OnnxBackend(path, RunOptions(device='cpu'))
    try:
        found = [backend(picture[None]) for picture in pictures]
    finally:
        backend.close()
    return [(outputs.labels[0], outputs.confidence[0]) for outputs in found]


def export_onnx(
        network: LabelNetwork, path: Path, metadata: ModelMetadata,
        pictures: Sequence[np.ndarray], truths: Sequence[np.ndarray] | None = None, *,
        trained: Sequence[Output] | None = None, precision: Precision = 'fp32',
        dynamic_batch: bool = False, weights: Weights = 'float32',
        min_agreement: float = 0.999) -> tuple[Agreement, Agreement]:
    """
    Write the model file; return its agreement with torch, and with the network that was trained.

    ONNX Runtime computes no bfloat16 on a CPU: of a bf16 file the first compares the same graph in
    float32 with the network that was trained, and the second torch's own bfloat16. The network's
    types change, see :func:`set_precision`.

    :param pictures: real pictures of the network's picture size, (H, W, 3) uint8 each.
    :param truths: their labels, 255 = ignore, at any size; None: no mIoU.
    :param trained: labels and confidence that the network gives before it is folded, in float32;
        None: those of the folded network in float32.
    :param min_agreement: the fraction of labels that must be equal to those.
    :raises ExportError: a rule of the graph is broken, or the labels differ too much.
    :raises OSError: the file could not be written. In both cases ``path`` is as it was.
    """
    if not pictures:
        raise ExportError('an export is checked on real pictures; none were given')
    classes, metadata = len(metadata.classes), replace(metadata, precision=precision)
    reference = None
    if trained is None:
        trained = reference = run_torch(network, pictures)
    if reference is None or (precision, weights) != ('fp32', 'float32'):
        if weights == 'float16':
            round_weights(network)
        reference = run_torch(set_precision(network, precision), pictures)
    model = to_onnx(network, metadata, dynamic_batch=dynamic_batch, weights=weights)
    rounds = precision == 'bf16'
    with placing(path) as temporary:
        write(in_float32(model) if rounds else model, temporary)
        found = run_file(temporary, pictures)
        same = agreement(found, trained if rounds else reference, classes, truths)
        if rounds:
            write(model, temporary)
            found = reference
        kept = agreement(found, trained, classes, truths)
        if min(kept.labels, same.labels) < min_agreement:
            raise ExportError(
                f'ONNX Runtime against torch: {same}; against what was trained: {kept}; at least '
                f'{min_agreement:.2%} must be equal, so nothing was written')
    return same, kept
