# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime answers while a real process builds; GPU and TensorRT are stand-ins."""

import time

from dgtl_core.engine import background
from dgtl_core.engine.background import SeenPictures
from dgtl_core.engine.job import EngineJob
from dgtl_core.predictor import EngineStatus, ModelError
import numpy as np
import pytest

pytest.importorskip('onnx')
from fake_robot import fake_robot, street, until


@pytest.fixture
def world(tmp_path, monkeypatch):
    with fake_robot(tmp_path, monkeypatch) as robot:
        yield robot


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


def test_whatever_ends_a_build_is_said(world, monkeypatch):
    def fail(*_):
        raise TypeError('nobody has thought of this')

    monkeypatch.setattr(EngineJob, '_build', fail)
    predict = world.load()
    until(predict, lambda: predict.engine.state == 'fallback')
    assert predict.engine.reason == 'nobody has thought of this'
    predict.close()


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


def test_a_camera_that_shows_nothing_is_not_waited_for(world, monkeypatch):
    monkeypatch.setattr(background, '_PATIENCE_S', 0.2)
    predict = world.load()
    dark = np.zeros((32, 64, 3), np.uint8)
    limit = time.monotonic() + 60
    while 'tensorrt' not in predict.backend_name:
        assert predict(dark).labels.max() == 0 and time.monotonic() < limit
        time.sleep(0.02)
    predict.close()


def test_frames_are_apart_and_show_something(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    frames = SeenPictures(wanted=2, apart_s=5.0)
    labels = np.zeros((1, 32, 64), np.uint8)
    frames.add(np.full((1, 32, 64, 3), (1, 90, 200), np.uint8), labels)
    image = street(0)[None]
    frames.add(image, labels)
    frames.add(street(1)[None], labels)  # too soon
    now += 5.0
    assert [(k.image == street(0)).all() for k in frames.wait(0.01)] == [True], 'better than none'
    frames.add(street(2)[None], labels)
    image[:] = 0
    kept = frames.wait(60)
    assert [(k.image == street(s)).all() for k, s in zip(kept, (0, 2))] == [True, True]
    frames.close()
    with pytest.raises(ModelError, match='stopped'):
        frames.wait(60)
