# SPDX-License-Identifier: Apache-2.0
"""
Build a TensorRT engine from an exported ONNX file, on the machine that will run it.

``dgtl engine`` is the command. Needs no torch. Networks are strongly typed: an engine computes in
the types of the ONNX file. The parser and the builder of TensorRT-RTX also work without a GPU, to
check a model; what needs one (measuring kernels, comparing the finished engine) has not been run
yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dgtl_core.engine.agreement import labeled_by, LabeledPicture, MIN_AGREEMENT, verify_engine
from dgtl_core.engine.builder import build, BuildReport
from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.engine.options import EngineOptions
from dgtl_core.engine.progress import BuildProgress
from dgtl_core.files import destination, file_sha256, placing_all
from dgtl_core.model_file import model_sha256, ModelError, ModelMetadata, onnx_metadata
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.cuda import cuda_fault, device_index, Gpu
from dgtl_core.runtime.tensorrt import TensorRTBackend
from dgtl_core.runtime.tensorrt_module import import_tensorrt
import numpy as np

SUFFIXES = ('.engine', '.plan')


def build_engine(onnx: Path, out: Path, options: EngineOptions | None = None, *,
                 pictures: Sequence[np.ndarray] = (), min_agreement: float = MIN_AGREEMENT,
                 reference: Path | None = None, timing_cache: Path | None = None,
                 module: str = '', device: str = RunOptions.device,
                 progress: BuildProgress | None = None) -> tuple[BuildReport, EngineInfo]:
    """
    Build an engine and its side file; whatever was at ``out`` stays until both are good.

    :param pictures: real pictures (H, W, 3) uint8 RGB on which the engine is compared with ONNX
        Runtime; none: it is not compared.
    :param min_agreement: least share of pixels that must get the same label.
    :param reference: the ONNX file to compare with; None: ``onnx`` itself.
    :param timing_cache: a file with measured kernel times, used and brought up to date.
    :param module: ``tensorrt`` or ``tensorrt_rtx``; empty: the first that is installed.
    :raises ModelError: not one of our models, refused by parser or builder, no GPU, or the engine
        labels too differently.
    :raises CudaError: the GPU fails.
    :raises KeyboardInterrupt: stopped by Ctrl-C; nothing is left behind.
    :raises OSError: a file cannot be read or written; nothing is left behind.
    """
    options = EngineOptions() if options is None else options
    if out.suffix not in SUFFIXES:
        raise ModelError(f'an engine is a file that ends in one of {list(SUFFIXES)}, got {out}')
    for path in (out, side_file(out)):  # said before the build, not after it
        destination(path, path.suffix)
    if not 0 <= min_agreement <= 1:
        raise ModelError(f'min_agreement is a share of pixels in 0..1, got {min_agreement}')
    metadata = onnx_metadata(onnx)
    device_index(device)  # is it one?
    fault = cuda_fault(device)
    trt = import_tensorrt(module)
    if fault and (trt.__name__ != 'tensorrt_rtx' or pictures or device != 'auto'):
        raise ModelError(
            f'an engine is built and compared on the GPU that will run it, but {fault}. Without '
            'a GPU, tensorrt-rtx can check that the model parses and builds: --module '
            'tensorrt_rtx --unverified')
    known = _known(metadata, reference or onnx, pictures) if pictures else []
    with placing_all([out, side_file(out)]) as [staged, side]:
        gpu = None if fault else Gpu(device_index(device))
        try:
            activate = (lambda: None) if gpu is None else gpu.activate
            engine, report = build(
                trt, onnx, options, progress or BuildProgress(), timing_cache, activate)
        finally:
            if gpu is not None:
                gpu.close()
        staged.write_bytes(engine)
        del engine  # the GPU of a Jetson has no memory of its own: not twice while it is compared
        info = EngineInfo(
            metadata=metadata, module=trt.__name__, version=trt.__version__,
            gpu='' if gpu is None else gpu.name,
            compute_capability='' if gpu is None else gpu.compute_capability,
            precision=report.precision, model_sha256=model_sha256(onnx),
            engine_sha256=file_sha256(staged), options=options.made_with())
        if known:
            backend = TensorRTBackend(staged, info, RunOptions(device=device))
            try:
                info = replace(info, labels_equal=verify_engine(backend, known, min_agreement))
            finally:
                backend.close()
        side.write_text(info.to_json(), encoding='utf-8')
    return report, info


def _known(metadata: ModelMetadata, reference: Path,
           pictures: Sequence[np.ndarray]) -> list[LabeledPicture]:
    """Label the pictures; before the build, which takes minutes, so that a fault is said then."""
    from dgtl_core.runtime.onnx import OnnxBackend

    of = onnx_metadata(reference)
    if (of.input_size, of.classes.names) != (metadata.input_size, metadata.classes.names):
        raise ModelError(
            f'the reference {reference} takes pictures of {of.input_size} and knows '
            f'{len(of.classes)} classes, the model {metadata.input_size} and '
            f'{len(metadata.classes)}: name an export of the same model at the same size')
    if of.precision == 'bf16':
        raise ModelError(
            f'{reference} computes in bf16, which ONNX Runtime does not on a CPU: name the same '
            'model in fp32 or fp16 with --reference')
    truth = OnnxBackend(reference, RunOptions(device='cpu'))
    try:
        return labeled_by(truth, pictures)
    finally:
        truth.close()
