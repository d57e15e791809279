# SPDX-License-Identifier: Apache-2.0
"""
The door to what runs a model: the choice of the engine library.

An engine library is imported only when a file of its kind is opened, so that a robot which runs
an ``.onnx`` file needs neither torch nor TensorRT.
"""

from __future__ import annotations

from dataclasses import replace
import logging
import os
from pathlib import Path

from dgtl_core.model_file import MAKE_ONE, ModelError
from dgtl_core.runtime.contract import Backend, EngineStatus, RunOptions

SUFFIXES = {
    '.onnx': ('onnxruntime', 'tensorrt'), '.engine': ('tensorrt',), '.plan': ('tensorrt',),
    '.safetensors': ('torch',)}
_INSTALL = {
    'onnxruntime': 'pip install onnxruntime',
    'tensorrt': 'pip install onnxruntime, with which an engine is compared',
    'torch': 'pip install torch torchvision timm safetensors, or export the checkpoint to .onnx '
             'where these are (python -m training.export), and run that'}
_LOG = logging.getLogger(__name__)


def open_backend(path: str | Path, options: RunOptions) -> Backend:
    """
    Open a model file with the engine that fits the file and the device, and log the choice.

    :param path: an ``.onnx``, ``.engine``, ``.plan`` or ``.safetensors`` file.
    :param options: only the torch backend can change the precision of a file; elsewhere it is a
        demand on the file.
    :raises ModelError: the file is missing or not a model, or the backend cannot run it so.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ModelError(
            f'cannot run {str(path)!r}: expected a file that ends in one of '
            f'{sorted(SUFFIXES)} ({MAKE_ONE})')
    if not os.path.isfile(path):  # also where no name may be so long
        raise ModelError(f'no model file at {str(path)!r}; {MAKE_ONE}')
    if not os.access(path, os.R_OK):
        raise ModelError(f'{str(path)!r} may not be read by this user; change its permissions')
    able = SUFFIXES[path.suffix]
    wanted = options.backend
    if wanted != 'auto' and wanted not in able:
        raise ModelError(f'backend {wanted!r} cannot run {path.name}: use one of {list(able)}')
    chosen, why = (wanted, 'asked for') if wanted != 'auto' else _choose(able, options.device)
    _LOG.info('%s runs on %s (%s), precision %s', path.name, chosen, why,
              'as the file is' if options.precision == 'auto'
              else f'{options.precision} (asked for)')
    if options.compiled and chosen != 'torch':
        raise ModelError(
            f'torch.compile is for checkpoints (.safetensors); {chosen} compiles {path.name} in '
            'its own way')
    try:
        if chosen == 'torch':
            from dgtl_core.runtime.torch import TorchBackend
            return TorchBackend(path, options)
        if chosen == 'tensorrt':
            from dgtl_core.engine.open import open_engine
            try:
                return open_engine(path, options)
            except ModelError as error:
                if wanted != 'auto' or 'onnxruntime' not in able:
                    raise
                return _fallback(path, options, error)
        from dgtl_core.runtime.onnx import OnnxBackend
        return OnnxBackend(path, options)
    except ImportError as error:
        raise ModelError(
            f'{path.name} cannot run on {chosen}: {error}; {_INSTALL[chosen]}') from None


def _fallback(path: Path, options: RunOptions, fault: ModelError) -> Backend:
    """Let ONNX Runtime answer for an engine that there is not, on the CPU if it has to."""
    from dgtl_core.runtime.onnx import OnnxBackend

    _LOG.warning('%s runs on onnxruntime instead: %s', path.name, fault)
    try:
        try:
            opened = OnnxBackend(path, options)
        except ModelError:
            opened = OnnxBackend(path, replace(options, device='cpu'))
    except ModelError as error:
        raise ModelError(f'{fault}; and {error}') from None
    opened.engine = EngineStatus('fallback', reason=str(fault))
    return opened


def _choose(able: tuple[str, ...], device: str) -> tuple[str, str]:
    if len(able) == 1:
        return able[0], 'the only backend for this kind of file'
    if device == 'cpu':
        return 'onnxruntime', 'device is cpu'
    from dgtl_core.runtime.tensorrt_module import tensorrt_fault
    fault = tensorrt_fault(device)
    return ('onnxruntime', fault) if fault else ('tensorrt', 'TensorRT and a GPU are there')
