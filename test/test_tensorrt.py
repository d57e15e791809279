# SPDX-License-Identifier: Apache-2.0
import dataclasses
import inspect
import sys

from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.files import file_sha256
from dgtl_core.predictor import ModelError, Predictor
from dgtl_core.runtime import cuda
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.cuda import CudaError
from dgtl_core.runtime.tensorrt import TensorRTBackend
from dgtl_core.runtime.tensorrt_module import GpuError
from fake_gpu import engine_bytes, FakeDriver, FakeLibrary, FakeTensorRT
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA, write_tiny_onnx


@pytest.fixture
def driver(monkeypatch):
    driver = FakeDriver()
    monkeypatch.setattr(cuda, '_bindings', lambda: driver)
    monkeypatch.setattr(cuda, '_installed', lambda module: True)
    monkeypatch.setattr(cuda.ctypes, 'CDLL', lambda name: FakeLibrary())
    return driver


@pytest.fixture
def trt(monkeypatch, driver):
    trt = FakeTensorRT(driver)
    monkeypatch.setitem(sys.modules, 'tensorrt', trt)
    return trt


def write_engine(path, content=None, **changes):
    path.write_bytes(engine_bytes() if content is None else content)
    info = EngineInfo(**{**{
        'metadata': METADATA, 'module': 'tensorrt', 'version': '10.3.0', 'gpu': 'Orin',
        'compute_capability': '8.7', 'precision': 'fp16', 'model_sha256': 'a' * 64,
        'engine_sha256': file_sha256(path), 'labels_equal': 0.999}, **changes})
    side_file(path).write_text(info.to_json())
    return path


@pytest.fixture
def engine(tmp_path):
    return write_engine(tmp_path / 'model.engine')


def opened(path):
    return TensorRTBackend(path, EngineInfo.beside(path), RunOptions())


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 150, (count, 32, 64, 3), np.uint8)


