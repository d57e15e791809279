# SPDX-License-Identifier: Apache-2.0
"""One engine: found, or built by a real process and kept; GPU and TensorRT are stand-ins."""

import errno
import signal
import subprocess

from dgtl_core import model_file
from dgtl_core.engine import job as jobs
from dgtl_core.engine.cache import EngineCache, EngineCacheError
from dgtl_core.engine.job import EngineJob
from dgtl_core.files import file_sha256
from dgtl_core.predictor import ModelError
from dgtl_core.runtime import cuda
from fake_gpu import engine_bytes, FakeDriver
import pytest

pytest.importorskip('onnx')
from fake_robot import fake_robot, run_options, until
from tiny_onnx import write_tiny_onnx


@pytest.fixture
def world(tmp_path, monkeypatch):
    with fake_robot(tmp_path, monkeypatch) as robot:
        yield robot


@pytest.mark.parametrize('batch, asked, built', [(1, 4, 1), (4, 1, 4), ('pictures', 4, 4)])
def test_only_an_open_batch_takes_another_size(world, batch, asked, built):
    write_tiny_onnx(world.model, batch=batch)
    world.load(build='blocking', max_batch=asked).close()
    assert f'--max-batch {built} ' in world.builds[0]
    world.load(build='never', max_batch=asked).close()


@pytest.mark.parametrize('build', ['blocking', 'background'])
def test_the_model_is_hashed_once(world, monkeypatch, build):
    hashed = []

    def sha256(path):
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(model_file, 'file_sha256', sha256)
    predict = world.load(build=build)
    assert predict.sha256 == file_sha256(world.model) and hashed == [world.model]
    predict.close()
    again = world.load()
    assert again.sha256 == file_sha256(world.model) and hashed == [world.model] * 2
    again.close()


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


def test_a_job_that_is_stopped_before_it_starts_ends_at_once(world):
    world.hold_builds()
    job = EngineJob(world.model, run_options(world))
    job.stop()
    with pytest.raises(ModelError, match='was stopped'):
        job.run(list)
    assert world.left() == []


def test_a_full_disk_costs_the_cache_and_not_the_engine(world, monkeypatch, caplog):
    def store(*arguments):
        raise EngineCacheError('no space')

    monkeypatch.setattr(EngineCache, '_store', store)
    predict = world.load(build='blocking')
    assert predict.backend_name.startswith('tensorrt')
    assert 'used but not kept: no space' in caplog.text
    assert predict.engine.state == 'built' and not predict.engine.path
    until(predict, lambda: True)


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


def test_options_reach_the_builder_and_the_cache(world):
    predict = world.load(build='blocking', workspace_mib=300, cache_gib=1.5, blocking_sync=True)
    assert '--workspace-mib 300' in world.builds[0] and '--max-batch 1' in world.builds[0]
    assert '.part/timing.cache' in world.builds[0]
    assert world.driver.calls.count('cuDevicePrimaryCtxSetFlags 4') == 2
    predict.close()
    job = EngineJob(world.model, run_options(world, cache_gib=1.5))
    assert job.cache.max_bytes == 1.5 * 2**30


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
