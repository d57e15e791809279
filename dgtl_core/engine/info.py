# SPDX-License-Identifier: Apache-2.0
"""
What lies beside a TensorRT engine: ``X.engine.json`` next to ``X.engine``.

An engine has no room for the class names, and does not say for which GPU it was made before it
fails there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
import json
from pathlib import Path
from typing import Any

from dgtl_core.files import file_sha256
from dgtl_core.model_file import MAX_BYTES, ModelError, ModelMetadata

FORMAT = 1
BUILD_ONE = 'build one with "dgtl engine MODEL.onnx"'


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
            with open(path, encoding='utf-8') as file:
                text = file.read(MAX_BYTES + 1)
            if len(text) > MAX_BYTES:
                raise ModelError(f'{path} is longer than {MAX_BYTES} bytes; {BUILD_ONE}')
            data = json.loads(text)
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
        except ModelError:
            raise
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f'{path} does not describe an engine ({type(error).__name__}: {error!s:.200}); '
                f'{BUILD_ONE}') from None
        if file_sha256(engine) != info.engine_sha256:
            raise ModelError(
                f'{engine} is not the engine that {path.name} describes: it is cut short or from '
                f'another build; copy both again, or {BUILD_ONE}')
        return info


def side_file(engine: Path) -> Path:
    """Return where the description of an engine lies."""
    return engine.with_name(f'{engine.name}.json')
