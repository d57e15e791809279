# SPDX-License-Identifier: Apache-2.0
"""``training.export``: what it writes, compares and refuses, and what a fault leaves."""

import errno
import re

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import open_pictures
from dgtl_core.export.onnx import (
    agreement,
    write,
)
from dgtl_core.files import placing
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.predictor import Predictor
from folded_network import network
import numpy as np
import onnx
import pytest
from small_segmenter import small_config, small_segmenter, street
from tiny_onnx import write_tiny_onnx
from training.comparison import labelled_pictures, pictures_of
from training.export import main


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
    ('m.onnx', ['--count', '0'], '--count must be at least 1, got 0'),
    ('m.onnx', ['--calibrate-count', '-1'], '--calibrate-count must be at least 1, got -1'),
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


@pytest.mark.parametrize('drives, message', [
    ([3], '3 pictures: too few to know what is normal'),
    ([12, 9], 'the drive .*1 has 9 pictures, and each drive needs at least 10')])
def test_a_domain_of_too_few_pictures_is_refused_before_the_export(
        tmp_path, monkeypatch, capsys, drives, message):
    words = []
    for number, count in enumerate(drives):
        (tmp_path / str(number)).mkdir()
        words += ['--domain', str(tmp_path / str(number))]
        for index in range(count):
            (tmp_path / str(number) / f'{index}.png').write_bytes(b'not looked at')
    monkeypatch.setattr('training.export.load_segmenter', None)
    assert main([str(tmp_path / 'a.safetensors'), str(tmp_path / 'm.onnx'), *words]) == 1
    assert re.search(message, capsys.readouterr().err)


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
