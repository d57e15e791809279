# SPDX-License-Identifier: Apache-2.0
"""What a model file says about itself: the JSON object under ``metadata_props["dgtl"]``."""

from __future__ import annotations

from dataclasses import dataclass
import json
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
                name=str(data['name']), classes=ClassSet.from_list(data['name'], data['classes']),
                input_size=(height, width), method=str(data['method']),
                backbone=str(data['backbone']), commit=str(data.get('commit', '')),
                source=str(data.get('source', '')), precision=precision)
        except ModelError:
            raise
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f'{where} has broken "{KEY}" metadata ({type(error).__name__}: {error}); '
                f'{MAKE_ONE}') from None
