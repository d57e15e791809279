# SPDX-License-Identifier: Apache-2.0
"""
What runs a model: one protocol, and the choice of the engine library.

An engine library is imported only when a file of its kind is opened, so that a robot which runs
an ``.onnx`` file needs neither torch nor TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass
import logging
import os
from pathlib import Path
import re
from typing import NamedTuple, Protocol

from dgtl_core.model_file import FILE_PRECISIONS, MAKE_ONE, ModelError, ModelMetadata
import numpy as np

BACKENDS = ('auto', 'onnxruntime', 'tensorrt', 'torch')
SUFFIXES = {
    '.onnx': ('onnxruntime', 'tensorrt'), '.engine': ('tensorrt',), '.plan': ('tensorrt',),
    '.safetensors': ('torch',)}
PRECISIONS = ('auto', *FILE_PRECISIONS)
MAX_THREADS = 256  # thousands of them stop the computer
ENGINE_BUILDS = ('background', 'blocking', 'never')
_INSTALL = {
    'onnxruntime': 'pip install onnxruntime',
    'tensorrt': 'pip install onnxruntime, with which an engine is compared',
    'torch': 'pip install torch torchvision timm safetensors, or export the checkpoint to .onnx '
             'where these are (python -m training.export), and run that'}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT runs an ``.onnx`` file: it needs an engine that was built for this GPU."""

    build: str = 'background'  # ONNX Runtime answers meanwhile; 'blocking': wait; 'never': don't
    cache_dir: str = '~/.cache/dgtl_ros/engines'
    rebuild: bool = False      # build it again although there is one
    max_batch: int = 1         # pictures in one call; a model with a fixed batch keeps its own
    workspace_mib: int = 0     # most memory of one layer while it runs; 0: no limit
    cache_gib: float = 8.0     # of all engines in cache_dir; above it the least recently used go
    blocking_sync: bool | None = None  # sleep while the GPU works; None: where it shares a chip

    def __post_init__(self) -> None:
        if self.build not in ENGINE_BUILDS:
            raise ModelError(
                f'engine build must be one of {list(ENGINE_BUILDS)}, got {self.build!r}')
        whole = isinstance(self.max_batch, int) and isinstance(self.workspace_mib, int)
        if not whole or self.max_batch < 1:
            raise ModelError(f'engine max_batch must be 1 or more, got {self.max_batch!r}')
        if self.workspace_mib < 0 or not self.cache_gib > 0:
            raise ModelError(
                'engine workspace_mib must be 0 or more and cache_gib more than 0, got '
                f'{self.workspace_mib} and {self.cache_gib}')


class EngineStatus(NamedTuple):
    """The TensorRT engine of a model, as it is now."""

    state: str  # 'cached', 'built' by this process, 'building', or 'fallback': there is none
    path: str = ''
    version: str = ''  # of the library: 'tensorrt 10.3.0'
    cuda_version: str = ''
    reason: str = ''  # why there is none


class Backend(Protocol):
    """A loaded model: uint8 pictures in, uint8 labels and confidence out."""

    name: str  # what runs it, for people: 'onnxruntime (CPU)'
    metadata: ModelMetadata
    max_batch: int  # the most pictures in one call

    @property
    def engine(self) -> EngineStatus | None:
        """How its TensorRT engine does; None: it has nothing to do with one."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shape: (B, H, W, 3) uint8 RGB at input_size -> labels, confidence (B, H, W) uint8."""

    def close(self) -> None:
        """Free what the engine holds; the backend cannot be called afterwards."""


