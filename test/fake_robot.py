# SPDX-License-Identifier: Apache-2.0
"""
A robot with a GPU, a TensorRT and a model whose engine can be built.

The process that builds is real; GPU and TensorRT are those of fake_gpu. Import it after
``pytest.importorskip`` for onnx.
"""

import contextlib
from functools import partial
import sys
import threading
import time

from dgtl_core.engine import background, job
from dgtl_core.engine import open as opening
from dgtl_core.engine.background import SeenPictures
from dgtl_core.predictor import EngineOptions, Predictor, RunOptions
from dgtl_core.runtime import cuda
from fake_gpu import engine_bytes, FakeDriver, FakeLibrary, FakeTensorRT
import numpy as np
from tiny_onnx import write_tiny_onnx

BUILDER = """
import pathlib, sys, time
from dgtl_core.files import file_sha256
from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.model_file import onnx_metadata
folder = pathlib.Path(__file__).parent
with (folder / 'builds').open('a') as file:
    file.write(' '.join(sys.argv[1:]) + '\\n')
print('building the engine:  10% Tuning', file=sys.stderr, flush=True)
while (folder / 'held').exists():
    time.sleep(0.02)
engine = (folder / 'engine').read_bytes()
if not engine:
    sys.exit('error: no kernel for node 7')
out = pathlib.Path(sys.argv[2])
out.write_bytes(engine)
if (folder / 'times').exists():
    times = pathlib.Path(sys.argv[sys.argv.index('--timing-cache') + 1])
    times.write_bytes((times.read_bytes() if times.exists() else b'')
                      + (folder / 'times').read_bytes())
side_file(out).write_text(EngineInfo(
    metadata=onnx_metadata(pathlib.Path(sys.argv[1])), module='tensorrt', version='10.3.0',
    gpu='Orin', compute_capability='8.7', precision='fp16', model_sha256='',
    engine_sha256=file_sha256(out)).to_json())
"""


class FakeRobot:
    """A robot with a GPU, a model and a builder."""

    def __init__(self, folder, driver):
        self.driver, self.trt = driver, FakeTensorRT(driver)
        self.cache = folder / 'cache'
        self.model = write_tiny_onnx(folder / 'tiny.onnx')
        self.builder = folder / 'builder'
        self.builder.mkdir()
        (self.builder / 'build.py').write_text(BUILDER)
        self.builds_give(engine_bytes())

    def builds_give(self, content):
        (self.builder / 'engine').write_bytes(content)

    def builds_measure(self, times):
        (self.builder / 'times').write_bytes(times)

    def hold_builds(self):
        (self.builder / 'held').touch()

    def release_builds(self):
        (self.builder / 'held').unlink()

    @property
    def builds(self):
        log = self.builder / 'builds'
        return log.read_text().splitlines() if log.exists() else []

    def load(self, **options):
        return Predictor.load(self.model, backend='tensorrt', engine=EngineOptions(
            cache_dir=str(self.cache), **options))

    def left(self):
        """What lies in the cache, but for locks."""
        return sorted(p.suffix for p in self.cache.iterdir() if p.suffix != '.lock')


@contextlib.contextmanager
def fake_robot(folder, monkeypatch):
    """Put the robot's GPU and TensorRT in the place of the real ones; wait for its builders."""
    def load(name):
        if name != cuda._DRIVER:
            raise OSError(f'{name} is not there')
        return FakeLibrary()

    robot = FakeRobot(folder, FakeDriver())
    monkeypatch.setitem(sys.modules, 'tensorrt', robot.trt)
    monkeypatch.setattr(cuda, '_bindings', lambda: robot.driver)
    monkeypatch.setattr(cuda, '_installed', lambda module: True)
    monkeypatch.setattr(cuda.ctypes, 'CDLL', load)
    monkeypatch.setattr(job, '_BUILDER', (str(folder / 'builder' / 'build.py'),))
    monkeypatch.setattr(
        background, 'SeenPictures', partial(SeenPictures, wanted=2, apart_s=0))
    for module in (background, opening):
        monkeypatch.setattr(module, 'street_pictures', lambda: [street(0), street(1)])
    yield robot
    limit = time.monotonic() + 30
    while time.monotonic() < limit:  # of a thread that was told to end
        if not [t for t in threading.enumerate() if t.name == 'engine build']:
            return
        time.sleep(0.05)
    raise AssertionError('the thread of the build is still there')


def street(seed):
    return np.random.default_rng(seed).integers(0, 150, (32, 64, 3), np.uint8)


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
