# SPDX-License-Identifier: Apache-2.0
"""``dgtl info MODEL``: what a model file says about itself; nothing is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
from typing import Any

from dgtl_core.engine.info import EngineInfo
from dgtl_core.model_file import model_sha256, ModelError, ModelMetadata
from dgtl_core.predictor import default_model, onnx_metadata
from dgtl_core.zoo.cache import find_model


def describe(path: Path) -> dict[str, Any]:
    """
    Return what a model file says about itself, with its size and hash.

    The keys are those of the file's metadata, and ``file``, ``bytes`` and ``sha256``; an engine
    has an ``engine`` with what it was built for.

    :raises ModelError: it is not one of our model files.
    """
    if not path.is_file():
        raise ModelError(f'there is no model file {str(path)!r}; name a .onnx, .engine or '
                         '.safetensors file')
    engine = None
    if path.suffix == '.onnx':
        said = json.loads(onnx_metadata(path).to_json())
    elif path.suffix in ('.engine', '.plan'):
        info = EngineInfo.beside(path)
        said = json.loads(info.metadata.to_json())
        engine = {key: value for key, value in json.loads(info.to_json()).items()
                  if key not in ('format', 'metadata')}
    elif path.suffix == '.safetensors':
        from dgtl_core.model.checkpoint import read_header
        said = read_header(path)
    else:
        raise ModelError(f'{path} is not a model file: its name must end in .onnx, .engine, .plan '
                         'or .safetensors')
    return {'file': str(path), 'bytes': path.stat().st_size, 'sha256': model_sha256(path), **said,
            **({'engine': engine} if engine else {})}


def info_text(told: dict[str, Any], color: bool) -> str:
    """Return the description as lines for people; ``color``: show the colours on a terminal."""
    height, width = told['input_size']
    lines = [
        ('file', f'{told["file"]} ({told["bytes"] / 1e6:.1f} MB)'), ('sha256', told['sha256']),
        ('name', told['name']), ('method', told['method']), ('backbone', told['backbone']),
        ('input', f'{height} x {width} pixels (height x width)'),
        ('precision', told.get('precision', 'fp32'))]
    known = {'file', 'bytes', 'sha256', 'name', 'method', 'backbone', 'input_size', 'precision',
             'classes', 'format', 'temperature', 'domain'}
    lines += [(key, _short(value)) for key, value in told.items() if key not in known and value]
    lines += _calibrated(told)
    text = '\n'.join(f'{key:<10} {value}' for key, value in lines)
    text += f'\nclasses    {len(told["classes"])}'
    for entry in told['classes']:
        r, g, b = entry['color']
        patch = f'\x1b[48;2;{r};{g};{b}m  \x1b[0m ' if color else ''
        text += f'\n  {entry["id"]:>3} {patch}{entry["name"]:<20} {r:>3} {g:>3} {b:>3}'
    return text


def _calibrated(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What the confidence and the verdict on the pictures stand on, or what calibrates them."""
    metadata = ModelMetadata.from_json(json.dumps(told), told['file'])
    lines = []
    if metadata.temperature is not None:
        at = metadata.temperature
        lines.append(('confidence', f'calibrated on {at.get("data", "pictures")}: temperature '
                      f'{at["certain"]:.2f} where a picture is certain, {at["uncertain"]:.2f} '
                      'where nothing is'))
    if metadata.domain is not None:
        from dgtl_core.domain_model import DomainError, DomainModel

        try:
            model = DomainModel.from_dict(metadata.domain)
        except DomainError as error:
            lines.append(('verdict', str(error)))
        else:
            lines.append(('verdict', (
                f'fitted on {sum(d.pictures for d in model.drives)} pictures of '
                f'{len(model.drives)} drives; {model.false_alarms:.1%} of the windows of a '
                f'{model.cross_validated} that was left out were false alarms; finds '
                f'{", ".join(model.channels)}')))
    return lines + [('note', line) for line in metadata.uncalibrated()]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f'{text[:200]}... (all of it with --json)'


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='dgtl info', description='Show what a model file says about itself: its classes and '
        'their colours, its input size, how and of what it was made, and its hash. Nothing is '
        'run.')
    parser.add_argument('model', nargs='?', metavar='MODEL',
                        help='an .onnx, .engine or .safetensors file, or the name of fetched '
                             'weights (the embedded model)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    args = parser.parse_args(arguments)
    told = describe(default_model() if args.model is None else find_model(args.model))
    print(json.dumps(told) if args.json else info_text(told, sys.stdout.isatty()))
    return 0
