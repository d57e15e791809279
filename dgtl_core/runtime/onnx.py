# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU or, where its GPU build is installed, on CUDA or TensorRT."""

from __future__ import annotations

import functools
import os
from pathlib import Path
import platform

from dgtl_core.model_file import (
    MAKE_ONE,
    model_sha256,
    ModelError,
    onnx_data,
    onnx_metadata,
)
from dgtl_core.runtime.contract import (
    check_precision,
    EngineStatus,
    INPUT,
    OUTPUTS,
    Outputs,
    RunOptions,
    SIGNATURE,
    usable_cores,
)
import numpy as np

# From 1.32 on it writes an id of this machine below the home folder and sends reports.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
import onnxruntime as ort

_CUDA, _TENSORRT = 'CUDAExecutionProvider', 'TensorrtExecutionProvider'
_Providers = list[str | tuple[str, dict[str, str]]]


class OnnxBackend:
    """Run an ``.onnx`` file that keeps the model contract (uint8 picture to uint8 labels)."""

    engine: EngineStatus | None = None

    def __init__(self, path: Path, options: RunOptions, engine_folder: Path | None = None) -> None:
        """
        Load a model file.

        Of the precisions fp32 and fp16 are demands on the file, and so is bf16 on a GPU; on an
        ARM CPU that multiplies bfloat16, float32 products are rounded to it.

        :param engine_folder: use ONNX Runtime's TensorRT provider on a GPU and keep its engines
            there; nobody compares them, unlike those of the tensorrt backend.
        :raises ModelError: not a model, not one of ours, or the device is not there.
        """
        device, precision = options.device, options.precision
        providers = _providers(device, engine_folder)
        session = ort.SessionOptions()
        on_cpu = len(providers) == 1
        self.calls = options.calls if on_cpu else 1
        # One core for each call; the threads of the session help with all of them.
        session.intra_op_num_threads = options.threads or (
            max(usable_cores() - self.calls + 1, 1) if self.calls > 1 else 0)
        session.log_severity_level = 3
        # A thread that spins while it waits takes the core from the camera driver.
        session.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self.metadata = metadata = onnx_metadata(path)
        beside = onnx_data(path)
        # Alive until the session is made, which copies from it.
        weights = _read_weights(session, path.parent, beside) if on_cpu else []
        self._path = path
        rounds = precision == 'bf16' and metadata.precision == 'fp32' and on_cpu
        if rounds:
            _allow_bfloat16(session)
        else:
            check_precision(path, metadata, precision)
        if metadata.precision == 'bf16' and on_cpu:
            raise ModelError(
                f'{path.name} computes in bf16, which ONNX Runtime does not on a CPU: take the '
                'fp32 or fp16 file here, or the .safetensors checkpoint with precision "bf16"')
        try:
            # The fused kernel of ONNX Runtime 1.31 takes five times as long as its two parts.
            self._session = ort.InferenceSession(
                str(path), session, providers=providers,
                disabled_optimizers=['SkipLayerNormFusion'],
                enable_fallback=int(not on_cpu))  # prints; there is nothing else anyway
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise ModelError(
                f'{path} is not a model that ONNX Runtime {ort.__version__} can load '
                f'({_first_line(error)}); {MAKE_ONE}') from None
        del weights
        self._check(path)
        used = self._session.get_providers()[0]
        types = 'bf16' if rounds else metadata.precision
        self.name = f'onnxruntime ({used.removesuffix("ExecutionProvider")}' + (
            ')' if types == 'fp32' else f', {types})')
        on_gpu = used in (_CUDA, _TENSORRT)
        if 'cuda' in device and not on_gpu:
            raise ModelError(
                f'device {device!r} was asked for, but ONNX Runtime could not start CUDA; check '
                'the driver, or use device "cpu"')
        batch = self._session.get_inputs()[0].shape[0]
        self._fixed = isinstance(batch, int)
        self.max_batch = batch if isinstance(batch, int) else 16
        self._bound = _Bound(
            self._session, self._names, 'cuda', _index(device)) if on_gpu else None

    def _check(self, path: Path) -> None:
        inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        outputs = {o.name: (o.type, len(o.shape)) for o in self._session.get_outputs()}
        self._names = [*OUTPUTS, *([SIGNATURE] if SIGNATURE in outputs else [])]
        known = dict(zip(self._names, [*[('tensor(uint8)', 3)] * 2, ('tensor(float)', 2)]))
        height, width = self.metadata.input_size
        kind, shape = inputs.get(INPUT, ('', []))
        if (list(inputs) != [INPUT] or kind != 'tensor(uint8)' or
                list(shape[1:]) != [height, width, 3] or
                {name: outputs.get(name) for name in self._names} != known):
            raise ModelError(
                f'{path} must take "image" uint8 (B, {height}, {width}, 3) and give "labels" and '
                f'"confidence" uint8 (B, H, W), a "signature" float32 (B, D) if any; it takes '
                f'{inputs} and gives {outputs}; {MAKE_ONE}')

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the model file and its data; read when it is first asked for."""
        return model_sha256(self._path)

    def __call__(self, images: np.ndarray) -> Outputs:
        """
        Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8.

        :raises ModelError: the network cannot be computed.
        """
        count = len(images)
        if self._fixed and count < self.max_batch:  # the rest of a fixed batch is thrown away
            images = np.resize(images, (self.max_batch, *images.shape[1:]))
        try:
            found = (self._session.run(self._names, {INPUT: images}) if self._bound is None
                     else self._bound(images))
        except Exception as error:  # of ONNX Runtime, see above
            raise ModelError(f'{self._path} cannot be run: {_first_line(error)}') from error
        return Outputs(*(output[:count] for output in found))

    def close(self) -> None:
        """Free the session."""
        self._bound = None
        del self._session


class _Bound:
    """Calls that reuse the picture's place on the device, where run() would allocate one."""

    def __init__(self, session: ort.InferenceSession, outputs: list[str], device: str,
                 index: int) -> None:
        self._session, self._device, self._index = session, device, index
        self._outputs = outputs
        self._binding = session.io_binding()
        self._picture: ort.OrtValue | None = None

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images)
        if self._picture is None or self._picture.shape() != list(images.shape):
            self._picture = ort.OrtValue.ortvalue_from_shape_and_type(
                list(images.shape), np.uint8, self._device, self._index)
            self._binding.bind_ortvalue_input(INPUT, self._picture)
            for name in self._outputs:  # anew: the last batch size's memory is used again
                self._binding.bind_output(name, 'cpu')
        self._picture.update_inplace(images)
        self._session.run_with_iobinding(self._binding)
        return list(self._binding.copy_outputs_to_cpu())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))