def check(backend, images):
    labels, confidence, _ = backend(images)
    np.testing.assert_array_equal(labels, images[..., 0] // 8)
    np.testing.assert_array_equal(confidence, images[..., 1])
    assert labels.dtype == confidence.dtype == np.uint8
    return labels


def test_an_engine_runs_and_is_recorded_once(trt, driver, engine):
    backend = opened(engine)
    assert backend.name == 'tensorrt 10.3.0 (Orin, fp16)' and backend.max_batch == 1
    for seed in range(4):
        check(backend, pictures(1, seed))
    assert driver.calls.count('cuStreamBeginCapture') == 1
    assert driver.calls.count('cuGraphLaunch') == 3
    assert driver.calls.count('execute_async_v3') == 2  # the first run, and the recording
    alive = []
    driver.on_call['cuGraphExecDestroy'] = lambda: alive.append(trt.alive)
    backend.close()
    assert alive == [2], 'the recording ends before what it runs'
    assert not driver.memory and trt.alive == 0 and driver.current is None


def test_another_precision_than_the_engine_has_is_refused(trt, tmp_path):
    half = dataclasses.replace(METADATA, precision='fp16')
    engine = write_engine(tmp_path / 'half.engine', metadata=half)
    Predictor.load(engine, precision='fp16').close()
    with pytest.raises(ModelError, match="half.engine computes in fp16 and precision 'fp32'"):
        Predictor.load(engine, precision='fp32')
    model = write_tiny_onnx(tmp_path / 'm.onnx', metadata=half.to_json())
    with pytest.raises(ModelError, match="m.onnx computes in fp16 and precision 'bf16'"):
        Predictor.load(model, backend='tensorrt', precision='bf16')


@pytest.mark.parametrize('batch', [1, 3, -1])
def test_a_signature_is_the_third_output(trt, tmp_path, batch):
    content = engine_bytes(batch=batch, most=3, signature='FLOAT')
    backend = opened(write_engine(tmp_path / 'm.engine', content))
    for seed in range(3):  # the first call, the recording, the recorded call
        images = pictures(abs(batch), seed)
        outputs = backend(images)
        np.testing.assert_array_equal(outputs.labels, images[..., 0] // 8)
        np.testing.assert_allclose(
            outputs.signature, images[..., :2].mean(axis=(1, 2)), rtol=1e-6)
        assert outputs.signature.dtype == np.float32
    backend.close()


def test_outputs_that_we_do_not_know_get_a_place_and_are_left_there(trt, tmp_path):
    content = engine_bytes(outputs=['labels', 'confidence', 'depth'])
    outputs = opened(write_engine(tmp_path / 'm.engine', content))(pictures(1))
    assert outputs.signature is None and outputs.labels.shape == (1, 32, 64)


def test_a_result_stays_when_the_next_picture_comes(trt, engine):
    backend = opened(engine)
    first, second = pictures(1, 1), pictures(1, 2)
    labels = check(backend, first)
    check(backend, second)
    np.testing.assert_array_equal(labels, first[..., 0] // 8)


def test_a_fixed_batch_takes_fewer_pictures(trt, tmp_path):
    backend = opened(write_engine(tmp_path / 'm.engine', engine_bytes(batch=3)))
    assert backend.max_batch == 3
    for count in (3, 1, 2, 3):
        check(backend, pictures(count, count))


def test_a_dynamic_batch(trt, driver, tmp_path):
    backend = opened(write_engine(tmp_path / 'm.engine', engine_bytes(batch=-1, most=4)))
    assert backend.max_batch == 4
    for count in (1, 4, 4, 2):
        check(backend, pictures(count, count))
    assert 'cuStreamBeginCapture' not in driver.calls  # a recording holds for one shape
    trt.accept_shapes = False
    with pytest.raises(CudaError, match='refuses a batch of 3'):
        backend(pictures(3))


@pytest.mark.parametrize('images', [
    np.zeros((2, 32, 64, 3), np.uint8), np.zeros((0, 32, 64, 3), np.uint8),
    np.zeros((1, 16, 64, 3), np.uint8), np.zeros((1, 32, 64, 3), np.float32)])
def test_other_shapes_are_refused(trt, engine, images):
    with pytest.raises(ValueError, match=r'takes uint8 \(1, 32, 64, 3\) or fewer pictures, got'):
        opened(engine)(images)


def test_it_goes_on_where_nothing_can_be_recorded(trt, driver, engine, caplog):
    driver.fail['cuGraphInstantiate'] = 801
    backend = opened(engine)
    for seed in range(3):
        check(backend, pictures(1, seed))
    assert 'cuGraphLaunch' not in driver.calls
    assert caplog.text.count('no CUDA graph') == 1


def test_a_run_that_fails_is_an_error(trt, driver, engine):
    backend = opened(engine)
    trt.runs = False
    with pytest.raises(CudaError, match='the engine did not run'):
        backend(pictures(1))
    trt.runs = True
    driver.fail['cuStreamSynchronize'] = 700
    with pytest.raises(CudaError, match=r'CUDA error 700 \(illegal address\)'):
        backend(pictures(1))
    driver.fail.clear()
    check(backend, pictures(1))


@pytest.mark.parametrize('changes, message', [
    ({'version': '10.13.3'}, 'built with tensorrt 10.13.3, here is 10.3.0'),
    ({'version': '10.2.0'}, 'built with tensorrt 10.2.0, here is 10.3.0'),
    ({'version': '10.4.0', 'options': {'version_compatible': True}}, 'built with tensorrt 10.4'),
    ({'version': '8.6.1', 'options': {'version_compatible': True}}, 'built with tensorrt 8.6.1'),
    ({'gpu': 'Thor', 'compute_capability': '11.0'}, r'built for Thor \(compute capability 11.0\)'),
    ({'gpu': 'T4', 'compute_capability': '7.5', 'options': {'hardware': 'same_capability'}},
     'built for T4'),
    ({'content': b'not an engine'}, r'cannot load .*\(magic tag does not match\)'),
    ({'content': engine_bytes(kind='FLOAT')}, 'must take "image" uint8'),
    ({'content': engine_bytes(size=(16, 16))}, 'must take "image" uint8'),
    ({'content': engine_bytes(outputs=['labels'])}, 'must take "image" uint8'),
    ({'content': engine_bytes(signature='UINT8')}, r'a "signature" float32 \(B, D\) if any')])
def test_an_engine_that_does_not_fit_is_refused(trt, driver, tmp_path, changes, message):
    path = write_engine(tmp_path / 'm.engine', **changes)
    alive = []
    driver.on_call['cuDevicePrimaryCtxRelease'] = lambda: alive.append(trt.alive)
    with pytest.raises(ModelError, match=message):
        opened(path)
    assert not any(alive), 'engines end before the GPU is released'
    assert not driver.memory and trt.alive == 0 and driver.current is None


@pytest.mark.parametrize('changes', [
    {'version': '10.2.0', 'options': {'version_compatible': True}},
    {'gpu': 'A100', 'compute_capability': '8.0', 'options': {'hardware': 'ampere_plus'}},
    {'gpu': '', 'compute_capability': ''},
    {'gpu': 'Orin (another power mode)'}])
def test_an_engine_that_was_built_for_more_is_taken(trt, tmp_path, changes):
    check(opened(write_engine(tmp_path / 'm.engine', **changes)), pictures(1))


@pytest.mark.parametrize('setting, message', [
    ('memory', 'does not fit into the memory of Orin: it needs 3 MiB'),
    ('accept_addresses', "refuses the memory of 'image'")])
def test_what_the_engine_refuses_is_said(trt, driver, engine, setting, message):
    setattr(trt, setting, False)
    with pytest.raises(ModelError, match=message):
        opened(engine)
    assert not driver.memory and trt.alive == 0


def test_a_full_gpu_is_a_model_error(trt, driver, engine):
    driver.fail['cuMemAlloc'] = 2
    with pytest.raises(ModelError, match='cannot be loaded: cuMemAlloc failed.*out of memory'):
        opened(engine)
    assert not driver.memory and trt.alive == 0


def test_a_driver_that_is_too_old_for_tensorrt_is_a_model_error(trt, driver, engine):
    trt.start_error = 'CUDA initialization failure with error: 35'
    with pytest.raises(GpuError, match='10.3.0 does not start on this GPU .*error: 35.*too old'):
        opened(engine)
    assert not driver.memory and driver.current is None


def test_without_a_driver_tensorrt_is_not_touched(monkeypatch, trt, engine):
    def missing(name):
        raise OSError

    monkeypatch.setattr(cuda.ctypes, 'CDLL', missing)
    monkeypatch.setattr(trt, 'Runtime', None)
    with pytest.raises(ModelError, match='model.engine needs a GPU: there is no NVIDIA driver'):
        opened(engine)


def test_the_predictor_runs_an_engine_file(trt, tmp_path):
    path = write_engine(tmp_path / 'model.plan')
    predict = Predictor.load(path)
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 64:] = (40, 200, 0)
    labels, confidence = predict(image)
    assert predict.backend_name.startswith('tensorrt 10.3.0')
    assert labels[0, 0] == 0 and labels[-1, -1] == 5 and confidence[-1, -1] == 200
    predict.close()


def test_a_cut_engine_is_refused_before_anything_runs(trt, driver, engine):
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(ModelError, match='is not the engine that model.engine.json describes'):
        open_backend(engine, RunOptions())
    assert not driver.calls


def test_the_fake_has_the_names_of_the_real_one():
    real = pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    trt = FakeTensorRT(FakeDriver())
    for name in ('ICudaEngine', 'IExecutionContext', 'Runtime'):
        used = {n for n in dir(getattr(trt, name)) if not n.startswith('_')}
        assert used and not used - set(dir(getattr(real, name)))
        for method in used:
            call = getattr(getattr(trt, name), method)
            if callable(call):
                signatures = getattr(getattr(real, name), method).__doc__
                for argument in list(inspect.signature(call).parameters)[1:]:
                    assert f'{argument}:' in signatures
    assert hasattr(real.DataType, 'UINT8')


def test_info_survives_its_file(engine):
    info = EngineInfo.beside(engine)
    assert info.metadata.to_json() == METADATA.to_json() and info.labels_equal == 0.999
    again = dataclasses.replace(info, gpu='other')
    side_file(engine).write_text(again.to_json())
    assert EngineInfo.beside(engine) == again
