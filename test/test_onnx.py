# SPDX-License-Identifier: Apache-2.0
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import OnnxBackend
import numpy as np
import pytest

pytest.importorskip('onnx')
import onnx
from tiny_onnx import write_tiny_onnx

CPU = RunOptions(device='cpu')


@pytest.mark.parametrize('batch, count', [(1, 1), (4, 2), ('batch', 3)])
def test_a_signature_is_the_third_output(tmp_path, batch, count):
    backend = OnnxBackend(
        write_tiny_onnx(tmp_path / 'm.onnx', batch=batch, signature=True), CPU)
    images = np.random.default_rng(0).integers(0, 150, (count, 32, 64, 3), np.uint8)
    outputs = backend(images)
    np.testing.assert_array_equal(outputs.labels, images[..., 0] // 8)
    assert outputs.signature.dtype == np.float32 and outputs.signature.shape == (count, 3)
    np.testing.assert_allclose(outputs.signature, images.mean(axis=(1, 2)), rtol=1e-5)


def test_without_one_there_is_none(tiny_model):
    assert OnnxBackend(tiny_model, CPU)(np.zeros((1, 32, 64, 3), np.uint8)).signature is None


def rewritten(path, change):
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def test_outputs_that_we_do_not_know_are_passed_over(tmp_path):
    def another(graph):
        graph.node.append(onnx.helper.make_node('Shape', ['image'], ['depth']))
        graph.output.append(onnx.helper.make_tensor_value_info(
            'depth', onnx.TensorProto.INT64, [4]))

    path = rewritten(write_tiny_onnx(tmp_path / 'm.onnx'), another)
    assert len(OnnxBackend(path, CPU)(np.zeros((1, 32, 64, 3), np.uint8))[:2]) == 2


def test_a_signature_of_another_kind_is_refused(tmp_path):
    def whole(graph):
        graph.node.append(onnx.helper.make_node('Shape', ['image'], ['signature']))
        graph.output.append(onnx.helper.make_tensor_value_info(
            'signature', onnx.TensorProto.INT64, [4]))

    path = rewritten(write_tiny_onnx(tmp_path / 'm.onnx'), whole)
    with pytest.raises(ModelError, match=r'a "signature" float32 \(B, D\) if any'):
        OnnxBackend(path, CPU)
