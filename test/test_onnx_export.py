# SPDX-License-Identifier: Apache-2.0
import errno
import json
import re
from types import SimpleNamespace

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import open_pictures
from dgtl_core.export.onnx import (
    agreement,
    check,
    export_onnx,
    ExportError,
    OPSET,
    run_torch,
    to_onnx,
    write,
)
from dgtl_core.files import placing
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import set_precision
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.segmenter import slide
from dgtl_core.model_file import ModelMetadata, onnx_metadata
from dgtl_core.predictor import Predictor
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import _Bound, OnnxBackend
import numpy as np
import onnx
import pytest
from small_segmenter import normalised, small_config, small_segmenter, street
from tiny_onnx import write_tiny_onnx
import torch
from training.comparison import labelled_pictures, pictures_of
from training.export import main


def metadata(config, size=None):
    return ModelMetadata(
        name=config.name, classes=config.classes, input_size=size or config.input_size,
        method=config.method, backbone=config.backbone.name)


def network(name='dgtl-dinov2-s', form='gather', **options):
    config = small_config(name)
    model = small_segmenter(config, street(config.input_size))
    folded = fold(model, config.input_size, form)
    picture = options.pop('picture_size', config.input_size)
    return LabelNetwork(folded, picture, **options).eval(), config, model


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


@pytest.mark.parametrize('fault, kind, message', [
    (OSError(errno.ENOSPC, 'No space left on device'), OSError, 'MiB cannot .*No space.*m.onnx'),
    (KeyboardInterrupt(), KeyboardInterrupt, None)])
def test_a_full_disk_and_an_interrupt_leave_nothing(tmp_path, monkeypatch, fault, kind, message):
    def fail(*_):
        raise fault

    path = write_tiny_onnx(tmp_path / 'm.onnx')
    before = path.read_bytes()
    monkeypatch.setattr('pathlib.Path.write_bytes', fail)
    with pytest.raises(kind, match=message), placing(path) as temporary:
        write(onnx.load(path), temporary)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('out, options, message', [
    ('a.safetensors', [], 'the result must be a file that ends in .onnx, got .*a.safetensors'),
    ('folder.onnx', [], 'the result must be a file that ends in .onnx, got .*folder.onnx'),
    ('m.onnx', ['--min-agreement', '2'], 'must be in 0..1, got 2.0'),
    ('m.onnx', ['--min-agreement', 'nan'], 'must be in 0..1, got nan')])
def test_what_would_be_in_the_way_is_said_first(
        tmp_path, monkeypatch, capsys, out, options, message):
    checkpoint = tmp_path / 'a.safetensors'
    checkpoint.write_bytes(b'trained for days')
    (tmp_path / 'folder.onnx').mkdir()
    monkeypatch.setattr('training.export.load_segmenter', None)
    assert main([str(checkpoint), str(tmp_path / out), *options]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert checkpoint.read_bytes() == b'trained for days'


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


def test_every_picture_is_compared_once(tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((8, 8, 3), number, np.uint8))
    for count, seen in ((8, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (2, [0, 2])):
        assert [p.max() for p in pictures_of(tmp_path, count, (4, 4))] == seen
    data, classes = 'streetworld:clear,height=32,width=64,count=2', CITYSCAPES
    pictures, truths = labelled_pictures(data, 5, (32, 64), classes)
    assert len(pictures) == len(truths) == 2 and not np.array_equal(*pictures)


def test_labels_of_no_size_are_refused():
    net, _, _ = network()
    with pytest.raises(ValueError, match='at least 1x1, got 0x5'):
        LabelNetwork(net.network, net.picture_size, output_size=(0, 5))


def test_the_command_can_be_stopped(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('training.export.load_segmenter', stop)
    assert main([str(tmp_path / 'a.safetensors'), str(tmp_path / 'm.onnx')]) == 130
    assert f'stopped; {tmp_path / "m.onnx"} is as it was' in capsys.readouterr().err


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


def test_agreement_counts():
    large = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((3, 3), np.uint8))
    labels = np.array([[0, 1], [1, 1]], np.uint8)
    other = np.array([[0, 1], [1, 0]], np.uint8)
    sure = np.full((2, 2), 100, np.uint8)
    found = agreement([(labels, sure)], [(other, sure - 4)], 2, [other])
    assert found.labels == 0.75 and found.confidence == 4 and found.pictures == 1
    assert found.miou_reference == 1 and found.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert agreement([(labels, sure)], [(other, sure - 4)], 2, [large]) == found


def onnx_batches(path):
    """The pictures that the network sees in one call: those of its first convolution."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    first = next(node for node in graph.node if node.op_type in ('Conv', 'Gemm', 'MatMul'))
    shape = {v.name: v.type.tensor_type.shape for v in graph.value_info}[first.output[0]]
    return shape.dim[0].dim_value


def test_command(tmp_path, capsys):
    config = small_config('rein-dinov2-s')
    model = small_segmenter(config, street(config.input_size))
    save_checkpoint(tmp_path / 'model.safetensors', model, config, source='test')
    out = tmp_path / 'model.onnx'
    data = 'streetworld:fog,height=64,width=96'
    arguments = [str(tmp_path / 'model.safetensors'), str(out), '--count', '1',
                 '--truth', data, '--output-size', '200', '300']
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r'ONNX Runtime against torch: (99\.9|100\.)\d+% of the labels', printed)
    assert re.search(r'as it was trained, float32: (99\.9|100\.)\d+% of the labels', printed)
    predict = Predictor.load(out, device='cpu')
    assert predict.metadata.method == 'rein'
    shown = open_pictures(data)[0]
    matrix = ConfusionMatrix(19)
    matrix.update(predict(shown.image).labels, shown.labels)
    assert f'mIoU {matrix.mean_iou():.4f} (reference ' in printed
    size = predict._backend(np.zeros((1, *predict.input_size, 3), np.uint8))[0].shape
    assert size == (1, 200, 300)
    # A window that is smaller than the configuration's stride.
    small = [*arguments[:4], '--size', '32', '48', '--slide', '64', '96']
    for stride, windows in (([], 4), (['--stride', '16', '48'], 6)):
        assert main([*small, *stride]) == 1, 'what is there is kept'
        assert main([*small, *stride, '--force']) == 0
        assert onnx_batches(out) == windows
    capsys.readouterr()
    assert main([*arguments[:-3], '--force', '--truth', 'streetworld:fgo']) == 1
    assert "no condition 'fgo'" in capsys.readouterr().err
    assert main([str(tmp_path / 'none.safetensors'), str(out), '--force']) == 1
    assert 'none.safetensors' in capsys.readouterr().err
