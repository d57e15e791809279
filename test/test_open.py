# SPDX-License-Identifier: Apache-2.0
"""The engine of an .onnx file, opened: a real process builds, GPU and TensorRT are stand-ins."""

from dataclasses import replace
import errno
from pathlib import Path

from dgtl_core.predictor import ModelError
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import RunOptions
from fake_gpu import engine_bytes
import onnxruntime
import pytest

pytest.importorskip('onnx')
from fake_robot import fake_robot, run_options, until
from tiny_onnx import METADATA, write_tiny_onnx


@pytest.fixture
def world(tmp_path, monkeypatch):
    with fake_robot(tmp_path, monkeypatch) as robot:
        yield robot


def test_the_second_start_finds_the_engine(world):
    first = world.load(build='blocking')
    assert first.backend_name.startswith('tensorrt')
    first.close()
    for build in ('background', 'blocking', 'never'):
        again = world.load(build=build)
        assert again.backend_name.startswith('tensorrt 10.3.0 (Orin')
        assert again.engine.state == 'cached' and again.engine.path.startswith(str(world.cache))
        until(again, lambda: True)
        again.close()
    assert len(world.builds) == 1
    world.load(build='blocking', rebuild=True).close()
    assert len(world.builds) == 2


@pytest.mark.parametrize('build', ['background', 'blocking'])
def test_a_wrong_engine_is_refused_and_not_built_again(world, build, caplog):
    world.builds_give(engine_bytes(divisor=9))
    if build == 'blocking':
        with pytest.raises(ModelError, match='labels only .* "--sampling gather"'):
            world.load(build=build)
    else:
        predict = world.load(build=build)
        until(predict, lambda: 'no engine (the engine' in predict.backend_name)
        assert 'no engine; ONNX Runtime goes on' in caplog.text
        until(predict, lambda: True)
        predict.close()
    assert world.left() == ['.refused'] and world.trt.alive == 0
    with pytest.raises(ModelError, match='built here and refused: .*gather.*rebuild tries again'):
        world.load(build=build)
    assert len(world.builds) == 1
    world.builds_give(engine_bytes())
    world.load(build='blocking', rebuild=True).close()
    assert world.left() == ['.engine', '.json']


def test_a_cache_that_cannot_be_made_is_an_error(world):
    world.cache.write_text('a file')
    with pytest.raises(ModelError, match='cannot make the engine cache'):
        world.load(build='blocking')


@pytest.mark.parametrize('fault', ['memory', 'cuMemAlloc'])
def test_a_gpu_without_memory_is_no_reason_to_build_again(world, monkeypatch, fault):
    world.load(build='blocking').close()
    if fault == 'memory':
        monkeypatch.setattr(world.trt, 'memory', False)
    else:
        world.driver.fail[fault] = 2
    with pytest.raises(ModelError, match='does not fit into the memory|out of memory'):
        world.load()
    assert len(world.builds) == 1 and world.left() == ['.engine', '.json']


@pytest.mark.parametrize('fault', ['cuStreamCreate', 'cuDevicePrimaryCtxRetain'])
def test_a_gpu_that_fails_is_a_message_and_auto_goes_on(world, fault):
    world.driver.fail[fault] = 2
    with pytest.raises(ModelError, match=f'tiny.onnx: {fault} failed: CUDA error 2'):
        world.load(build='blocking')
    backend = open_backend(world.model, run_options(world))
    assert backend.name == 'onnxruntime (CPU)' and fault in backend.engine.reason


def test_a_cache_that_may_not_be_read_is_a_message(world, monkeypatch):
    def exists(path):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(Path, 'exists', exists)
    with pytest.raises(ModelError, match='cannot run tiny.onnx: .*Permission denied'):
        world.load()


def test_auto_falls_back_to_onnx_runtime(world, caplog):
    backend = open_backend(world.model, run_options(world, build='never'))
    assert backend.name == 'onnxruntime (CPU)'
    assert 'runs on onnxruntime instead: there is no engine' in caplog.text
    assert backend.engine.state == 'fallback' and 'there is no engine' in backend.engine.reason
    assert open_backend(
        world.model, RunOptions(backend='onnxruntime', device='cpu')).engine is None


@pytest.mark.parametrize('sleeps', [True, False])
def test_sleeping_while_the_gpu_works_can_be_chosen(world, sleeps):
    world.load(build='blocking').close()
    world.driver.calls.clear()
    world.load(blocking_sync=sleeps).close()
    assert world.driver.calls.count('cuDevicePrimaryCtxSetFlags 4') == 2 * sleeps


def test_an_engine_of_bfloat16_is_built_by_hand(world):
    half = replace(METADATA, precision='bf16').to_json()
    write_tiny_onnx(world.model, metadata=half)
    advice = 'computes in bf16.*tiny.engine --pictures.*--reference'
    for build in ('background', 'never'):
        with pytest.raises(ModelError, match=advice):
            world.load(build=build)
    with pytest.raises(ModelError, match=f'{advice}.*; and .*ONNX Runtime does not on a CPU'):
        open_backend(world.model, run_options(world))
    assert not world.builds


@pytest.mark.parametrize('there', [['CPUExecutionProvider'], [
    'CUDAExecutionProvider', 'CPUExecutionProvider']])
def test_without_an_engine_the_cpu_answers_also_where_cuda_was_asked_for(
        world, monkeypatch, there):
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: there)
    world.builds_give(engine_bytes(divisor=9))
    with pytest.raises(ModelError, match='labels only'):
        world.load(build='blocking')
    backend = open_backend(world.model, replace(run_options(world), device='cuda:0'))
    assert backend.name == 'onnxruntime (CPU)' and backend.engine.state == 'fallback'
    assert 'was built here and refused' in backend.engine.reason
    backend.close()
