# SPDX-License-Identifier: Apache-2.0
"""
What a benchmark can time: a model in a form, a precision and a backend.

A contender is written MODEL[:WORD]..., where MODEL is a preset (random weights), a checkpoint or a
model file, and the words choose how a preset or checkpoint runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
import time
from typing import Any, cast

from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.engine.options import EngineOptions
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import Precision, set_precision
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import build_segmenter, Segmenter, slide
from dgtl_core.runtime.backend import open_backend, SUFFIXES
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.strict import suggestion
import numpy as np
import torch
from torch import nn, Tensor
from training.bench.released_eager import ReleasedSegmenter
from training.device import choose_device

Size = tuple[int, int]
RELEASED = 'released-eager'
WORDS: dict[str, dict[str, Any]] = {
    'folded': {'form': 'folded'}, 'unfolded': {'form': 'unfolded'}, RELEASED: {'form': RELEASED},
    'fp32': {'precision': 'fp32'}, 'bf16': {'precision': 'bf16'}, 'fp16': {'precision': 'fp16'},
    'eager': {'compiled': False}, 'compiled': {'compiled': True},
    'whole': {'slide': False}, 'slide': {'slide': True}}
_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How a model is to be run."""

    model: str
    form: str = 'folded'
    precision: Precision = 'fp32'
    compiled: bool = False
    slide: bool = False  # a picture larger than the network's window is seen through windows

    @property
    def is_file(self) -> bool:
        """Whether a backend runs it: no preset and no checkpoint."""
        suffix = Path(self.model).suffix
        return suffix in SUFFIXES and suffix != '.safetensors'

    @property
    def dtype(self) -> torch.dtype:
        """What it multiplies in."""
        return _DTYPES[self.precision]

    @property
    def name(self) -> str:
        """For people."""
        short = Path(self.model).name
        if self.is_file:
            return short
        if self.form == RELEASED:
            return f'{short}: {RELEASED}'
        words = [self.form, self.precision, *(['compiled'] if self.compiled else []),
                 *(['slide'] if self.slide else [])]
        return f'{short}: {" ".join(words)}'


def parse(text: str, defaults: Spec) -> Spec:
    """
    Read MODEL[:WORD]...; what no word says is as in ``defaults``.

    :raises ValueError: an unknown word, or words for a file whose form is fixed.
    """
    model, *words = text.split(':')
    changes: dict[str, Any] = {}
    for word in words:
        if word not in WORDS:
            raise ValueError(f'unknown word {word!r} in {text!r}{suggestion(word, WORDS)}')
        changes.update(WORDS[word])
    spec = replace(defaults, model=model, **changes)
    if spec.is_file and words:
        raise ValueError(f'{model} runs as it was exported; leave {":".join(words)!r} out')
    if spec.form == RELEASED:
        if not {'bf16', 'fp16', 'compiled', 'whole'}.isdisjoint(words):
            raise ValueError(f'{RELEASED} is plain float32 through windows; got {text!r}')
        spec = released(spec)
    return spec


@dataclass
class Contender:
    """Something that labels a batch of uint8 pictures, and what was measured of it."""

    name: str
    call: Callable[[np.ndarray], object]
    input_size: Size
    max_batch: int = 1
    load_s: float = 0.0
    spec: Spec | None = None
    network: nn.Module | None = None  # torch: uint8 (B, H, W, 3) -> labels
    device: torch.device = torch.device('cpu')
    on_cpu: bool = True  # of a model file, whose device PyTorch need not know
    times: dict[int, list[float]] = field(default_factory=dict)  # batch -> seconds of each call
    cpu: dict[int, list[float]] = field(default_factory=dict)
    gpu: dict[int, list[float]] = field(default_factory=dict)  # of the network alone
    peak_mib: float = 0.0

    def eager(self) -> TorchCall:
        """Return the call of its network that is not compiled."""
        assert self.network is not None and isinstance(self.call, TorchCall)
        return TorchCall(self.network, self.device, self.call.autocast)


class Unfolded(nn.Module):
    """A segmenter as it is trained, or in released form, from uint8 pictures to labels."""

    def __init__(self, segmenter: Segmenter | ReleasedSegmenter, windows: bool) -> None:
        super().__init__()
        config = segmenter.config
        self.segmenter = segmenter
        self.windows = (config.input_size, config.window_stride) if windows else None
        self.normalize = Normalization(config)

    def forward(self, pictures: Tensor) -> Tensor:
        """Shape: (B, H, W, 3) uint8 -> (B, H, W) uint8."""
        return self.scores(pictures).argmax(dim=1).to(torch.uint8)

    def scores(self, pictures: Tensor) -> Tensor:
        """Shape: (B, H, W, 3) uint8 -> (B, K, H, W)."""
        images = self.normalize(pictures.permute(0, 3, 1, 2))
        if self.windows is None or images.shape[-2:] == self.windows[0]:
            return self.segmenter.scores(images)
        return slide(self.segmenter.scores, images, *self.windows)


