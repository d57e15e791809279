# SPDX-License-Identifier: Apache-2.0
"""Building in the background: a real process builds, the GPU and TensorRT are stand-ins."""

from dataclasses import replace
import errno
from pathlib import Path
import signal
import subprocess
import time

from dgtl_core.engine import background
from dgtl_core.engine import job as jobs
from dgtl_core.engine.background import SeenPictures
from dgtl_core.engine.cache import EngineCache, EngineCacheError
from dgtl_core.engine.job import EngineJob
from dgtl_core.predictor import EngineOptions, EngineStatus, ModelError
from dgtl_core.runtime import cuda
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import RunOptions
from fake_gpu import engine_bytes, FakeDriver
import numpy as np
import onnxruntime
import pytest

pytest.importorskip('onnx')
from fake_robot import fake_robot, street
from tiny_onnx import METADATA, write_tiny_onnx


@pytest.fixture
def world(tmp_path, monkeypatch):
    with fake_robot(tmp_path, monkeypatch) as robot:
        yield robot


def run_options(world, **engine):
    return RunOptions(engine=EngineOptions(cache_dir=str(world.cache), **engine))


def until(predict, condition, seconds=60):
    """Feed pictures until the condition holds; every answer has to be right."""
    for seed in range(1000 * seconds):
        image = street(seed)
        labels, confidence = predict(image)
        np.testing.assert_array_equal(labels, image[..., 0] // 8)
        np.testing.assert_array_equal(confidence, image[..., 1])
        if condition():
            return
        time.sleep(0.001 * min(seed, 50))
        if seed * 0.05 > seconds:
            break
    raise AssertionError('it did not happen in time')


def test_onnx_runtime_answers_until_the_engine_does(world):
    predict = world.load()
    interim = predict._backend._interim
    assert predict.backend_name == 'onnxruntime (CPU) while the engine is built'
    assert predict.engine.state == 'building' and predict.max_batch == 1
    until(predict, lambda: predict.backend_name.startswith('tensorrt 10.3.0 (Orin, fp16)'))
    engine, = world.cache.glob('*.engine')
    assert predict.engine == EngineStatus('built', str(engine), 'tensorrt 10.3.0', '12.6')
    assert world.driver.calls.count('execute_async_v3') >= 2
    until(predict, lambda: True)
    assert not hasattr(interim, '_session')  # freed
    assert world.left() == ['.engine', '.json'] and len(world.builds) == 1
    assert world.builds[0].startswith(str(world.model)) and '--unverified' in world.builds[0]
    predict.close()
    assert world.trt.alive == 0 and not world.driver.memory


@pytest.mark.parametrize('batch, asked, built', [(1, 4, 1), (4, 1, 4), ('pictures', 4, 4)])
def test_only_an_open_batch_takes_another_size(world, batch, asked, built):
    write_tiny_onnx(world.model, batch=batch)
    world.load(build='blocking', max_batch=asked).close()
    assert f'--max-batch {built} ' in world.builds[0]
    world.load(build='never', max_batch=asked).close()


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


@pytest.mark.parametrize('change', ['gpu', 'version', 'model', 'batch'])
def test_an_engine_of_something_else_is_not_used(world, monkeypatch, change):
    write_tiny_onnx(world.model, batch='pictures')
    world.load(build='blocking').close()
    options = {}
    if change == 'gpu':
        driver = FakeDriver(name='Thor')
        monkeypatch.setattr(cuda, '_bindings', lambda: driver)
        world.trt.driver = driver
    elif change == 'version':
        world.trt.__version__ = '10.4.0'
    elif change == 'model':
        write_tiny_onnx(world.model, batch='pictures', slow=1)
    else:
        options = {'max_batch': 2}
    with pytest.raises(ModelError, match='no engine of tiny.onnx for this GPU and TensorRT'):
        world.load(build='never', **options)


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


def test_whatever_ends_a_build_is_said(world, monkeypatch):
    def fail(*_):
        raise TypeError('nobody has thought of this')

    monkeypatch.setattr(EngineJob, '_build', fail)
    predict = world.load()
    until(predict, lambda: predict.engine.state == 'fallback')
    assert predict.engine.reason == 'nobody has thought of this'
    predict.close()


def test_a_build_that_fails_says_why(world):
    world.builds_give(b'')
    with pytest.raises(ModelError, match='exit status 1.*error: no kernel for node 7'):
        world.load(build='blocking')
    predict = world.load()
    until(predict, lambda: 'no engine (' in predict.backend_name)
    assert 'no kernel for node 7' in predict.backend_name
    assert predict.engine.state == 'fallback' and 'no kernel' in predict.engine.reason
    predict.close()
    assert world.left() == []


def test_closing_stops_the_builder_at_once(world):
    world.hold_builds()
    predict = world.load()
    until(predict, lambda: world.builds)
    process = predict._backend._job._process
    predict.close()
    assert process.wait(60) != 0
    limit = time.monotonic() + 60
    while world.left():  # the thread of the build tidies up
        assert time.monotonic() < limit, world.left()
        time.sleep(0.02)


def test_a_job_that_is_stopped_before_it_starts_ends_at_once(world):
    world.hold_builds()
    job = EngineJob(world.model, run_options(world))
    job.stop()
    with pytest.raises(ModelError, match='was stopped'):
        job.run(list)
    assert world.left() == []


def test_closing_while_the_engine_waits_for_pictures(world, monkeypatch):
    predict = world.load()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        predict(np.full((32, 64, 3), (20, 90, 140), np.uint8))  # nothing to see here
        if world.trt.alive:
            break
        time.sleep(0.05)
    assert world.trt.alive and 'while the engine is built' in predict.backend_name
    stop, thread = EngineJob.stop, predict._backend._thread
    monkeypatch.setattr(EngineJob, 'stop', lambda job: (thread.join(60), stop(job)))
    predict.close()
    assert world.trt.alive == 0 and not world.driver.memory and world.left() == []


def test_a_full_disk_costs_the_cache_and_not_the_engine(world, monkeypatch, caplog):
    def store(*arguments):
        raise EngineCacheError('no space')

    monkeypatch.setattr(EngineCache, '_store', store)
    predict = world.load(build='blocking')
    assert predict.backend_name.startswith('tensorrt')
    assert 'used but not kept: no space' in caplog.text
    assert predict.engine.state == 'built' and not predict.engine.path
    until(predict, lambda: True)


def test_a_cache_that_cannot_be_made_is_an_error(world):
    world.cache.write_text('a file')
    with pytest.raises(ModelError, match='cannot make the engine cache'):
        world.load(build='blocking')


def test_a_disk_that_is_full_before_the_build_is_an_error(world, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(EngineJob, '_run_builder', fail)
    with pytest.raises(ModelError, match='no engine of .*No space left on device'):
        world.load(build='blocking')
    assert world.left() == []


def test_a_cached_engine_that_does_not_load_is_built_again(world, monkeypatch):
    world.load(build='blocking').close()
    monkeypatch.setattr(world.trt, 'accept_addresses', False)
    with pytest.raises(ModelError, match='refuses the memory'):
        world.load(build='blocking')
    assert len(world.builds) == 2
    monkeypatch.setattr(world.trt, 'accept_addresses', True)
    world.load(build='blocking').close()


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


def test_ctrl_c_while_the_engine_is_built_ends_the_builder(world, monkeypatch):
    world.builds_give(engine_bytes())
    world.hold_builds()
    started = []
    popen = subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, 'Popen', start)
    monkeypatch.setattr(jobs._LOG, 'info', interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.load(build='blocking')
    assert started[0].wait(30) == -signal.SIGKILL and world.left() == []


def test_auto_falls_back_to_onnx_runtime(world, caplog):
    backend = open_backend(world.model, run_options(world, build='never'))
    assert backend.name == 'onnxruntime (CPU)'
    assert 'runs on onnxruntime instead: there is no engine' in caplog.text
    assert backend.engine.state == 'fallback' and 'there is no engine' in backend.engine.reason
    assert open_backend(
        world.model, RunOptions(backend='onnxruntime', device='cpu')).engine is None


def test_options_reach_the_builder_and_the_cache(world):
    predict = world.load(build='blocking', workspace_mib=300, cache_gib=1.5, blocking_sync=True)
    assert '--workspace-mib 300' in world.builds[0] and '--max-batch 1' in world.builds[0]
    assert '-build/timing.cache' in world.builds[0]
    assert world.driver.calls.count('cuDevicePrimaryCtxSetFlags 4') == 2
    predict.close()
    job = EngineJob(world.model, run_options(world, cache_gib=1.5))
    assert job.cache.max_bytes == 1.5 * 2**30


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


def test_a_camera_that_shows_nothing_is_not_waited_for(world, monkeypatch):
    monkeypatch.setattr(background, '_PATIENCE_S', 0.2)
    predict = world.load()
    dark = np.zeros((32, 64, 3), np.uint8)
    limit = time.monotonic() + 60
    while 'tensorrt' not in predict.backend_name:
        assert predict(dark).labels.max() == 0 and time.monotonic() < limit
        time.sleep(0.02)
    predict.close()


def test_measured_times_are_kept_from_build_to_build(world):
    times = world.cache / 'timing.cache'
    world.load(build='blocking').close()
    assert not times.exists(), 'this builder has measured none'
    world.builds_measure(b'first')
    world.load(build='blocking', rebuild=True).close()
    assert times.read_bytes() == b'first'
    world.builds_measure(b'second')
    world.load(build='blocking', rebuild=True).close()
    assert times.read_bytes() == b'firstsecond'


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


def test_frames_are_apart_and_show_something():
    frames = SeenPictures(wanted=2, apart_s=0.05)
    labels = np.zeros((1, 32, 64), np.uint8)
    frames.add(np.full((1, 32, 64, 3), (1, 90, 200), np.uint8), labels)
    image = street(0)[None]
    frames.add(image, labels)
    frames.add(street(1)[None], labels)  # too soon
    time.sleep(0.06)
    assert [(k.image == street(0)).all() for k in frames.wait(0.01)] == [True], 'better than none'
    frames.add(street(2)[None], labels)
    image[:] = 0
    kept = frames.wait(60)
    assert [(k.image == street(s)).all() for k, s in zip(kept, (0, 2))] == [True, True]
    frames.close()
    with pytest.raises(ModelError, match='stopped'):
        frames.wait(60)
