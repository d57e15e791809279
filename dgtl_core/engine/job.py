# SPDX-License-Identifier: Apache-2.0
"""
The engine of an ``.onnx`` file: from the cache, or built here while ONNX Runtime answers.

An engine is built in a process of its own, which can be stopped at once and takes nothing down
with it, and enters the cache only after it has labelled pictures as its model does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import contextlib
from dataclasses import asdict
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading
import time

from dgtl_core.engine.agreement import Sample, samples, verify_engine
from dgtl_core.engine.builder import BuildOptions
from dgtl_core.engine.cache import EngineCache, EngineCacheError, EngineKey, file_sha256
from dgtl_core.engine.child import tied
from dgtl_core.engine.info import EngineInfo, onnx_batch, onnx_metadata
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.backend import Backend, EngineOptions, EngineStatus
from dgtl_core.runtime.cuda import CudaError, device_index, driver_version, Gpu
from dgtl_core.runtime.onnx import OnnxBackend
from dgtl_core.runtime.tensorrt import (
    GpuError,
    import_tensorrt,
    tensorrt_fault,
    TensorRTBackend,
)
import numpy as np

_LOG = logging.getLogger(__name__)
_PLAIN = 8.0  # a picture whose colours vary less (standard deviation) says nothing
_BUILDER = ('-m', 'dgtl_core.engine.build')
_JOIN_S = 1.5  # a node has to end within 2 s
_FAULTS = (CudaError, EngineCacheError, ModelError, OSError)  # anything else is a mistake of ours
_PATIENCE_S = 60.0  # with a camera that shows nothing, after the engine is built


def open_onnx(path: Path, device: str, threads: int, options: EngineOptions) -> Backend:
    """
    Run an ``.onnx`` file with TensorRT.

    :param threads: CPU threads of ONNX Runtime, which answers while the engine is built.
    :raises ModelError: TensorRT cannot run here, or there is no engine and none may be built.
    """
    fault = tensorrt_fault(device)
    if fault:
        raise ModelError(f'TensorRT cannot run {path.name}: {fault}')
    try:
        job = EngineJob(path, device, options)
        found = None if options.rebuild else job.cached()
        if found is not None:
            return found
        if job.refusal.exists() and not options.rebuild:
            raise ModelError(
                f'an engine of {path.name} was built here and refused: '
                f'{job.refusal.read_text(encoding="utf-8")} (rebuild tries again)')
    except (CudaError, EngineCacheError, OSError) as error:
        raise ModelError(f'TensorRT cannot run {path.name}: {error}') from error
    if onnx_metadata(path).precision == 'bf16':
        raise ModelError(
            f'{path.name} computes in bf16, and ONNX Runtime, with which an engine is compared, '
            'does not on a CPU: build the engine with "python -m dgtl_core.engine.build '
            f'{path.name} {path.stem}.engine --pictures FOLDER --reference FP32.onnx" and run '
            'that, or export in fp16')
    if options.build == 'never':
        raise ModelError(
            f'there is no engine of {path.name} for this GPU and TensorRT in {job.cache.root}, '
            'and engine build is "never": allow "background" or "blocking"')
    # On the CPU: the GPU is the builder's, which measures kernels on it.
    interim = OnnxBackend(path, device='cpu', threads=threads)
    if options.build == 'background':
        return BuildingBackend(interim, job)
    try:
        known = samples(interim, _generated_pictures())
    finally:
        interim.close()
    try:
        return job.run(lambda: known)
    except (CudaError, EngineCacheError, OSError) as error:
        raise ModelError(f'no engine of {path.name}: {error}') from error


class EngineJob:
    """One engine of one model on one GPU: find it, or build, check and keep it."""

    def __init__(self, onnx: Path, device: str, options: EngineOptions) -> None:
        trt = import_tensorrt()
        self.onnx = onnx
        self.cache = EngineCache(options.cache_dir, options.cache_gib * 2**30)
        self.max_batch = onnx_batch(onnx) or options.max_batch
        self._device, self._rebuild = device, options.rebuild
        self._blocking_sync = options.blocking_sync
        self._build_options = BuildOptions(
            max_batch=self.max_batch, workspace_mib=options.workspace_mib)
        self._module = trt.__name__
        metadata = onnx_metadata(onnx)
        gpu = Gpu(device_index(device), options.blocking_sync)
        gpu.close()
        self._key = EngineKey(
            model_sha256=file_sha256(onnx), gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            tensorrt=f'{trt.__name__} {trt.__version__}', cuda=gpu.cuda_version,
            driver=driver_version(), precision=metadata.precision,
            shape=(self.max_batch, *metadata.input_size, 3),
            options=asdict(self._build_options))
        self._info = EngineInfo(
            metadata=metadata, module=trt.__name__, version=trt.__version__, gpu=gpu.name,
            compute_capability=gpu.compute_capability, precision=self._key.precision,
            model_sha256=self._key.model_sha256, engine_sha256='',
            options=self._key.options)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()
        self._checked: TensorRTBackend | None = None

    @property
    def refusal(self) -> Path:
        """Where it is noted that such an engine labels wrongly, so that it is not built again."""
        return self.cache.root / f'{self._key.digest()}.refused'

    def cached(self) -> Backend | None:
        """
        Return the engine of the cache, if there is one that loads.

        :raises GpuError: it may be good, but the GPU does not take it now.
        """
        with self.cache:
            found = self.cache.find(self._key)
            if found is None:
                return None
            try:
                return self._loaded(found, self._info)
            except GpuError:
                raise  # another build would need even more memory
            except ModelError as error:
                _LOG.warning('the cached engine is built again: %s', error)
                self._rebuild = True
        return None

    def run(self, known: Callable[[], Sequence[Sample]]) -> TensorRTBackend:
        """
        Build the engine, check it on known pictures, keep it and return it, ready to use.

        :raises ModelError: it cannot be built or labels wrongly, or :meth:`stop` was called.
        """
        with self.cache:
            try:
                path = self.cache.get_or_build(
                    self._key, lambda: self._build(known), self._rebuild)
            except EngineCacheError as error:
                if self._checked is None:
                    raise
                _LOG.error('the engine is used but not kept: %s', error)
                return self._checked
            if self._checked is not None:
                self._checked.engine = self._checked.engine._replace(path=str(path))
                return self._checked
            return self._loaded(path, self._info)  # another process built it

    def stop(self) -> None:
        """Give up; :meth:`run` raises soon."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()  # it writes to our folder, which we remove

    def _loaded(self, engine: Path, info: EngineInfo) -> TensorRTBackend:
        return TensorRTBackend(engine, info, self._device, self._blocking_sync)

    def _build(self, known: Callable[[], Sequence[Sample]]) -> bytes:
        folder = self.cache.workshop(self._key)
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed
        folder.mkdir()
        try:
            engine = folder / 'model.engine'
            self._run_builder(engine)
            backend = self._loaded(engine, EngineInfo.beside(engine))
            try:
                share = self._verified(backend, known())
            except BaseException:
                backend.close()
                raise
            _LOG.info('the engine of %s labels %.2f %% of the pixels as its model does',
                      self.onnx.name, 100 * share)
            self.refusal.unlink(missing_ok=True)
            backend.engine = backend.engine._replace(state='built', path='')
            self._checked = backend
            return engine.read_bytes()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _verified(self, backend: TensorRTBackend, known: Sequence[Sample]) -> float:
        try:
            return verify_engine(backend, known)
        except ModelError as error:
            self.refusal.write_text(str(error), encoding='utf-8')
            raise

    def _run_builder(self, engine: Path) -> None:
        # With measured times the next build, of whatever model, is quicker.
        kept, times = self.cache.root / 'timing.cache', engine.with_name('timing.cache')
        with contextlib.suppress(OSError):
            shutil.copyfile(kept, times)
        self._run(self._command(engine, times))
        with contextlib.suppress(OSError):
            os.replace(times, kept)

    def _command(self, engine: Path, times: Path) -> list[str]:
        command = [
            *tied(), sys.executable, *_BUILDER, str(self.onnx), str(engine), '--unverified',
            '--module', self._module, '--device', self._device,
            '--max-batch', str(self._build_options.max_batch),
            '--workspace-mib', str(self._build_options.workspace_mib)]
        if self._module == 'tensorrt':
            command += ['--timing-cache', str(times)]
        return command

    def _run(self, command: list[str]) -> None:
        ours = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [ours, os.environ.get('PYTHONPATH')]))
        said: deque[str] = deque(maxlen=20)
        with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors='replace',
                env={**os.environ, 'PYTHONPATH': path}) as process:
            self._process = process
            if self._stopped.is_set():
                process.kill()
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    said.append(line.rstrip())
                    _LOG.info('%s: %s', self.onnx.name, said[-1])
            except BaseException:  # Ctrl-C, for one: nobody waits for the engine any more
                process.kill()
                raise
        if self._stopped.is_set():
            raise ModelError('the build of the engine was stopped')
        if process.returncode:
            raise ModelError(
                f'the engine of {self.onnx.name} cannot be built (exit status '
                f'{process.returncode}): {" ".join(said) or "no reason given"}')


