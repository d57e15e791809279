# SPDX-License-Identifier: Apache-2.0
"""
One engine of one model on one GPU: found in the cache, or built, compared and kept.

An engine is built in a process of its own, which can be stopped at once and takes nothing down
with it, and enters the cache only after it has labelled pictures as its model does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import contextlib
from dataclasses import replace
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading

from dgtl_core.engine.agreement import LabeledPicture, verify_engine
from dgtl_core.engine.cache import EngineCache, EngineCacheError, EngineKey
from dgtl_core.engine.child import tied
from dgtl_core.engine.info import EngineInfo
from dgtl_core.files import put, write_atomically
from dgtl_core.model_file import model_sha256, ModelError, onnx_batch, onnx_metadata
from dgtl_core.runtime.contract import Backend, RunOptions
from dgtl_core.runtime.cuda import device_index, driver_version, Gpu
from dgtl_core.runtime.tensorrt import TensorRTBackend
from dgtl_core.runtime.tensorrt_module import GpuError, import_tensorrt

_LOG = logging.getLogger(__name__)
_BUILDER = ('-m', 'dgtl_core.cli', 'engine')


class EngineJob:
    """One engine of one model on one GPU: find it, or build, check and keep it."""

    def __init__(self, onnx: Path, options: RunOptions) -> None:
        trt = import_tensorrt()
        self.onnx = onnx
        self._options = options
        self._engine = engine = replace(
            options.engine, max_batch=onnx_batch(onnx) or options.engine.max_batch)
        self.cache = EngineCache(engine.cache_dir, engine.cache_gib * 2**30)
        self.max_batch = engine.max_batch
        self._rebuild = engine.rebuild
        self._module = trt.__name__
        metadata = onnx_metadata(onnx)
        gpu = Gpu(device_index(options.device), engine.blocking_sync)
        gpu.close()
        self._key = EngineKey(
            model_sha256=model_sha256(onnx), gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            tensorrt=f'{trt.__name__} {trt.__version__}', cuda=gpu.cuda_version,
            driver=driver_version(), precision=metadata.precision,
            shape=(self.max_batch, *metadata.input_size, 3),
            options=engine.made_with())
        self._info = EngineInfo(
            metadata=metadata, module=trt.__name__, version=trt.__version__, gpu=gpu.name,
            compute_capability=gpu.compute_capability, precision=self._key.precision,
            model_sha256=self._key.model_sha256, engine_sha256='',
            options=self._key.options)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()
        self._checked: TensorRTBackend | None = None

    @property
    def sha256(self) -> str:
        """The hash of the model."""
        return self._key.model_sha256

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

    def run(self, known: Callable[[], Sequence[LabeledPicture]]) -> TensorRTBackend:
        """
        Build the engine, check it on known pictures, keep it and return it, ready to use.

        :raises ModelError: it cannot be built or labels wrongly, or :meth:`stop` was called.
        """
        with self.cache:
            try:
                path = self.cache.get_or_build(
                    self._key, lambda engine: self._build(engine, known), self._rebuild)
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
        return TensorRTBackend(engine, info, replace(self._options, precision='auto'))

    def _build(self, engine: Path, known: Callable[[], Sequence[LabeledPicture]]) -> None:
        self._run_builder(engine)
        backend = self._loaded(engine, EngineInfo.beside(engine))
        backend.sha256 = self.sha256
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

    def _verified(self, backend: TensorRTBackend, known: Sequence[LabeledPicture]) -> float:
        try:
            return verify_engine(backend, known)
        except ModelError as error:
            write_atomically(self.refusal, str(error))
            raise

    def _run_builder(self, engine: Path) -> None:
        # With measured times the next build, of whatever model, is quicker.
        kept, times = self.cache.root / 'timing.cache', engine.with_name('timing.cache')
        with contextlib.suppress(OSError):
            shutil.copyfile(kept, times)
        self._run(self._command(engine, times))
        with contextlib.suppress(OSError):
            put({times: kept})

    def _command(self, engine: Path, times: Path) -> list[str]:
        command = [
            *tied(), sys.executable, *_BUILDER, str(self.onnx), str(engine), '--unverified',
            '--module', self._module, '--device', self._options.device,
            '--max-batch', str(self._engine.max_batch),
            '--workspace-mib', str(self._engine.workspace_mib),
            '--optimization-level', str(self._engine.optimization_level),
            '--hardware', self._engine.hardware]
        if self._engine.version_compatible:
            command += ['--version-compatible']
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
