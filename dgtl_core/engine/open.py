# SPDX-License-Identifier: Apache-2.0
"""Open an engine: its file, or that of an ``.onnx`` file, which is found or built here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dgtl_core.engine.agreement import labeled_by, street_pictures
from dgtl_core.engine.background import BuildingBackend
from dgtl_core.engine.cache import EngineCacheError
from dgtl_core.engine.info import EngineInfo
from dgtl_core.engine.job import EngineJob
from dgtl_core.model_file import ModelError, onnx_metadata
from dgtl_core.runtime.contract import Backend, check_precision, RunOptions
from dgtl_core.runtime.cuda import CudaError
from dgtl_core.runtime.onnx import OnnxBackend
from dgtl_core.runtime.tensorrt import TensorRTBackend
from dgtl_core.runtime.tensorrt_module import tensorrt_fault


def open_engine(path: Path, options: RunOptions) -> Backend:
    """
    Open an ``.engine`` or ``.plan`` file, or the engine of an ``.onnx`` file.

    :param options: the threads are those of ONNX Runtime, which answers while one is built.
    :raises ModelError: TensorRT cannot run it here; the message says why and what to do.
    """
    if path.suffix != '.onnx':
        return TensorRTBackend(path, EngineInfo.beside(path), options)
    check_precision(path, onnx_metadata(path), options.precision)
    fault = tensorrt_fault(options.device)
    if fault:
        raise ModelError(f'TensorRT cannot run {path.name}: {fault}')
    engine = options.engine
    try:
        job = EngineJob(path, options)
        found = None if engine.rebuild else job.cached()
        if found is not None:
            return found
        if job.refusal.exists() and not engine.rebuild:
            raise ModelError(
                f'an engine of {path.name} was built here and refused: '
                f'{job.refusal.read_text(encoding="utf-8")} (rebuild tries again)')
    except (CudaError, EngineCacheError, OSError) as error:
        raise ModelError(f'TensorRT cannot run {path.name}: {error}') from error
    if onnx_metadata(path).precision == 'bf16':
        raise ModelError(
            f'{path.name} computes in bf16, and ONNX Runtime, with which an engine is compared, '
            'does not on a CPU: build the engine with "dgtl engine '
            f'{path.name} {path.stem}.engine --pictures FOLDER --reference FP32.onnx" and run '
            'that, or export in fp16')
    if engine.build == 'never':
        raise ModelError(
            f'there is no engine of {path.name} for this GPU and TensorRT in {job.cache.root}, '
            'and engine build is "never": allow "background" or "blocking"')
    # On the CPU: the GPU is the builder's, which measures kernels on it.
    interim = OnnxBackend(path, replace(options, device='cpu', precision='auto', calls=1))
    if engine.build == 'background':
        return BuildingBackend(interim, job)
    try:
        known = labeled_by(interim, street_pictures())
    finally:
        interim.close()
    try:
        return job.run(lambda: known)
    except (CudaError, EngineCacheError, OSError) as error:
        raise ModelError(f'no engine of {path.name}: {error}') from error
