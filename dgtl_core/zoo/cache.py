# SPDX-License-Identifier: Apache-2.0
"""
The folder of fetched weights: ``$XDG_CACHE_HOME/dgtl_ros/weights`` or ``~/.cache/...``.

A subfolder for each name holds the published file, ``record.json`` with where it came from and its
hash, and of a model what was made of it: ``NAME.safetensors`` and ``NAME.onnx``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import re

from dgtl_core.files import write_atomically
from dgtl_core.model_file import ModelError
from dgtl_core.strict import closest

_MAX_RECORD = 1 << 16  # bytes
_NAME = re.compile(r'[a-z0-9][a-z0-9+.-]{0,63}')
_SHA256 = re.compile(r'[0-9a-f]{64}')


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where a fetched file came from, and what it is."""

    file: str
    size: int
    sha256: str
    source: str  # its address, or 'a file of the user'
    licence: str
    fetched: str  # the day, 2026-11-26


def weights_folder() -> Path:
    """
    Return the folder of all fetched weights; it need not be there yet.

    :raises ValueError: this user has no home folder and XDG_CACHE_HOME is not set.
    """
    given = os.environ.get('XDG_CACHE_HOME', '')
    try:  # the XDG rule: a relative path is not valid and is passed over
        base = Path(given) if os.path.isabs(given) else Path('~/.cache').expanduser()
    except RuntimeError as error:
        raise ValueError(
            f'there is no place for fetched weights ({error}); set XDG_CACHE_HOME to a folder'
        ) from None
    return base / 'dgtl_ros' / 'weights'


def read_record(name: str) -> Record | None:
    """Return what is known about the fetched file of that name; None: nothing, or damaged."""
    path = weights_folder() / name / 'record.json'
    try:
        with open(path, 'rb') as file:
            data = json.loads(file.read(_MAX_RECORD))
        record = Record(**data)
    except (OSError, RecursionError, TypeError, ValueError):
        return None
    texts = (record.file, record.sha256, record.source, record.licence, record.fetched)
    if not all(isinstance(text, str) for text in texts) or type(record.size) is not int \
            or os.path.basename(record.file) != record.file or not record.file \
            or not _SHA256.fullmatch(record.sha256):
        return None
    return record


def write_record(name: str, record: Record) -> None:
    """Remember a fetched file; :raises OSError: the folder cannot be written."""
    write_atomically(weights_folder() / name / 'record.json', json.dumps(asdict(record), indent=1))


def fetched_file(name: str) -> Path | None:
    """Return the published file of that name if it is here and has the size it had."""
    record = read_record(name)
    if record is None:
        return None
    path = weights_folder() / name / record.file
    try:
        return path if path.stat().st_size == record.size else None
    except OSError:
        return None


def made_file(name: str, suffix: str = '.onnx') -> Path:
    """Return where the file lies that is made of the published one."""
    return weights_folder() / name / f'{name}{suffix}'


def find_model(model: str | Path) -> Path:
    """
    Return the model file that a path or the name of fetched weights stands for.

    Nothing is downloaded. What is neither a file nor a name comes back as the path it is.

    :raises ModelError: it is, or nearly is, a name, and what it stands for is not here.
    """
    text = str(model)
    path = Path(os.path.expanduser(model))
    if not _NAME.fullmatch(text) or path.exists():
        return path
    try:
        fetched = made_file(text)
        if fetched.is_file():
            return fetched
        from dgtl_core.zoo.entries import published
        entry = published().get(text)
    except (OSError, ValueError):  # no home, no list: then there are no names
        return path
    if entry is not None and entry.kind != 'model':
        raise ModelError(f'{text} is a {entry.kind}, not a model that labels pictures')
    if entry is not None:
        raise ModelError(
            f'the weights {text} are not on this machine; run "dgtl fetch {text}" first')
    near = closest(text, published(), 0.8)
    if near and not path.suffix:
        raise ModelError(f'there is no model {text!r}; did you mean {near}?')
    return path
