# SPDX-License-Identifier: Apache-2.0
"""A folded network becomes an .onnx that keeps the contract and agrees with torch."""

import json
from types import SimpleNamespace

from dgtl_core.export.onnx import (
    check,
    export_onnx,
    ExportError,
    OPSET,
    run_torch,
    to_onnx,
)
from dgtl_core.folding.precision import set_precision
from dgtl_core.model.segmenter import slide
from dgtl_core.model_file import onnx_metadata
from dgtl_core.predictor import Predictor
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import _Bound, OnnxBackend
from folded_network import metadata, network
import numpy as np
import onnx
import pytest
from small_segmenter import normalised, small_config, street
import torch
from training.export import main


@pytest.mark.parametrize('name, form', [
    ('dgtl-dinov2-l', 'grid_sample'), ('vltseg-eva02-l', 'gather')])
def test_file_keeps_the_contract_and_agrees_with_torch(name, form, tmp_path):
    net, config, _ = network(name, form)
    pictures = [street(config.input_size, seed) for seed in range(2)]
    truths = [labels for labels, _ in run_torch(net, pictures)]
    path = tmp_path / 'model.onnx'
    same, kept = export_onnx(net, path, metadata(config), pictures, truths)
    assert same.labels >= 0.999 and same == kept and same.miou > 0.99
    assert same.miou_reference == 1
    model = onnx.load(path)
    assert [item.version for item in model.opset_import if not item.domain] == [OPSET]
    assert {node.domain for node in model.graph.node} <= {''}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    samplers = {node.op_type for node in model.graph.node} & {'GridSample', 'Gather'}
    assert ('GridSample' in samplers) == (form == 'grid_sample')
    stored = json.loads({p.key: p.value for p in model.metadata_props}['dgtl'])
    assert stored['format'] == 1 and stored['method'] == config.method
    assert stored['input_size'] == list(config.input_size)
    assert [o.name for o in model.graph.output] == ['labels', 'confidence', 'signature']
    predict = Predictor.load(path, device='cpu')
    assert len(np.unique(predict(pictures[0]).labels)) >= 3
    with torch.no_grad():
        signature = net(torch.from_numpy(pictures[0])[None])[2][0]
    np.testing.assert_allclose(predict(pictures[0]).signature, signature, atol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.slow
def test_dynamic_batch_and_float16_weights(tmp_path):
    net, config, _ = network()
    path = tmp_path / 'model.onnx'
    pictures = [street(config.input_size, seed) for seed in range(3)]
    export_onnx(net, path, metadata(config), pictures[:1], dynamic_batch=True, weights='float16',
                min_agreement=0.9)
    stored = sum(np.prod(i.dims) * (2 if i.data_type == onnx.TensorProto.FLOAT16 else 4)
                 for i in onnx.load(path).graph.initializer)
    assert path.stat().st_size < 1.2 * stored
    run = OnnxBackend(path, RunOptions(device='cpu'))
    assert run.max_batch > 1
    labels, confidence, signatures = run(np.stack(pictures))
    assert signatures.shape[0] == 3 and signatures.dtype == np.float32
    for index, (expected, sure) in enumerate(run_torch(net, pictures)):
        assert (labels[index] == expected).mean() >= 0.999
        assert np.abs(confidence[index].astype(int) - sure).mean() < 0.5
    # The same picture bound to a device buffer, as on a GPU.
    bound = _Bound(run._session, run._names, 'cpu', 0)
    for picture in pictures:
        np.testing.assert_array_equal(bound(picture[None])[0], run(picture[None])[0])
    for count in (2, 3, 1):
        np.testing.assert_array_equal(bound(np.stack(pictures[:count]))[0], labels[:count])


def test_sliding_windows_are_those_of_the_segmenter():
    picture_size = (192, 300)
    net, config, model = network(picture_size=picture_size, stride=(100, 150))
    assert len(net.windows) == 4
    picture = street(picture_size)
    with torch.no_grad():
        found = net.scores(torch.from_numpy(picture)[None])
        expected = slide(model.scores, normalised(picture, config), config.input_size, (100, 150))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    check(to_onnx(net, metadata(config, picture_size)))


def test_output_size_and_quarter_resolution():
    net, config, _ = network(output_size=(200, 300))
    picture = street(config.input_size)
    (exact, sure), = run_torch(net, [picture])
    assert exact.shape == sure.shape == (200, 300)
    quick, _, _ = network(output_size=(200, 300), upsampling='quarter')
    (fast, _), = run_torch(quick, [picture])
    assert 0.8 < (fast == exact).mean() < 1


@pytest.mark.parametrize('precision, kind, norm', [
    ('fp16', onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT16),
    ('bf16', onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT)])
def test_sixteen_bit_networks_keep_the_fragile_parts_in_float32(precision, kind, norm):
    net, config, _ = network('dgtl-dinov2-s', 'grid_sample')
    model = to_onnx(set_precision(net, precision), metadata(config))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types.update({i.name: i.data_type for i in inferred.graph.initializer})
    used = {}
    types['image'] = onnx.TensorProto.UINT8
    for node in inferred.graph.node:
        used.setdefault(node.op_type, set()).add(types[node.input[0]])
    assert used['GridSample'] == {onnx.TensorProto.FLOAT}
    assert used['InstanceNormalization'] == {onnx.TensorProto.FLOAT}
    assert used['LayerNormalization'] == {norm}
    assert used['Conv'] == {onnx.TensorProto.FLOAT16}
    assert kind in used['MatMul']
    first = next(node for node in inferred.graph.node if node.op_type == 'MatMul')
    assert types[first.input[0]] == onnx.TensorProto.FLOAT, 'pixels are not rounded'


@pytest.mark.parametrize('name', [
    'dgtl-dinov2-s', 'rein-dinov2-l', 'vltseg-eva02-l', 'vltseg-eva02-l-clip', 'dgtl-eva02-l',
    'dgtl-dinov3-l', 'dgtl-mini'])
def test_bfloat16_rounds_products_but_not_pixels_and_sums(name):
    net, config, _ = network(name)
    picture = torch.from_numpy(street(config.input_size))[None]
    seen = {}

    def note(key):
        return lambda module, inputs, output: seen.setdefault(key, []).append(output)

    folded = net.network
    folded.patches.register_forward_hook(note('patches'))
    folded.blocks[0].register_forward_hook(note('block'))
    folded.register_forward_hook(note('logits'))
    linear = next(m for m in folded.blocks[0].modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        net(picture)
        set_precision(net, 'bf16', torch.bfloat16)
        linear.register_forward_hook(note('product'))
        net(picture)
    torch.testing.assert_close(*seen['patches'], rtol=1e-5, atol=1e-5)
    assert seen['product'][0].dtype == torch.bfloat16
    exact, rounded = seen['block']
    assert 0 < (exact - rounded).norm() / exact.norm() < 0.01
    # With random weights the masks of the decoder flip; a trained model is held to 99.5 %.
    assert {x.dtype for x in (rounded, *seen['logits'][1])} == {torch.float32}


def test_a_bfloat16_graph_is_compared_with_torch_in_float32(tmp_path, monkeypatch):
    net, config, _ = network('dgtl-dinov2-s', 'grid_sample')
    pictures = [street(config.input_size, seed) for seed in range(2)]
    path = tmp_path / 'model.onnx'
    same, kept = export_onnx(
        net, path, metadata(config), pictures, precision='bf16', min_agreement=0.8)
    assert same.labels > 0.9 and same != kept, 'random weights flip many labels'
    model = onnx.load(path)
    assert onnx.TensorProto.BFLOAT16 in {i.data_type for i in model.graph.initializer}
    assert onnx_metadata(path).precision == 'bf16'
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']
    wrong = [(np.full(config.input_size, 3, np.uint8), np.zeros(config.input_size, np.uint8))] * 2
    monkeypatch.setattr('dgtl_core.export.onnx.run_file', lambda *_: wrong)
    with pytest.raises(ExportError, match='at least 80.00% must be equal'):
        export_onnx(network('dgtl-dinov2-s', 'grid_sample')[0], path, metadata(config), pictures,
                    precision='bf16', min_agreement=0.8)


def test_a_pixel_outside_of_every_mask_has_no_confidence(monkeypatch):
    net, config, _ = network()
    net = set_precision(net, 'fp16')
    near = net.network.forward

    def far(pictures):
        found = near(pictures)
        return found._replace(masks=torch.full_like(found.masks, -40.0))

    seen = []
    monkeypatch.setattr(net.network, 'forward', far)
    monkeypatch.setattr(torch.Tensor, 'round', lambda x: seen.append(x) or x)
    with torch.no_grad():
        net(torch.from_numpy(street(config.input_size))[None])
    assert (seen[0] == 0).all(), 'and is no NaN, whose conversion to uint8 nobody defines'


def test_a_disagreeing_export_leaves_the_old_file(tmp_path, monkeypatch):
    net, config, _ = network()
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'the old one')
    picture = street(config.input_size)
    wrong = [(np.full(config.input_size, 3, np.uint8), np.zeros(config.input_size, np.uint8))]
    monkeypatch.setattr('dgtl_core.export.onnx.run_file', lambda *_: wrong)
    with pytest.raises(ExportError, match='at least 99.90% must be equal'):
        export_onnx(net, path, metadata(config), [picture])
    assert path.read_bytes() == b'the old one'
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']
    with pytest.raises(ExportError, match='none were given'):
        export_onnx(net, path, metadata(config), [])


def test_the_file_says_in_which_precision_it_computes(tmp_path, monkeypatch):
    def keep(net, metadata, **options):
        said.append(metadata.precision)
        raise ExportError('enough')

    said = []
    monkeypatch.setattr('dgtl_core.export.onnx.to_onnx', keep)
    net, config, _ = network()
    for precision in ('fp32', 'fp16'):
        with pytest.raises(ExportError, match='enough'):
            export_onnx(net, tmp_path / 'm.onnx', metadata(config), [street(config.input_size)],
                        precision=precision)
    assert said == ['fp32', 'fp16']


@pytest.mark.parametrize('options, wanted', [
    ([], 0.999), (['--min-agreement', '0'], 0), (['--quarter'], 0.95),
    (['--quarter', '--min-agreement', '0.5'], 0.5), (['--precision', 'fp16'], 0.995)])
def test_the_least_agreement(tmp_path, monkeypatch, options, wanted):
    def keep(*_, min_agreement, **__):
        said.append(min_agreement)
        raise ExportError('enough')

    said = []
    config = small_config('rein-dinov2-s')
    monkeypatch.setattr('training.export._network', lambda _: (
        None, SimpleNamespace(picture_size=(64, 96)), None, metadata(config)))
    monkeypatch.setattr('training.export.as_trained', lambda *_: [])
    monkeypatch.setattr('training.export.export_onnx', keep)
    main(['a.safetensors', str(tmp_path / 'm.onnx'), '--count', '1', *options])
    assert said == [wanted]


def test_rules_of_the_graph():
    def graph(mode, opset):
        node = onnx.helper.make_node('GridSample', ['x', 'g'], ['y'], 'sample', mode=mode)
        return onnx.helper.make_model(
            onnx.helper.make_graph([node], 'g', [], []),
            opset_imports=[onnx.helper.make_opsetid('', opset)])
    with pytest.raises(ExportError, match='opset 18 alone'):
        check(graph('linear', 20))
    with pytest.raises(ExportError, match="sample samples with mode .*'nearest'"):
        check(graph('nearest', 18))
    with pytest.raises(ExportError, match='must be uint8'):
        check(graph('bilinear', 18))
