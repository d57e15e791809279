# SPDX-License-Identifier: Apache-2.0
"""The one call everything else is built around: a picture in, a class for every pixel out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
import time
from typing import NamedTuple

from dgtl_core.classes import ClassSet
from dgtl_core.engine.options import EngineOptions
from dgtl_core.files import file_sha256, shipped
from dgtl_core.model_file import ModelError, ModelMetadata, onnx_metadata
from dgtl_core.processing import place, Placement, RESIZE_MODES, to_input, to_source
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import (
    Backend,
    BACKENDS,
    EngineStatus,
    MAX_THREADS,
    PRECISIONS,
    RunOptions,
)
from dgtl_core.zoo.cache import find_model
import numpy as np

__all__ = [
    'BACKENDS', 'default_model', 'EngineOptions', 'EngineStatus', 'file_sha256', 'find_model',
    'LabelledFrame', 'MAX_THREADS', 'ModelError', 'ModelMetadata', 'onnx_metadata', 'PRECISIONS',
    'Predictor', 'RunOptions', 'Segmentation', 'Timing']

_DEFAULT = 'dgtl_mini.onnx'


class _Maps(NamedTuple):
    labels: np.ndarray      # class ids; 255 = unlabelled
    confidence: np.ndarray  # round(255 * probability of the class), as the model file gives it


class Segmentation(_Maps):
    """
    Labels of one picture. Shape: (H, W) uint8 each, the size of the picture.

    Beside the two that it consists of it has the ``signature`` of the picture, (D,) float32: what
    :mod:`dgtl_core.domain` judges; None where the model file gives none.
    """

    signature: np.ndarray | None = None


class LabelledFrame(NamedTuple):
    """A frame of a recorded source with its labels; all of one size."""

    name: str               # a relative path without a suffix
    stamp: int | None       # nanoseconds; None: not known
    image: np.ndarray       # (H, W, 3) uint8 RGB
    labels: np.ndarray      # as of Segmentation
    confidence: np.ndarray


class Prepared(NamedTuple):
    """A picture as the network takes it, and where it lies in there."""

    input: np.ndarray  # (h, w, 3) uint8 RGB
    placement: Placement


class Timing(NamedTuple):
    """Where the time of one call went, milliseconds."""

    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


class Predictor:
    """
    A loaded model that labels pictures.

    >>> predict = Predictor.load()  # the embedded demonstration model
    >>> labels, confidence = predict(rgb)
    """

    def __init__(self, backend: Backend, resize_mode: str = 'stretch') -> None:
        if resize_mode not in RESIZE_MODES:
            raise ValueError(
                f'resize_mode must be one of {list(RESIZE_MODES)}, got {resize_mode!r}')
        self._backend = backend
        self._mode = resize_mode
        self._closed = False

    @classmethod
    def load(cls, path: str | Path | None = None, backend: str = RunOptions.backend,
             device: str = RunOptions.device, threads: int = RunOptions.threads,
             resize_mode: str = 'stretch', engine: EngineOptions = RunOptions.engine,
             precision: str = RunOptions.precision,
             compiled: bool = RunOptions.compiled,
             calls: int = RunOptions.calls) -> Predictor:
        """
        Load a model file.

        :param path: ``.onnx``, ``.engine`` or ``.safetensors``, or the name of fetched weights;
            None: the embedded default.
        :param backend: ``auto``, ``onnxruntime``, ``tensorrt`` or ``torch``.
        :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        :param threads: CPU threads for one inference; 0 leaves it to the engine.
        :param resize_mode: ``stretch``, ``letterbox`` or ``crop``.
        :param engine: how the TensorRT engine of an ``.onnx`` file is made.
        :param precision: ``auto`` (as the file is), ``fp32``, ``fp16`` or ``bf16``; only a
            checkpoint can be run in another than its own.
        :param compiled: run a checkpoint through torch.compile; the first call takes minutes.
        :param calls: how many threads are to label at once, which on a CPU is faster than one
            with many threads of its own; what is possible is in :attr:`calls`.
        :raises ModelError: the file is missing, not a model, or cannot run here.
        """
        found = default_model() if path is None else find_model(path)
        options = RunOptions(
            backend=backend, device=device, threads=threads, engine=engine, precision=precision,
            compiled=compiled, calls=calls)
        return cls(open_backend(found, options), resize_mode)

    @property
    def classes(self) -> ClassSet:
        """The classes whose ids the labels hold."""
        return self.metadata.classes

    @property
    def metadata(self) -> ModelMetadata:
        """What the model file says about itself."""
        return self._backend.metadata

    @property
    def sha256(self) -> str:
        """The hash of the model file and of its data beside it, hexadecimal."""
        return self._backend.sha256

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) at which the network sees a picture, pixels."""
        return self.metadata.input_size

    @property
    def backend_name(self) -> str:
        """What runs the model, for people; changes when its engine is built."""
        return self._backend.name

    @property
    def max_batch(self) -> int:
        """The most pictures in one call of the network."""
        return self._backend.max_batch

    @property
    def calls(self) -> int:
        """How many threads may label at once."""
        return self._backend.calls

    @property
    def engine(self) -> EngineStatus | None:
        """How the model's TensorRT engine does now; None: it needs none."""
        return self._backend.engine

    def seen(self, image: np.ndarray) -> np.ndarray:
        """
        Return the picture as the network sees it; its labels have that size too.

        Shape: (H, W, 3) uint8 RGB -> (h, w, 3) uint8 RGB, :attr:`input_size`.
        """
        return self.prepare(image).input

    def prepare(self, image: np.ndarray) -> Prepared:
        """
        Bring a picture to the network's size, for :meth:`timed_many`.

        Another thread can do so while the network is busy with the picture before.

        :raises ValueError: the array is no (H, W, 3) uint8 picture.
        """
        placement = place(_size(image), self.input_size, self._mode)
        return Prepared(to_input(image, placement), placement)

    def __call__(self, image: np.ndarray) -> Segmentation:
        """
        Label one picture.

        Shape: (H, W, 3) uint8 RGB -> Segmentation of (H, W) uint8.

        :raises ValueError: the array is not such a picture.
        """
        return self.timed(image)[0]

    def timed(self, image: np.ndarray) -> tuple[Segmentation, Timing]:
        """Label one picture and say where the time went."""
        results, timing = self.timed_many([image])
        return results[0], timing

    def many(self, images: Iterable[np.ndarray]) -> list[Segmentation]:
        """
        Label several pictures, in as few calls of the network as its batch size allows.

        The pictures may differ in size. An empty sequence gives an empty list.
        """
        return self.timed_many(images)[0]

    def timed_many(self, images: Iterable[np.ndarray | Prepared],
                   ) -> tuple[list[Segmentation], Timing]:
        """
        Label several pictures and say where the time went, of all of them together.

        :param images: pictures, or what :meth:`prepare` made of them.
        :raises ModelError: the model was closed.
        """
        if self._closed:
            raise ModelError('this model was closed and cannot label pictures; load it again')
        start = time.perf_counter()
        prepared = [image if isinstance(image, Prepared) else self.prepare(image)
                    for image in images]
        preprocess, infer, postprocess = time.perf_counter() - start, 0.0, 0.0
        results: list[Segmentation] = []
        for first in range(0, len(prepared), self.max_batch):
            part = prepared[first:first + self.max_batch]
            start = time.perf_counter()
            inputs = [picture.input for picture in part]
            batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
            ready = time.perf_counter()
            found = self._backend(batch)
            done = time.perf_counter()
            for index, (_, placement) in enumerate(part):
                results.append(Segmentation(
                    to_source(found.labels[index], placement),
                    to_source(found.confidence[index], placement, fill=0)))
                if found.signature is not None:
                    results[-1].signature = found.signature[index]
            end = time.perf_counter()
            preprocess, infer, postprocess = (
                preprocess + ready - start, infer + done - ready, postprocess + end - done)
        return results, Timing(preprocess * 1e3, infer * 1e3, postprocess * 1e3)

    def stream(self, *sources: str | Path, topics: Sequence[str] = (), stride: int = 1,
               limit: int = 0) -> Iterator[LabelledFrame]:
        """
        Label the frames of pictures, folders, globs, videos, cameras and bags, one by one.

        >>> for frame in predict.stream('drive.mp4', stride=10):
        ...     print(frame.name, (frame.labels == 0).mean())

        What cannot be read is passed over with a warning in the log. Bags need ``rosbags``.

        :param topics: of the bags to take pictures from; none: the only one that has any.
        :param stride: label each ``stride``-th frame.
        :param limit: the most frames of each camera of each source; 0: all.
        :raises ValueError: a source names nothing that can be read.
        """
        from dgtl_core.recorded.sources import frames, open_sources

        for frame in frames(open_sources(sources, topics), stride, limit):
            yield LabelledFrame(frame.name, frame.stamp, frame.image, *self(frame.image))

    def close(self) -> None:
        """Free the engine; what is closed may be closed again."""
        if not self._closed:
            self._closed = True
            self._backend.close()


def default_model() -> Path:
    """
    Find the embedded demonstration model: in the source tree, or where it was installed.

    :raises ModelError: it is in none of the places; the message lists them.
    """
    try:
        return shipped(_DEFAULT)
    except FileNotFoundError as error:
        raise ModelError(f'the embedded model {error}, or name a model file') from None


def _size(image: np.ndarray) -> tuple[int, int]:
    if (not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or
            image.shape[2] != 3 or 0 in image.shape):
        got = (f'{image.dtype} {image.shape}' if isinstance(image, np.ndarray)
               else type(image).__name__)
        raise ValueError(f'a picture must be an (H, W, 3) uint8 RGB array, got {got}')
    return image.shape[0], image.shape[1]