class BuildingBackend:
    """Answer through ONNX Runtime until the engine is there, then through the engine."""

    def __init__(self, interim: Backend, job: EngineJob) -> None:
        """Start the build; ``interim`` is closed when it is not needed any more."""
        self.metadata = interim.metadata
        # Of both, so that it stays the same.
        self.max_batch = min(interim.max_batch, job.max_batch)
        self.name = f'{interim.name} while the engine is built'
        self.engine = EngineStatus('building')
        self._interim = self._active = interim
        self._built: TensorRTBackend | None = None
        self._job = job
        self._frames = Frames()
        self._thread = threading.Thread(target=self._work, name='engine build', daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            built = self._job.run(self._known)
            if self._frames.closed:
                built.close()
            else:
                self._built = built
        except Exception as error:  # whatever it is, the node goes on, and says it
            if not self._frames.closed:
                _LOG.error('no engine; ONNX Runtime goes on: %s', error,
                           exc_info=not isinstance(error, _FAULTS))
                self.name = f'{self._interim.name}, no engine ({error})'
                self.engine = EngineStatus('fallback', reason=str(error))

    def _known(self) -> list[Sample]:
        seen = self._frames.wait(_PATIENCE_S)
        if not seen:
            _LOG.info('the camera shows nothing; the engine is compared on generated pictures')
        return seen or samples(self._interim, _generated_pictures())

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8."""
        if self._built is not None and self._active is self._interim:
            self._active = self._built
            self.name = self._built.name
            self.engine = self._built.engine
            self._interim.close()
            _LOG.info('the engine answers from now on')
        labels, confidence = self._active(images)
        if self._active is self._interim:
            self._frames.add(images, labels)
        return labels, confidence

    def close(self) -> None:
        """Stop the build and free everything."""
        self._frames.close()
        self._job.stop()
        self._thread.join(_JOIN_S)
        if self._built is not None and self._built is not self._active:
            self._built.close()
        self._active.close()


class Frames:
    """The pictures on which an engine is compared: what the camera sees while it is built."""

    def __init__(self, wanted: int = 3, apart_s: float = 1.0) -> None:
        """Keep ``wanted`` pictures that lie at least ``apart_s`` seconds apart."""
        self.closed = False
        self._wanted, self._apart = wanted, apart_s
        self._kept: list[Sample] = []
        self._last = float('-inf')
        self._change = threading.Condition()

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Take pictures and their labels, if they are of use."""
        now = time.monotonic()
        if len(self._kept) >= self._wanted or now - self._last < self._apart:
            return
        for image, label in zip(images, labels):
            if image.std(axis=(0, 1)).max() >= _PLAIN:
                with self._change:
                    self._kept.append(Sample(image.copy(), label.copy()))
                    self._change.notify_all()
                self._last = now

    def wait(self, patience_s: float) -> list[Sample]:
        """
        Return the pictures once there are enough, or those that there are when patience ends.

        :raises ModelError: closed before that.
        """
        with self._change:
            if len(self._kept) < self._wanted:
                _LOG.info('the engine is built and waits for pictures to be compared on')
            self._change.wait_for(
                lambda: self.closed or len(self._kept) >= self._wanted, patience_s)
            if self.closed:
                raise ModelError('the build of the engine was stopped')
            return list(self._kept)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._change:
            self.closed = True
            self._change.notify_all()


def _generated_pictures() -> list[np.ndarray]:
    """Return streets in several weathers, where no camera has been seen yet."""
    from dgtl_core.streetworld import CONDITIONS, StreetWorld

    return [StreetWorld(seed=7, condition=c).picture(i).image for i, c in enumerate(CONDITIONS)]
