# SPDX-License-Identifier: Apache-2.0
"""
What a model file says about itself: the JSON object under ``metadata_props["dgtl"]``.

It is read out of an ``.onnx`` without the ``onnx`` package and without the weights; the field
numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import hashlib
import json
import mmap
from pathlib import Path, PurePosixPath
from typing import Any

from dgtl_core.classes import ClassSet
from dgtl_core.files import file_sha256
from dgtl_core.protobuf import mapped, Message
from dgtl_core.strict import shown

KEY = 'dgtl'
FORMAT = 1
MAX_SIDE = 1 << 15  # of a picture, pixels
MAX_BYTES = 1 << 20  # of the JSON text
_MAX_NAME = 4096  # bytes, of a file
_MAX_NESTING = 32  # graphs inside the nodes of graphs
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
    domain: dict[str, Any] | None = None  # what dgtl_core.domain_model reads
    temperature: dict[str, Any] | None = None  # in the graph: dgtl_core.folding.temperature

    def uncalibrated(self) -> list[str]:
        """Say what in the file is not calibrated, each with the command that does it."""
        lines = []
        if self.temperature is None:
            lines.append(
                'the confidence is not calibrated: "python -m training.export CHECKPOINT OUT.onnx '
                '--calibrate DATA" does it, on labelled pictures')
        if self.domain is None:
            lines.append(
                'the verdict on the pictures is not calibrated, fixed limits judge them: "dgtl '
                'calibrate DRIVE... --model FILE --out OUT.onnx" does it, on normal drives')
        return lines

    def to_json(self) -> str:
        """Return the JSON text that is stored in the file."""
        data = {
            'format': FORMAT, 'name': self.name, 'classes': self.classes.to_list(),
            'input_size': list(self.input_size), 'method': self.method,
            'backbone': self.backbone, 'commit': self.commit, 'source': self.source}
        if self.precision != 'fp32':
            data['precision'] = self.precision
        if self.domain is not None:
            data['domain'] = self.domain
        if self.temperature is not None:
            data['temperature'] = self.temperature
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
            if type(data['format']) is not int or data['format'] != FORMAT:
                raise ModelError(
                    f'{where} has metadata format {shown(data["format"])}, this version reads '
                    f'{FORMAT}; {MAKE_ONE}')
            json.dumps(data, ensure_ascii=False).encode()  # half a character is no text
            height, width = data['input_size']
            if not all(type(side) is int and 0 < side <= MAX_SIDE for side in (height, width)):
                raise ValueError(f'input_size {shown(data["input_size"])}')
            precision = data.get('precision', 'fp32')
            if precision not in FILE_PRECISIONS:
                raise ValueError(
                    f'precision {shown(precision)}, known are {list(FILE_PRECISIONS)}')
            classes = [{key: entry[key] for key in ('id', 'name', 'color')}
                       for entry in data['classes']]  # newer files may say more
            return cls(
                name=str(data['name']), classes=ClassSet.from_list(
                    data['name'], classes, data.get('label_mapping')),
                input_size=(height, width), method=str(data['method']),
                backbone=str(data['backbone']), commit=str(data.get('commit', '')),
                source=str(data.get('source', '')), precision=precision,
                domain=data.get('domain'), temperature=data.get('temperature'))
        except ModelError:
            raise
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f'{where} has broken "{KEY}" metadata ({type(error).__name__}: {error!s:.200}); '
                f'{MAKE_ONE}') from None


def onnx_metadata(path: Path) -> ModelMetadata:
    """
    Read our metadata out of an ONNX file.

    :raises ModelError: the file is not ONNX, or has no metadata of ours.
    """
    text = None
    with _onnx(path) as (_, model):
        for entry in model.of(14):  # metadata_props
            pair = dict(entry)
            if 1 in pair and len(pair[1]) == len(KEY) and pair[1].text(len(KEY)) == KEY:
                text = pair[2].text(MAX_BYTES) if 2 in pair else None
    return ModelMetadata.from_json(text, str(path))


def onnx_batch(path: Path) -> int | None:
    """
    Return how many pictures an ONNX file takes in one call; None: any number.

    It is the first dimension of the first input, graph.input[0].type.tensor_type.shape.dim[0].

    :raises ModelError: the file is not ONNX.
    """
    with _onnx(path) as (_, place):
        for number in (7, 11, 2, 1, 2, 1):
            place = place.first(number)
        return place.leading_number(1)  # dim_value; else it has a name, or is not known


def onnx_data(path: Path) -> list[Path]:
    """
    Return the files beside an ONNX file that hold weights of it, as onnx writes large ones.

    :raises ModelError: the file is not ONNX, or one of these is missing or in another folder.
    """
    names: set[str] = set()
    with _onnx(path) as (data, model):
        if data.find(b'location') < 0:  # a key that each of them needs; a fast search
            return []
        tensors = (tensor for number, content in model if number in (7, 25)  # graph, functions
                   for tensor in _tensors(content, 1 if number == 7 else 7, 0))
        for entry in (entry for tensor in tensors for entry in tensor.of(13)):  # external_data
            pair = {number: content.text(_MAX_NAME) for number, content in entry}
            if pair.get(1) == 'location':
                names.add(pair.get(2, ''))
    for name in sorted(names):
        place = PurePosixPath(name)
        if not name or place.is_absolute() or '..' in place.parts or '\\' in name:
            raise ModelError(
                f'{path} keeps weights at {name!r}, outside its own folder, which is refused; '
                f'{MAKE_ONE}')
        if not (path.parent / name).is_file():
            raise ModelError(
                f'{path} keeps weights in {name!r}, which is not beside it: copy both files')
    return [path.parent / name for name in sorted(names)]


def model_sha256(path: Path) -> str:
    """
    Return the sha256 of a model, hexadecimal: of its file, or of that and its weights beside it.

    :raises ModelError: an ``.onnx`` that :func:`onnx_data` refuses.
    """
    parts = onnx_data(path) if path.suffix == '.onnx' else []
    own = file_sha256(path)
    if not parts:
        return own
    return hashlib.sha256('\n'.join([own, *map(file_sha256, parts)]).encode()).hexdigest()


def _tensors(graph: Message, nodes: int, depth: int) -> Iterator[Message]:
    """Yield the tensors of a graph or function, whose nodes have that number, and of the nodes."""
    if depth > _MAX_NESTING:
        raise ValueError(f'graphs lie more than {_MAX_NESTING} deep')
    for number, content in graph:
        if number == 5 and nodes == 1:  # initializer of a graph
            yield content
        elif number == 15 and nodes == 1:  # sparse_initializer: values, indices
            yield from content.of(1, 2)
        elif number == nodes:
            for attribute in content.of(5):
                yield from attribute.of(5, 10)  # t, tensors
                for sparse in attribute.of(22, 23):
                    yield from sparse.of(1, 2)
                for inner in attribute.of(6, 11):  # g, graphs
                    yield from _tensors(inner, 1, depth + 1)


@contextlib.contextmanager
def _onnx(path: Path) -> Iterator[tuple[mmap.mmap, Message]]:
    if path.stat().st_size == 0:
        raise ModelError(f'{path} is empty; copy it again, or {MAKE_ONE}')
    try:
        with mapped(path) as found:
            yield found
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(
            f'{path} is not an ONNX file, or is cut short ({error}); copy it again, or {MAKE_ONE}'
        ) from None