class TorchCall:
    """Call a torch network with numpy pictures; ``gpu_s`` is its last time on the GPU."""

    def __init__(self, network: Callable[[Tensor], Any], device: torch.device,
                 autocast: torch.dtype | None) -> None:
        self._network, self._device, self.autocast = network, device, autocast
        self.gpu_s: float | None = None

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> object:
        """Shape: (B, H, W, 3) uint8 -> labels on the host, so that all work is done."""
        pictures = torch.from_numpy(images).to(self._device)
        kind = self._device.type
        with torch.autocast(kind, self.autocast, enabled=self.autocast is not None):
            if kind == 'cpu':
                return self._network(pictures)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            found = self._network(pictures)
            end.record()
        labels = (found[0] if isinstance(found, tuple) else found).cpu()
        self.gpu_s = begin.elapsed_time(end) / 1e3
        return labels


def open_model(name: str, cache: dict[str, Segmenter]) -> tuple[Segmenter, SegmenterConfig]:
    """
    Return the segmenter of a preset, with random weights, or of a checkpoint; each only once.

    :raises ValueError: neither of them; the message suggests a preset.
    """
    if name not in cache:
        if Path(name).suffix == '.safetensors':
            cache[name] = load_segmenter(Path(name))[0]
        else:
            torch.manual_seed(0)
            cache[name] = build_segmenter(preset(name)).eval()
    return cache[name], cache[name].config


def open_contender(
        spec: Spec, size: Size | None, device: str, threads: int, backend: str,
        cache: dict[str, Segmenter], batch: int = 1) -> Contender:
    """
    Load a model and bring it into its form.

    :param batch: the most pictures that it will get in one call.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A model file needs no PyTorch that
        knows the GPU.
    :raises ValueError: a model that is none, or a size that it does not take.
    """
    start = time.perf_counter()
    if spec.is_file:
        # An engine that is built in the background would be another contender half-way.
        runner = open_backend(spec.model, RunOptions(
            backend=backend, device=device, threads=threads,
            engine=EngineOptions(build='blocking', max_batch=batch)))
        if size is not None and runner.metadata.input_size != size:
            raise ValueError(
                f'{spec.model} takes pictures of {_text(runner.metadata.input_size)}, and --size '
                f'asks for {_text(size)}: export it for that size, or leave --size out')
        return Contender(
            f'{spec.name}: {runner.name}', runner, runner.metadata.input_size, runner.max_batch,
            time.perf_counter() - start,
            replace(spec, precision=cast(Precision, runner.metadata.precision)),
            on_cpu='CPU' in runner.name)
    where = choose_device(device)
    segmenter, config = open_model(spec.model, cache)
    size = size or config.input_size
    windows = spec.slide and size != config.input_size
    network: nn.Module
    if spec.form == 'folded':
        # The form that the torch backend takes too.
        folded = fold(
            segmenter, config.input_size if windows else size,
            'embedding_bag' if where.type == 'cpu' else 'grid_sample')
        network = set_precision(
            LabelNetwork(folded, size, config.window_stride if windows else None),
            spec.precision, torch.bfloat16)
    else:
        segmenter.backbone.grid_of(config.input_size if windows else size)  # a clear error
        released = spec.form == RELEASED
        network = Unfolded(ReleasedSegmenter(segmenter) if released else segmenter, windows)
    network = network.eval().to(where)
    autocast = spec.dtype if spec.form == 'unfolded' and spec.precision != 'fp32' else None
    call: Callable[[Tensor], Any] = network
    if spec.compiled:
        call = torch.compile(network, mode=None if where.type == 'cpu' else 'reduce-overhead')
    return Contender(
        spec.name, TorchCall(call, where, autocast), size, 16, time.perf_counter() - start, spec,
        network, where)


def released(spec: Spec) -> Spec:
    """Return the released form of a model: float32, not compiled, larger pictures by windows."""
    return replace(spec, form=RELEASED, precision='fp32', compiled=False, slide=True)


def _text(size: Size) -> str:
    return f'{size[0]}x{size[1]}'
