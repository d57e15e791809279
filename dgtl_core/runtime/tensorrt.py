# SPDX-License-Identifier: Apache-2.0
"""
TensorRT: run an engine file.

Drives ``tensorrt`` (10.3 to 11.x) and ``tensorrt_rtx`` with the same code, without torch. Not run
on a GPU yet: the names it uses exist in the bindings of 10.3, 10.13, 10.16, 11.0, 11.4 and RTX
1.7, and its control flow is tested with stand-ins for engine and GPU.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from pathlib import Path
import traceback
from typing import Any

from dgtl_core.engine.info import BUILD_ONE, EngineInfo
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import (
    check_precision,
    EngineStatus,
    INPUT,
    OUTPUTS,
    Outputs,
    RunOptions,
    SIGNATURE,
)
from dgtl_core.runtime.cuda import cuda_fault, CudaError, device_index, Gpu
from dgtl_core.runtime.tensorrt_module import (
    GpuError,
    import_tensorrt,
    make_logger,
    started,
)
import numpy as np

_LOG = logging.getLogger(__name__)
_TYPES = {  # what a tensor may hold; outputs that we do not know need a place too
    'UINT8': np.uint8, 'BOOL': np.bool_, 'INT8': np.int8, 'INT32': np.int32, 'INT64': np.int64,
    'HALF': np.float16, 'FLOAT': np.float32}
_INSTALL = (
    'on a Jetson: sudo apt install python3-libnvinfer, and a virtual environment made with '
    '--system-site-packages; elsewhere: pip install tensorrt, or tensorrt-rtx')


class TensorRTBackend:
    """Run an ``.engine`` file that keeps the model contract (uint8 picture to uint8 labels)."""

    calls = 1
    _engine: Any = None
    _context: Any = None
    _runtime: Any = None
    _recorded: Any = None  # the CUDA graph
    _runs = 0

    def __init__(self, path: Path, info: EngineInfo, options: RunOptions) -> None:
        """
        Load an engine.

        :param info: what the engine is.
        :raises GpuError: no memory, or a fault of the GPU.
        :raises ModelError: no GPU, another GPU, TensorRT or precision than it was built for.
        """
        check_precision(path, info.metadata, options.precision)
        fault = cuda_fault(options.device)
        if fault:
            raise ModelError(f'{path.name} needs a GPU: {fault}')
        trt = import_tensorrt(info.module)
        _check_version(path, info, trt)
        self.metadata = info.metadata
        self.sha256 = info.engine_sha256 or info.model_sha256
        self._logger = make_logger(trt)  # must outlive the engine, and so must the runtime
        try:
            self._gpu = gpu = Gpu(
                device_index(options.device), options.engine.blocking_sync)
            try:
                _check_gpu(path, info, gpu)
                self._runtime = started(trt, trt.Runtime, self._logger)
                self._load(trt, path, info)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # they may hold the engine
                self.close()
                raise
        except CudaError as error:
            raise GpuError(f'{path} cannot be loaded: {error}') from None
        self.name = f'{info.module} {trt.__version__} ({gpu.name}, {info.precision})'
        self.engine = EngineStatus(
            'cached', str(path), f'{info.module} {trt.__version__}', gpu.cuda_version)

    def _load(self, trt: Any, path: Path, info: EngineInfo) -> None:
        # A version-compatible engine carries the code that runs it.
        self._runtime.engine_host_code_allowed = bool(info.options.get('version_compatible'))
        # Mapped, not read: on a Jetson the GPU has no memory of its own to spare for a copy.
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise ModelError(
                f'{info.module} {trt.__version__} cannot load {path} ({self._logger.last_error}); '
                f'{BUILD_ONE}')
        self.max_batch = _check_tensors(path, self._engine, info)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise GpuError(
                f'{path} does not fit into the memory of {self._gpu.name}: it needs '
                f'{self._engine.device_memory_size_v2 >> 20} MiB to run '
                f'({self._logger.last_error}); stop other programs, or export a smaller input '
                'size')
        staged = {name: self._gpu.stage((self.max_batch, *sizes), _TYPES[kind])
                  for name, (kind, sizes) in _tensors(self._engine).items()}
        for name, staging in staged.items():
            if not self._context.set_tensor_address(name, staging.address):
                raise ModelError(
                    f'{path} refuses the memory of {name!r} ({self._logger.last_error})')
        self._input = staged[INPUT]
        self._outputs = {name: staged[name] for name in (*OUTPUTS, SIGNATURE) if name in staged}
        self._fixed = self._engine.get_tensor_shape(INPUT)[0] != -1
        self._batch = self.max_batch if self._fixed else 0

    def __call__(self, images: np.ndarray) -> Outputs:
        """Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8."""
        batch = len(images)
        if (images.dtype != np.uint8 or images.shape[1:] != self._input.array.shape[1:] or
                not 0 < batch <= self.max_batch):
            raise ValueError(
                f'this engine takes uint8 {self._input.array.shape} or fewer pictures, got '
                f'{images.dtype} {images.shape}')
        self._gpu.activate()
        self._input.array[:batch] = images
        if self._recorded is not None:
            self._gpu.launch(self._recorded)
        else:
            self._enqueue(self.max_batch if self._fixed else batch)
        self._gpu.synchronize()
        if self._fixed and self._runs == 0:
            self._record()
        self._runs += 1
        return Outputs(*(o.array[:batch].copy() for o in self._outputs.values()))

    def _enqueue(self, batch: int) -> None:
        if batch != self._batch:
            shape = (batch, *self._input.array.shape[1:])
            if (not self._context.set_input_shape(INPUT, shape) or any(
                    tuple(self._context.get_tensor_shape(name)) != (batch, *o.array.shape[1:])
                    for name, o in self._outputs.items())):
                raise CudaError(
                    f'the engine refuses a batch of {batch} ({self._logger.last_error})')
            self._batch = batch
        self._gpu.upload(self._input, self._input.array[:batch].nbytes)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise CudaError(f'the engine did not run ({self._logger.last_error})')
        for output in self._outputs.values():
            self._gpu.download(output, output.array[:batch].nbytes)

    def _record(self) -> None:
        """Make a CUDA graph of upload, engine and download, after the first run has set it up."""
        try:
            self._recorded = self._gpu.capture(lambda: self._enqueue(self.max_batch))
        except CudaError as error:
            _LOG.warning('no CUDA graph, every picture is enqueued anew (%s)', error)

    def close(self) -> None:
        """Free the engine and its memory."""
        with contextlib.suppress(CudaError):  # after a fatal one nothing can be freed in order
            self._gpu.activate()
        if self._recorded is not None:
            self._gpu.discard(self._recorded)
        self._context = self._engine = self._runtime = self._recorded = None
        self._gpu.close()


def _check_version(path: Path, info: EngineInfo, trt: Any) -> None:
    built, here = _numbers(info.version), _numbers(trt.__version__)
    onward = bool(info.options.get('version_compatible')) and built[:1] == here[:1]
    if built != here and not (onward and built < here):
        raise ModelError(
            f'{path} was built with {info.module} {info.version}, here is {trt.__version__}; an '
            f'engine is not portable between versions: {BUILD_ONE}')


def _check_gpu(path: Path, info: EngineInfo, gpu: Gpu) -> None:
    if not info.gpu:
        return  # TensorRT-RTX, built for any GPU that it supports
    there, here = _numbers(info.compute_capability), _numbers(gpu.compute_capability)
    onward = info.options.get('hardware') == 'ampere_plus' and here >= (8, 0)
    if there != here and not onward:
        raise ModelError(
            f'{path} was built for {info.gpu} (compute capability {info.compute_capability}), '
            f'here is {gpu.name} ({gpu.compute_capability}); an engine is not portable between '
            f'GPUs: {BUILD_ONE}')
    if there == here and info.gpu != gpu.name:
        _LOG.warning('%s was built on %s and may be slower on %s', path, info.gpu, gpu.name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('.') if part.isdigit())


def _tensors(engine: Any) -> dict[str, tuple[str, list[int]]]:
    """Return type and shape, without the batch, of every input and output."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {name: (engine.get_tensor_dtype(name).name, list(engine.get_tensor_shape(name))[1:])
            for name in names}


def _check_tensors(path: Path, engine: Any, info: EngineInfo) -> int:
    """Check the model contract; return the largest batch."""
    height, width = info.metadata.input_size
    found = _tensors(engine)
    forms = {name: (kind, len(sizes)) for name, (kind, sizes) in found.items()}
    known = {**dict.fromkeys(OUTPUTS, ('UINT8', 2)), SIGNATURE: ('FLOAT', 1)}
    if (found.get(INPUT) != ('UINT8', [height, width, 3]) or not {*OUTPUTS} <= {*found} or
            any(forms[name] != form for name, form in known.items() if name in forms) or
            any(kind not in _TYPES or -1 in sizes for kind, sizes in found.values())):
        raise ModelError(
            f'{path} must take "image" uint8 (B, {height}, {width}, 3) and give "labels" and '
            f'"confidence" uint8 (B, height, width), a "signature" float32 (B, D) if any; it has '
            f'{found} (without B); {BUILD_ONE}')
    batch = engine.get_tensor_shape(INPUT)[0]
    return int(batch if batch != -1 else engine.get_tensor_profile_shape(INPUT, 0)[2][0])
