# SPDX-License-Identifier: Apache-2.0
"""
What lies beside a TensorRT engine: ``X.engine.json`` next to ``X.engine``.

An engine has no room for the class names, and does not say for which GPU it was made before it
fails there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
from dataclasses import dataclass, field, fields
import json
import mmap
from pathlib import Path
from typing import Any

from dgtl_core.engine.cache import file_sha256
from dgtl_core.model_file import KEY, MAKE_ONE, ModelError, ModelMetadata

FORMAT = 1
BUILD_ONE = 'build one with "python -m dgtl_core.engine.build MODEL.onnx OUT.engine"'


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """An engine's origin, and where it runs."""

    metadata: ModelMetadata
    module: str   # 'tensorrt' or 'tensorrt_rtx'
    version: str  # of the module
    gpu: str      # '' for an engine that was built without one (TensorRT-RTX)
    compute_capability: str
    precision: str
    model_sha256: str
    engine_sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)
    labels_equal: float | None = None  # share of pixels as ONNX Runtime labels them; None: unknown

    def to_json(self) -> str:
        """Return the text of the side file."""
        text = {f.name: getattr(self, f.name) for f in fields(self)}
        text['metadata'] = json.loads(self.metadata.to_json())
        return json.dumps({'format': FORMAT, **text}, indent=1)

    @classmethod
    def beside(cls, engine: Path) -> EngineInfo:
        """
        Read the side file of an engine and check that the two belong together.

        :raises ModelError: it is missing or broken, or the engine is not the one it describes.
        """
        path = side_file(engine)
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
            if data.pop('format') != FORMAT:
                raise ModelError(f'{path} has another format than {FORMAT}; {BUILD_ONE}')
            metadata = ModelMetadata.from_json(json.dumps(data.pop('metadata')), str(path))
            info = cls(metadata=metadata, **data)
            texts = {f.name: getattr(info, f.name) for f in fields(cls) if f.type == 'str'}
            wrong = [name for name, value in texts.items() if not isinstance(value, str)]
            if wrong or not isinstance(info.options, dict):
                raise TypeError(f'{", ".join(wrong) or "options"} of another type')
        except FileNotFoundError:
            raise ModelError(
                f'{engine} has no {path.name} beside it, so its classes and its GPU are unknown; '
                f'copy both, or {BUILD_ONE}') from None
        except OSError as error:
            raise ModelError(f'{path} cannot be read: {error.strerror}') from None
        except (AttributeError, KeyError, RecursionError, TypeError, UnicodeDecodeError,
                json.JSONDecodeError) as error:
            raise ModelError(
                f'{path} does not describe an engine ({type(error).__name__}: {error}); '
                f'{BUILD_ONE}') from None
        if file_sha256(engine) != info.engine_sha256:
            raise ModelError(
                f'{engine} is not the engine that {path.name} describes: it is cut short or from '
                f'another build; copy both again, or {BUILD_ONE}')
        return info


def side_file(engine: Path) -> Path:
    """Return where the description of an engine lies."""
    return engine.with_name(f'{engine.name}.json')


def onnx_metadata(path: Path) -> ModelMetadata:
    """
    Read our metadata out of an ONNX file, without the ``onnx`` package and without the weights.

    A ModelProto is a list of (field number, content); metadata_props is field 14 (onnx.proto).

    :raises ModelError: the file is not ONNX, or has no metadata of ours.
    """
    text = None
    with _model(path) as (data, whole):
        for number, entry in _fields(data, whole):
            if number == 14:
                pair = {n: data[part].decode() for n, part in _fields(data, entry)}
                if pair.get(1) == KEY:
                    text = pair.get(2)
    return ModelMetadata.from_json(text, str(path))


def onnx_batch(path: Path) -> int | None:
    """
    Return how many pictures an ONNX file takes in one call; None: any number.

    It is the first dimension of the first input, graph.input[0].type.tensor_type.shape.dim[0].

    :raises ModelError: the file is not ONNX.
    """
    with _model(path) as (data, place):
        for number in (7, 11, 2, 1, 2, 1):
            place = next(part for n, part in _fields(data, place) if n == number)
        if data[place][:1] != b'\x08':  # dim_value; else it has a name, or is not known
            return None
        return _varint(data, place.start + 1)[0]


@contextlib.contextmanager
def _model(path: Path) -> Iterator[tuple[mmap.mmap, slice]]:
    if path.stat().st_size == 0:
        raise ModelError(f'{path} is empty; copy it again, or {MAKE_ONE}')
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            yield data, slice(0, len(data))
        except (IndexError, StopIteration, ValueError):
            raise ModelError(
                f'{path} is not an ONNX file, or is cut short; copy it again, or {MAKE_ONE}'
            ) from None


def _fields(data: mmap.mmap, message: slice) -> Iterator[tuple[int, slice]]:
    """Yield number and place of the fields of one protobuf message that have a length."""
    at, end = message.start, message.stop
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError('a field ends behind the message')
            yield key >> 3, slice(at, at + size)
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f'unknown wire type {kind}')


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError('a number of more than 64 bits')
