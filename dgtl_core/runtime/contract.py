# SPDX-License-Identifier: Apache-2.0
"""What every backend keeps: how it is opened, called and asked; and all defaults of that."""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import NamedTuple, Protocol

from dgtl_core.engine.options import EngineOptions
from dgtl_core.model_file import FILE_PRECISIONS, ModelError, ModelMetadata
import numpy as np

BACKENDS = ('auto', 'onnxruntime', 'tensorrt', 'torch')
PRECISIONS = ('auto', *FILE_PRECISIONS)
MAX_THREADS = 256  # thousands of them stop the computer
# Tensors of a model file. It may have more outputs behind these two; we know one of them.
INPUT, OUTPUTS, SIGNATURE = 'image', ('labels', 'confidence'), 'signature'


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a model is run: the only place with defaults for it."""

    backend: str = 'auto'    # one of BACKENDS
    device: str = 'auto'     # auto, cpu, cuda or cuda:N
    precision: str = 'auto'  # one of PRECISIONS; auto: the file's own, float32 for a checkpoint
    threads: int = 0         # CPU threads for one inference; 0 leaves it to the backend
    calls: int = 1           # from several threads at once; see Backend.calls
    compiled: bool = False   # a checkpoint, by torch.compile; the first call takes minutes
    engine: EngineOptions = EngineOptions()  # how the engine of an .onnx file is made

    def __post_init__(self) -> None:
        for name, allowed in (('backend', BACKENDS), ('precision', PRECISIONS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ModelError(f'{name} must be one of {list(allowed)}, got {value!r}')
        if not isinstance(self.device, str) or not re.fullmatch(
                r'auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?', self.device):
            raise ModelError(f'device must be auto, cpu, cuda or cuda:N, got {self.device!r}')
        if type(self.threads) is not int or not 0 <= self.threads <= MAX_THREADS:
            raise ModelError(
                f'threads must be 0 (automatic) to {MAX_THREADS}, got {self.threads!r}')
        if type(self.calls) is not int or not 1 <= self.calls <= MAX_THREADS:
            raise ModelError(f'calls must be 1 to {MAX_THREADS}, got {self.calls!r}')


class EngineStatus(NamedTuple):
    """The TensorRT engine of a model, as it is now."""

    state: str  # 'cached', 'built' by this process, 'building', or 'fallback': there is none
    path: str = ''
    version: str = ''  # of the library: 'tensorrt 10.3.0'
    cuda_version: str = ''
    reason: str = ''  # why there is none


class Outputs(NamedTuple):
    """What one call of a backend gives, for B pictures."""

    labels: np.ndarray      # (B, H, W) uint8
    confidence: np.ndarray  # (B, H, W) uint8, round(255 * probability of the class)
    signature: np.ndarray | None = None  # (B, D) float32; None: the model file has none


class Backend(Protocol):
    """A loaded model: uint8 pictures in, uint8 labels and confidence out."""

    name: str  # what runs it, for people: 'onnxruntime (CPU)'
    metadata: ModelMetadata
    max_batch: int  # the most pictures in one call
    calls: int  # at most as many as were asked for: how many it can answer at once

    @property
    def sha256(self) -> str:
        """The hash of the model file and its data, as it was loaded; hexadecimal."""

    @property
    def engine(self) -> EngineStatus | None:
        """How its TensorRT engine does; None: it has nothing to do with one."""

    def __call__(self, images: np.ndarray) -> Outputs:
        """Shape: (B, H, W, 3) uint8 RGB at input_size -> Outputs of B pictures."""

    def close(self) -> None:
        """Free what the engine holds; the backend cannot be called afterwards."""


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (
        os.cpu_count() or 1)


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