def open_backend(path: str | Path, backend: str = 'auto', device: str = 'auto',
                 threads: int = 0, engine: EngineOptions | None = None,
                 precision: str = 'auto', compiled: bool = False) -> Backend:
    """
    Open a model file with the engine that fits the file and the device, and log the choice.

    :param path: an ``.onnx``, ``.engine``, ``.plan`` or ``.safetensors`` file.
    :param backend: one of BACKENDS.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    :param threads: CPU threads for one inference; 0 leaves it to the engine.
    :param engine: how the TensorRT engine of an ``.onnx`` file is made; None: the defaults.
    :param precision: one of PRECISIONS. ``auto``: the file's own, float32 for a checkpoint. Only
        the torch backend can change it; elsewhere it is a demand on the file.
    :param compiled: run a checkpoint through torch.compile; the first call then takes minutes.
    :raises ModelError: the file is missing or not a model, or the backend cannot run it so.
    """
    path = Path(path)
    if backend not in BACKENDS:
        raise ModelError(f'backend must be one of {list(BACKENDS)}, got {backend!r}')
    if not _known(device):
        raise ModelError(f'device must be auto, cpu, cuda or cuda:N, got {device!r}')
    if not isinstance(threads, int) or not 0 <= threads <= MAX_THREADS:
        raise ModelError(
            f'threads must be 0 (automatic) to {MAX_THREADS}, got {threads!r}')
    if path.suffix not in SUFFIXES:
        raise ModelError(
            f'cannot run {str(path)!r}: expected a file that ends in one of '
            f'{sorted(SUFFIXES)} ({MAKE_ONE})')
    if not os.path.isfile(path):  # also where no name may be so long
        raise ModelError(f'no model file at {str(path)!r}; {MAKE_ONE}')
    if precision not in PRECISIONS:
        raise ModelError(f'precision must be one of {list(PRECISIONS)}, got {precision!r}')
    if not os.access(path, os.R_OK):
        raise ModelError(f'{str(path)!r} may not be read by this user; change its permissions')
    able = SUFFIXES[path.suffix]
    if backend != 'auto' and backend not in able:
        raise ModelError(f'backend {backend!r} cannot run {path.name}: use one of {list(able)}')
    chosen, why = (backend, 'asked for') if backend != 'auto' else _choose(able, device)
    _LOG.info('%s runs on %s (%s), precision %s', path.name, chosen, why,
              'as the file is' if precision == 'auto' else f'{precision} (asked for)')
    if compiled and chosen != 'torch':
        raise ModelError(
            f'torch.compile is for checkpoints (.safetensors); {chosen} compiles {path.name} in '
            'its own way')
    try:
        if chosen == 'torch':
            from dgtl_core.runtime.torch import TorchBackend
            return TorchBackend(path, device, threads, precision, compiled)
        if chosen == 'tensorrt':
            from dgtl_core.runtime.tensorrt import open_tensorrt
            try:
                return open_tensorrt(path, device, threads, engine or EngineOptions(), precision)
            except ModelError as error:
                if backend != 'auto' or 'onnxruntime' not in able:
                    raise
                return _fallback(path, device, threads, precision, error)
        from dgtl_core.runtime.onnx import OnnxBackend
        return OnnxBackend(path, device, threads, precision)
    except ImportError as error:
        raise ModelError(
            f'{path.name} cannot run on {chosen}: {error}; {_INSTALL[chosen]}') from None


def _fallback(path: Path, device: str, threads: int, precision: str,
              fault: ModelError) -> Backend:
    """Let ONNX Runtime answer for an engine that there is not, on the CPU if it has to."""
    from dgtl_core.runtime.onnx import OnnxBackend

    _LOG.warning('%s runs on onnxruntime instead: %s', path.name, fault)
    try:
        try:
            opened = OnnxBackend(path, device, threads, precision)
        except ModelError:
            opened = OnnxBackend(path, 'cpu', threads, precision)
    except ModelError as error:
        raise ModelError(f'{fault}; and {error}') from None
    opened.engine = EngineStatus('fallback', reason=str(fault))
    return opened


def check_precision(path: Path, metadata: ModelMetadata, wanted: str) -> None:
    """
    Refuse a file that computes in other types than are asked for.

    :raises ModelError: it does; the message says which, and how to get the others.
    """
    if wanted not in ('auto', metadata.precision):
        raise ModelError(
            f'{path.name} computes in {metadata.precision} and precision {wanted!r} was asked '
            'for; the types lie in the file: take precision "auto", or ' + (
                'make an int8 file of it (docs/deploy.md)' if wanted == 'int8' else
                f'export the checkpoint with "--precision {wanted}"'))


def _known(device: str) -> bool:
    return isinstance(device, str) and bool(
        re.fullmatch(r'auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?', device))


def _choose(able: tuple[str, ...], device: str) -> tuple[str, str]:
    if len(able) == 1:
        return able[0], 'the only backend for this kind of file'
    if device == 'cpu':
        return 'onnxruntime', 'device is cpu'
    from dgtl_core.runtime.tensorrt import tensorrt_fault
    fault = tensorrt_fault(device)
    return ('onnxruntime', fault) if fault else ('tensorrt', 'TensorRT and a GPU are there')
