# SPDX-License-Identifier: Apache-2.0
"""PyTorch on a ``.safetensors`` checkpoint: folded, eager or compiled, 32 or 16 bits."""

from __future__ import annotations

from collections.abc import Callable
import functools
import json
from pathlib import Path
from typing import cast

from dgtl_core.files import file_sha256
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import Precision, PRECISIONS, set_precision
from dgtl_core.model.checkpoint import load_segmenter, read_header
from dgtl_core.model_file import ModelError, ModelMetadata
from dgtl_core.runtime.board import cpu_has_bfloat16
from dgtl_core.runtime.contract import Outputs, RunOptions
import numpy as np
import torch


class TorchBackend:
    """Run a checkpoint without exporting it; the same graph as the model file has."""

    engine, calls = None, 1

    def __init__(self, path: Path, options: RunOptions) -> None:
        """
        Load a checkpoint and fold it.

        The threads are those of the whole process, PyTorch has no others; 0 leaves them as they
        are. bf16 pays on a GPU and on CPUs with AMX or AVX512-BF16, fp16 on a GPU. Compiled on a
        GPU, the calls after the first replay a CUDA graph.

        :raises ModelError: no checkpoint of ours, no such device, or a precision in which this
            device would be slower than in float32.
        """
        self._device = _device(options.device)
        precision = options.precision
        if precision not in ('auto', *PRECISIONS):
            raise ModelError(
                f"a checkpoint runs in one of {['auto', *PRECISIONS]}, got precision "
                f'{precision!r}')
        on_cpu = self._device.type == 'cpu'
        if precision == 'bf16' and on_cpu and not cpu_has_bfloat16():
            raise ModelError(
                'this CPU has neither AMX nor AVX512-BF16, so bfloat16 would be slower than '
                'float32; use precision "fp32"')
        if precision == 'fp16' and on_cpu:
            raise ModelError(
                'float16 is slower than float32 on a CPU; use precision "fp32", or "bf16" where '
                'the CPU has AMX or AVX512-BF16')
        types = cast(Precision, 'fp32' if precision == 'auto' else precision)
        if options.threads:
            torch.set_num_threads(options.threads)
        segmenter, config = load_segmenter(path)
        self.metadata = ModelMetadata.from_json(json.dumps(read_header(path)), str(path))
        folded = fold(segmenter, config.input_size, 'embedding_bag' if on_cpu else 'grid_sample')
        network = LabelNetwork(folded, config.input_size).eval()
        self._network = set_precision(network, types, torch.bfloat16).to(self._device)
        self._call: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = self._network
        if options.compiled:
            self._call = torch.compile(
                self._network, mode='default' if on_cpu else 'max-autotune')
        self.max_batch = 16
        self._path = path
        how = 'compiled ' if options.compiled else ''
        self.name = f'torch ({how}{types}, {self._device})'

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the checkpoint; read when it is first asked for."""
        return file_sha256(self._path)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Outputs:
        """Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8."""
        pictures = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return Outputs(*(output.cpu().numpy() for output in self._call(pictures)))

    def close(self) -> None:
        """Free the network."""
        del self._call, self._network


def _device(device: str) -> torch.device:
    if device == 'cpu' or (device == 'auto' and not torch.cuda.is_available()):
        return torch.device('cpu')
    chosen = torch.device('cuda' if device == 'auto' else device)
    if not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f'device {device!r} was asked for, but PyTorch sees {torch.cuda.device_count()} '
            'CUDA devices; check the driver, or use device "cpu"')
    return chosen
