# SPDX-License-Identifier: Apache-2.0
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
import logging
from pathlib import Path
import sys
import time

from dgtl_core.classes import CITYSCAPES
from dgtl_core.predictor import EngineStatus, ModelError, Predictor
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import Outputs, RunOptions
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA, write_tiny_onnx


@pytest.fixture
def model(tmp_path):
    return write_tiny_onnx(tmp_path / 'tiny.onnx')


def picture(height, width):
    """Left half class 2, right half class 13 (red // 8); green says confidence."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :width // 2], image[:, width // 2:] = (2 * 8, 50, 0), (13 * 8, 200, 0)
    return image


@pytest.mark.parametrize('size', [(32, 64), (64, 128), (100, 60), (720, 1280), (5, 4)])
def test_labels_have_the_size_and_the_place_of_the_input(model, size):
    predict = Predictor.load(model, device='cpu')
    labels, confidence = predict(picture(*size))
    assert labels.shape == confidence.shape == size
    assert labels.dtype == confidence.dtype == np.uint8
    assert labels[0, 0] == 2 and labels[-1, -1] == 13
    assert confidence[0, 0] == 50 and confidence[-1, -1] == 200
    assert predict.classes.entries == CITYSCAPES.entries and predict.input_size == (32, 64)


@pytest.mark.parametrize('batch', [1, 2, 4, 'batch'])
def test_many_equals_one_by_one(tmp_path, batch):
    predict = Predictor.load(write_tiny_onnx(tmp_path / 'm.onnx', batch=batch), device='cpu')
    pictures = [picture(50, 70), picture(32, 64), picture(90, 40)]
    for together, alone in zip(predict.many(pictures), map(predict, pictures), strict=True):
        np.testing.assert_array_equal(together.labels, alone.labels)
        np.testing.assert_array_equal(together.confidence, alone.confidence)
    assert predict.many([]) == []


def test_a_closed_model_says_so_and_closes_again(model):
    predict = Predictor.load(model, device='cpu')
    predict.close()
    predict.close()
    with pytest.raises(ModelError, match='was closed'):
        predict(picture(32, 64))


def test_letterbox_and_crop(model):
    image = picture(100, 100)
    boxed = Predictor.load(model, device='cpu', resize_mode='letterbox')(image)
    assert set(np.unique(boxed.labels)) <= {2, 13, 7, 8}  # 7, 8: the seam, interpolated
    cropped = Predictor.load(model, device='cpu', resize_mode='crop')(image)
    assert (cropped.labels[0] == 255).all() and (cropped.confidence[0] == 0).all()


class Enlarging:
    """A backend whose labels and confidence are larger than its input."""

    name, max_batch, metadata = 'enlarging', 2, METADATA

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images):
        large = images.repeat(self.factor, axis=1).repeat(self.factor, axis=2)
        return Outputs(large[..., 0] // 8, large[..., 1])


@pytest.mark.parametrize('mode', ['stretch', 'letterbox', 'crop'])
@pytest.mark.parametrize('size', [(100, 100), (96, 192), (64, 300)])
def test_a_model_may_have_an_output_size_of_its_own(size, mode):
    image = picture(*size)
    expected = Predictor(Enlarging(1), mode)(image)
    result, timing = Predictor(Enlarging(3), mode).timed(image)
    assert result.labels.shape == result.confidence.shape == size
    assert (result.labels == expected.labels).mean() > 0.98  # the border between the halves
    assert (np.abs(result.confidence.astype(int) - expected.confidence) > 1).mean() < 0.02
    both = Predictor(Enlarging(3), mode).many([image, image])
    np.testing.assert_array_equal(both[1].labels, result.labels)


class Counting:
    """The backend of a predictor, how many pictures each call had, and how long it took."""

    def __init__(self, backend, seconds):
        self._backend, self._seconds, self.calls = backend, seconds, []
        self.name, self.max_batch, self.metadata = backend.name, 2, backend.metadata
        self.engine = EngineStatus('cached', 'x.engine')

    def __call__(self, images):
        self.calls.append(len(images))
        time.sleep(self._seconds)
        return self._backend(images)


def test_several_pictures_are_few_calls_and_their_times_are_summed(tmp_path):
    backend = open_backend(
        write_tiny_onnx(tmp_path / 'm.onnx', batch='B'), RunOptions(device='cpu'))
    counting = Counting(backend, 0.05)
    predict = Predictor(counting)
    images = [picture(20, 30), picture(64, 128), picture(32, 64)]
    results, timing = predict.timed_many(images)
    assert counting.calls == [2, 1] and predict.max_batch == 2
    assert 100 < timing.infer_ms < 1000 and timing.preprocess_ms > 0 < timing.postprocess_ms
    for image, result in zip(images, results):
        np.testing.assert_array_equal(result.labels, predict(image).labels)
        assert result.labels.shape == image.shape[:2]
    assert predict.engine == ('cached', 'x.engine', '', '', '')
    assert predict.many([]) == []
    with pytest.raises(ValueError, match='a picture must be'):
        predict.timed_many([images[0], np.zeros((4, 4), np.uint8)])
    assert len(counting.calls) == 5, 'the wrong one is found before any call'


@pytest.mark.parametrize('mode', ['stretch', 'letterbox', 'crop'])
def test_a_picture_as_the_network_sees_it_is_labelled_in_that_size(model, mode):
    predict = Predictor.load(model, device='cpu', resize_mode=mode)
    seen = predict.seen(picture(100, 100))
    assert seen.shape == (32, 64, 3)
    assert predict(seen).labels.shape == (32, 64)
    left = (seen[:, 0] == picture(100, 100)[0, 0]).all()
    assert left == (mode != 'letterbox')  # which has a grey bar there


@pytest.mark.parametrize('mode', ['stretch', 'letterbox', 'crop'])
def test_a_prepared_picture_is_labelled_as_the_picture_itself(model, mode):
    predict = Predictor.load(model, device='cpu', resize_mode=mode)
    images = [picture(100, 100), picture(50, 200)]
    (first, second), timing = predict.timed_many([predict.prepare(images[0]), images[1]])
    for found, image in ((first, images[0]), (second, images[1])):
        assert found.labels.shape == image.shape[:2]
        np.testing.assert_array_equal(found, predict(image))
    assert min(timing) > 0
    with pytest.raises(ValueError, match='a picture must be'):
        predict.prepare(np.zeros((4, 4), np.uint8))


def test_several_threads_may_label_at_once(model):
    predict = Predictor.load(model, device='cpu', calls=3)
    assert predict.calls == 3 and Predictor.load(model, device='cpu').calls == 1
    images = [np.full((32, 64, 3), value % 152, np.uint8) for value in range(200)]
    with ThreadPoolExecutor(3) as threads:
        for image, found in zip(images, threads.map(predict, images)):
            np.testing.assert_array_equal(found.labels, image[:, :, 0] // 8)


def test_timing_is_of_this_call(model):
    result, timing = Predictor.load(model, device='cpu').timed(picture(720, 1280))
    assert result.labels.shape == (720, 1280)
    assert min(timing) > 0


def test_the_signature_travels_beside_labels_and_confidence(tmp_path):
    predict = Predictor.load(
        write_tiny_onnx(tmp_path / 'm.onnx', batch='batch', signature=True), device='cpu')
    images = [np.full((20, 30, 3), value, np.uint8) for value in (10, 40, 90)]
    found = predict.many(images)
    for image, result in zip(images, found):
        labels, confidence = result
        assert labels is result.labels and confidence is result.confidence
        assert result.signature.tolist() == [image[0, 0, 0]] * 3
    plain = Predictor.load(write_tiny_onnx(tmp_path / 'plain.onnx'), device='cpu')
    assert plain(images[0]).signature is None


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((0, 4, 3), np.uint8), [[1, 2, 3]]])
def test_what_is_not_a_picture_is_refused(model, image):
    with pytest.raises(ValueError, match=r'must be an \(H, W, 3\) uint8 RGB array, got'):
        Predictor.load(model, device='cpu')(image)


@pytest.mark.parametrize('metadata, message', [
    (None, r'has no "dgtl" metadata.*training\.export'),
    ('{', 'broken "dgtl" metadata'),
    ('[]', 'broken "dgtl" metadata'),
    (json.dumps({'format': 1}), 'broken "dgtl" metadata'),
    (METADATA.to_json().replace('"format": 1', '"format": 9'), 'format 9, this version reads 1'),
    (METADATA.to_json().replace('[32, 64]', '[64, 64]'), 'must take "image" uint8'),
    (METADATA.to_json().replace('[32, 64]', '[1e999, 64]'), 'broken .*input_size'),
    (METADATA.to_json().replace('[32, 64]', '[32.5, 64]'), 'broken .*input_size'),
    (METADATA.to_json().replace('[32, 64]', '[0, 64]'), 'broken .*input_size'),
    (replace(METADATA, precision='fp12').to_json(), "broken .*precision 'fp12', known are"),
    (100_000 * '[', 'broken "dgtl" metadata .Recursion'),
])
def test_a_model_without_our_metadata_is_refused(tmp_path, metadata, message):
    path = write_tiny_onnx(tmp_path / 'x.onnx', metadata=metadata)
    with pytest.raises(ModelError, match=message):
        Predictor.load(path, device='cpu')


def test_wrong_files_are_refused_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match='no model file at'):
        Predictor.load(tmp_path / 'none.onnx')
    with pytest.raises(ModelError, match='no model file at'):
        Predictor.load(tmp_path / (300 * 'a' + '.onnx'))
    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr('os.access', lambda *_: False)
        with pytest.raises(ModelError, match='may not be read by this user'):
            Predictor.load(write_tiny_onnx(tmp_path / 'closed.onnx'))
    (tmp_path / 'text.onnx').write_text('hello')
    with pytest.raises(ModelError, match=r'not an ONNX file, or is cut short .*training\.export'):
        Predictor.load(tmp_path / 'text.onnx', device='cpu')
    broken = write_tiny_onnx(tmp_path / 'broken.onnx')
    broken.write_bytes(broken.read_bytes().replace(b'Gather', b'Gabber'))
    with pytest.raises(ModelError, match='not a model that ONNX Runtime .* can load .*Gabber'):
        Predictor.load(broken, device='cpu')
    cut = write_tiny_onnx(tmp_path / 'cut.onnx')
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r'cut\.onnx .*is cut short .*copy it again'):
        Predictor.load(cut, device='cpu')
    (tmp_path / 'model.pth').write_text('hello')
    with pytest.raises(ModelError, match=r"expected a file that ends in one of \['.engine'"):
        Predictor.load(tmp_path / 'model.pth')


@pytest.mark.parametrize('options, message', [
    ({'backend': 'tflite'}, 'backend must be one of'),
    ({'backend': 'torch'}, 'cannot run tiny.onnx: use one of'),
    ({'device': 'gpu'}, 'device must be auto, cpu, cuda or cuda:N'),
    ({'device': 'cuda:x'}, 'device must be'), ({'device': 'cuda:²'}, 'device must be'),
    ({'device': 'cuda:01'}, 'device must be'), ({'device': 'cuda:9999'}, 'device must be'),
    ({'device': None}, 'device must be'),
    ({'threads': True}, 'threads must be .* got True'),
    ({'calls': 0}, 'calls must be 1 to 256, got 0'),
    ({'threads': -1}, 'threads must be 0'), ({'threads': 100_000}, 'to 256, got 100000'),
    ({'precision': 'int4'}, "precision must be one of .*'bf16'.*, got 'int4'"),
    ({'precision': 'fp16'}, "computes in fp32 and precision 'fp16' .* \"--precision fp16\""),
    ({'precision': 'int8'}, "precision 'int8' was asked .* make an int8 file of it"),
    ({'compiled': True, 'device': 'cpu'}, 'torch.compile is for checkpoints'),
])
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(ModelError, match=message):
        Predictor.load(model, **options)


def test_a_missing_gpu_is_said(model):
    import onnxruntime
    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has the GPU build of ONNX Runtime')
    with pytest.raises(ModelError, match='needs the GPU build of ONNX Runtime'):
        Predictor.load(model, backend='onnxruntime', device='cuda:0')


@pytest.mark.parametrize('index, folder, first', [
    (0, None, ('CUDAExecutionProvider', {'device_id': '0'})),
    (1, None, ('CUDAExecutionProvider', {'device_id': '1'})),
    (1, 'engines', ('TensorrtExecutionProvider', {
        'device_id': '1', 'trt_engine_cache_enable': 'True',
        'trt_engine_cache_path': 'engines'}))])
def test_providers_of_onnx_runtime_on_a_gpu(monkeypatch, index, folder, first):
    from dgtl_core.runtime import onnx
    there = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr(onnx.ort, 'get_available_providers', lambda: there)
    found = onnx._providers(f'cuda:{index}', folder and Path(folder))
    assert found[0] == first and found[-1] == 'CPUExecutionProvider'
    assert onnx._providers('cpu', None) == ['CPUExecutionProvider']
    monkeypatch.setattr(onnx.ort, 'get_available_providers', lambda: there[1:])
    with pytest.raises(ModelError, match='has no TensorRT provider'):
        onnx._providers('cuda', Path('engines'))


@pytest.mark.parametrize('suffix, module, message', [
    ('.safetensors', 'torch', 'cannot run on torch: .*pip install torch .*training.export'),
    ('.onnx', 'onnx', 'cannot run on onnxruntime: .*pip install onnxruntime')])
def test_a_package_that_is_not_there_is_said(tmp_path, monkeypatch, suffix, module, message):
    monkeypatch.setitem(sys.modules, f'dgtl_core.runtime.{module}', None)  # its import fails
    (tmp_path / f'm{suffix}').touch()
    with pytest.raises(ModelError, match=message):
        Predictor.load(tmp_path / f'm{suffix}', device='cpu')


def test_the_choice_of_backend_is_logged(model, caplog):
    with caplog.at_level(logging.INFO):
        backend = open_backend(model, RunOptions(device='cpu'))
    assert backend.name == 'onnxruntime (CPU)'
    assert 'tiny.onnx runs on onnxruntime (device is cpu)' in caplog.text


def of_precision(path, precision):
    return write_tiny_onnx(path, metadata=replace(METADATA, precision=precision).to_json())


def test_the_precision_of_a_file_is_known_and_demanded(tmp_path, model, caplog):
    half = of_precision(tmp_path / 'half.onnx', 'fp16')
    for precision in ('auto', 'fp16'):
        predict = Predictor.load(half, device='cpu', precision=precision)
        assert predict.metadata.precision == 'fp16'
        assert predict.backend_name == 'onnxruntime (CPU, fp16)'
    with pytest.raises(ModelError, match="half.onnx computes in fp16 and precision 'fp32'"):
        Predictor.load(half, device='cpu', precision='fp32')
    with caplog.at_level(logging.INFO):
        Predictor.load(model, device='cpu', precision='fp32')
    assert 'precision fp32 (asked for)' in caplog.text


def test_bfloat16_on_a_cpu(tmp_path, model, monkeypatch):
    with pytest.raises(ModelError, match=r'bf16, which ONNX Runtime does not on a CPU.*checkpo'):
        Predictor.load(of_precision(tmp_path / 'b.onnx', 'bf16'), device='cpu')
    monkeypatch.setattr('platform.machine', lambda: 'x86_64')
    with pytest.raises(ModelError, match='bfloat16 only on ARM CPUs.*torch backend'):
        Predictor.load(model, device='cpu', precision='bf16')
    monkeypatch.setattr('platform.machine', lambda: 'aarch64')
    predict = Predictor.load(model, device='cpu', precision='bf16')
    assert predict.backend_name == 'onnxruntime (CPU, bf16)'


def test_the_embedded_model_labels_a_picture():
    predict = Predictor.load(device='cpu')
    labels, confidence = predict(picture(72, 128))
    assert labels.shape == confidence.shape == (72, 128)
    assert labels.max() < len(predict.classes) == 19
    assert predict.metadata.method == 'dgtl'


def test_a_missing_embedded_model_is_said(monkeypatch):
    monkeypatch.setattr('dgtl_core.predictor._DEFAULT', 'none.onnx')
    with pytest.raises(ModelError, match='embedded model none.onnx is neither at .* install'):
        Predictor.load()


def test_the_resize_mode_is_checked(model):
    with pytest.raises(ValueError, match='resize_mode'):
        Predictor.load(model, device='cpu', resize_mode='zoom')
