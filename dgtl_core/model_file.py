# SPDX-License-Identifier: Apache-2.0
"""
What a model file says about itself: the JSON object under ``metadata_props["dgtl"]``.

It is read out of an ``.onnx`` without the ``onnx`` package.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import json
import mmap
from pathlib import Path
from typing import Any

from dgtl_core.classes import ClassSet

KEY = 'dgtl'
FORMAT = 1
FILE_PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')  # of the products in a file
MAKE_ONE = 'make one with "python -m training.export CHECKPOINT OUT.onnx"'


class ModelError(ValueError):
    """A model file that cannot be used; the message says what was got and what to do."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Everything that must be known to use a model; sizes are (height, width) in pixels."""

    name: str
    classes: ClassSet
    input_size: tuple[int, int]
    method: str
    backbone: str
    commit: str = ''
    source: str = ''
    precision: str = 'fp32'  # of the products; an engine computes in the types of the file

    def to_json(self) -> str:
        """Return the JSON text that is stored in the file."""
        data = {
            'format': FORMAT, 'name': self.name, 'classes': self.classes.to_list(),
            'input_size': list(self.input_size), 'method': self.method,
            'backbone': self.backbone, 'commit': self.commit, 'source': self.source}
        if self.precision != 'fp32':
            data['precision'] = self.precision
        if self.classes.mapping:  # of the label pictures that were learned from
            data['label_mapping'] = self.classes.mapping.to_dict(self.classes.names)
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str | None, where: str) -> ModelMetadata:
        """
        Read the JSON text of a model file; ``where`` names the file in errors.

        :raises ModelError: there is none, or it does not say what it must.
        """
        if not text:
            raise ModelError(
                f'{where} has no "{KEY}" metadata, so its classes are unknown; {MAKE_ONE}')
        try:
            data: Any = json.loads(text)
            if data['format'] != FORMAT:
                raise ModelError(
                    f'{where} has metadata format {data["format"]!r}, this version reads '
                    f'{FORMAT}; {MAKE_ONE}')
            height, width = data['input_size']
            if not all(isinstance(side, int) and side > 0 for side in (height, width)):
                raise ValueError(f'input_size {data["input_size"]}')
            precision = data.get('precision', 'fp32')
            if precision not in FILE_PRECISIONS:
                raise ValueError(f'precision {precision!r}, known are {list(FILE_PRECISIONS)}')
            return cls(
                name=str(data['name']), classes=ClassSet.from_list(
                    data['name'], data['classes'], data.get('label_mapping')),
                input_size=(height, width), method=str(data['method']),
                backbone=str(data['backbone']), commit=str(data.get('commit', '')),
                source=str(data.get('source', '')), precision=precision)
        except ModelError:
            raise
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f'{where} has broken "{KEY}" metadata ({type(error).__name__}: {error}); '
                f'{MAKE_ONE}') from None


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
