# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import OnnxBackend
import numpy as np
import pytest

pytest.importorskip('onnx')
import onnx
import onnxruntime
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


def test_a_network_that_cannot_be_computed_is_told_in_words(tmp_path):
    def beyond(graph):  # which shows only when a picture comes
        (channel,) = (number for number in graph.initializer if number.name == 'one')
        channel.CopyFrom(onnx.numpy_helper.from_array(np.array(7), 'one'))

    backend = OnnxBackend(rewritten(write_tiny_onnx(tmp_path / 'm.onnx'), beyond), CPU)
    with pytest.raises(ModelError, match='m.onnx cannot be run: .*out of'):
        backend(np.zeros((1, 32, 64, 3), np.uint8))


def test_a_signature_of_another_kind_is_refused(tmp_path):
    def whole(graph):
        graph.node.append(onnx.helper.make_node('Shape', ['image'], ['signature']))
        graph.output.append(onnx.helper.make_tensor_value_info(
            'signature', onnx.TensorProto.INT64, [4]))

    path = rewritten(write_tiny_onnx(tmp_path / 'm.onnx'), whole)
    with pytest.raises(ModelError, match=r'a "signature" float32 \(B, D\) if any'):
        OnnxBackend(path, CPU)


OVERWRITTEN = """
import os, sys
from pathlib import Path
import numpy as np
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import OnnxBackend

backend = OnnxBackend(Path(sys.argv[1]), RunOptions(device='cpu'))
image = np.full((1, 32, 64, 3), 100, np.uint8)
before = backend(image)
for name in ('m.onnx', 'weights.bin'):
    os.truncate(Path(sys.argv[1]).with_name(name), 0)
print(all(map(np.array_equal, before[:2], backend(image)[:2])))
"""


@pytest.mark.skipif(not hasattr(
    onnxruntime.SessionOptions, 'add_external_initializers_from_files_in_memory'),
    reason='this ONNX Runtime can only map weights that lie beside a model')
def test_files_that_are_overwritten_while_they_run_change_nothing(tmp_path):
    """Such as by scp, which empties a file that is there and then fills it."""
    path = write_tiny_onnx(tmp_path / 'm.onnx', slow=1)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location='weights.bin',
              size_threshold=100)
    done = subprocess.run([sys.executable, '-c', OVERWRITTEN, path],
                          capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, 'True'), done.stderr