def able_providers() -> list[str]:
    """Return what this build of ONNX Runtime can run on: CPU, CUDA, ..."""
    return [name.removesuffix('ExecutionProvider') for name in ort.get_available_providers()]


def _index(device: str) -> int:
    return int(device.partition(':')[2] or 0)


def _providers(device: str, engine_folder: Path | None) -> _Providers:
    there = ort.get_available_providers()
    if device == 'cpu' or (device == 'auto' and _CUDA not in there):
        return ['CPUExecutionProvider']
    if _CUDA not in there:
        raise ModelError(
            f'device {device!r} needs the GPU build of ONNX Runtime; this one offers {there}. '
            'Install onnxruntime-gpu, or use device "cpu"')
    index = str(_index(device))
    chosen: _Providers = [(_CUDA, {'device_id': index}), 'CPUExecutionProvider']
    if engine_folder is None:
        return chosen
    if _TENSORRT not in there:
        raise ModelError(f'this ONNX Runtime has no TensorRT provider, it offers {there}')
    return [(_TENSORRT, {
        'device_id': index, 'trt_engine_cache_enable': 'True',
        'trt_engine_cache_path': str(engine_folder)}), *chosen]


def _read_weights(session: ort.SessionOptions, folder: Path, files: list[Path]) -> list[bytes]:
    """
    Let a session take the weights that lie beside a model from memory; return them.

    ONNX Runtime itself maps them, and a process ends without a word (SIGBUS) where somebody
    copies another file over one that it has mapped.
    """
    read = getattr(session, 'add_external_initializers_from_files_in_memory', None)
    if not files or read is None:  # an older ONNX Runtime
        return []
    contents = [file.read_bytes() for file in files]
    names = [file.relative_to(folder).as_posix() for file in files]
    read(names, contents, [len(content) for content in contents])
    return contents


def _allow_bfloat16(options: ort.SessionOptions) -> None:
    if platform.machine() not in ('aarch64', 'arm64'):
        raise ModelError(
            'ONNX Runtime multiplies bfloat16 only on ARM CPUs; on this one run the .safetensors '
            'checkpoint with the torch backend, or use precision "fp32"')
    options.add_session_config_entry('mlas.enable_gemm_fastmath_arm64_bfloat16', '1')
