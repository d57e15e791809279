# SPDX-License-Identifier: Apache-2.0
"""The published weights that have a name: ``models/zoo.yaml``, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
import re
from typing import Literal
from urllib.parse import unquote, urlsplit

from dgtl_core.files import shipped
from dgtl_core.strict import closest, from_dict, read_yaml

_MAX_SIZE = 16 << 30  # of one file
_NAME = re.compile(r'[a-z0-9][a-z0-9+.-]{0,63}')
_CLASSES = re.compile(r'[a-z0-9_]*')
_SHA256 = re.compile(r'[0-9a-f]{64}')


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published file and what is known about it."""

    name: str
    kind: Literal['model', 'backbone', 'text']  # text: a CLIP, for the texts of classes
    backbone: str  # the network: dinov2-l, eva02-l; of a text: its name in open_clip
    trained_on: str
    licence: str
    method: str = ''  # of a model: rein, dgtl, vltseg, soma, eomt
    score: str = ''  # as its authors publish it, in percent; mIoU where it does not say PQ
    note: str = ''  # what to know about the licence besides its name
    accept: bool = False  # non-commercial, gated or unclear: the user has to say yes
    needs: str = ''  # the entry of the backbone, where the file holds only what was trained
    image_size: int = 0  # of a model: its training crop, pixels
    classes: str = ''  # of a model: its file in config/classes; '': the 19 of Cityscapes
    url: str = ''  # of the file; '' where only a person can get it, from ``page``
    page: str = ''
    size: int = 0  # bytes; 0: not known
    sha256: str = ''  # '': not known
    listing: str = ''  # a Zenodo record, which tells size and md5 of its files
    checked: str = ''  # the day on which the address answered with this file; '': never

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f'a name must be at most 64 of a-z, 0-9, "+", "." and "-", got {self.name!r}')
        if not self.url and not self.page:
            raise ValueError(f'{self.name} needs a url or a page')
        if self.kind == 'model' and (not self.method or self.image_size <= 0):
            raise ValueError(f'{self.name} is a model and needs method and image_size')
        if not _CLASSES.fullmatch(self.classes):
            raise ValueError(
                f'classes of {self.name} must name a file of config/classes, got {self.classes!r}')
        if not 0 <= self.size <= _MAX_SIZE:
            raise ValueError(f'size of {self.name} must be in 0..{_MAX_SIZE}, got {self.size}')
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError(
                f'sha256 of {self.name} must be 64 digits of 0-9a-f, got {self.sha256!r}')
        if self.kind == 'text' and not self.sha256:  # it is an archive that holds code
            raise ValueError(f'{self.name} is a CLIP and needs its sha256')
        if '/' in self.file or self.file in ('.', '..'):
            raise ValueError(f'{self.url} of {self.name} ends in no file name')

    @property
    def file(self) -> str:
        """The name of the published file; '' where only a person can know it."""
        return unquote(urlsplit(self.url).path.rpartition('/')[2])


@dataclass(frozen=True, kw_only=True)
class _Zoo:
    entries: tuple[Entry, ...]


def read_entries(path: Path) -> dict[str, Entry]:
    """
    Read a list of published weights, {name: entry}.

    :raises ValueError: it is none; the message names the file and the entry.
    :raises OSError: it cannot be read.
    """
    try:
        found = from_dict(_Zoo, read_yaml(path))
        entries = {entry.name: entry for entry in found.entries}
        if len(entries) != len(found.entries):
            raise ValueError('two entries have the same name')
        for entry in found.entries:
            base = entries.get(entry.needs)
            if entry.needs and (base is None or base.kind != 'backbone'):
                raise ValueError(f'{entry.name} needs {entry.needs!r}, which is no backbone here')
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    return entries


@cache
def published() -> dict[str, Entry]:
    """Return the weights that this package knows, {name: entry}."""
    return read_entries(shipped('zoo.yaml'))


def find_entry(name: str) -> Entry:
    """
    Return the entry of that name.

    :raises ValueError: there is none; the message names the nearest.
    """
    entries = published()
    if name not in entries:
        near = closest(name, entries, 0.5)
        hint = f' (did you mean {near}?)' if near else ''
        raise ValueError(f'there are no weights named {name!r}{hint}; "dgtl fetch" lists all')
    return entries[name]
