# SPDX-License-Identifier: Apache-2.0
"""Pictures and their label files, found by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dgtl_core.data.labels import DataError
from dgtl_core.pictures import is_picture

Pair = tuple[Path, Path]  # a picture and its labels


class Pairs(NamedTuple):
    """What is there of a data set."""

    found: list[Pair]
    missing: list[Path]  # pictures without a label file

    def unused(self) -> list[Path]:
        """Return the label files of these folders that no picture has, those of PNG alone."""
        used = {label for _, label in self.found}
        return sorted(file for folder in {label.parent for label in used}
                      for file in folder.iterdir() if file not in used
                      and file.suffix.lower() == '.png' and is_picture(file))


def find_pairs(root: Path, images: str, pattern: str, labels: str, suffix: str,
               label_suffixes: Sequence[str], rename: Callable[[str], str] = str) -> Pairs:
    """
    Return pictures with their label files, sorted by name.

    A label file lies below ``labels`` as its picture below ``images``, its name's ``suffix``
    (where '': whatever it is) replaced by the first of ``label_suffixes`` that exists. Case does
    not matter in ``.png``, and hidden files are passed over.

    :param pattern: of the folders below ``images``, then ``*``: ``*/*`` is one folder deep.
    :raises DataError: a folder is missing, or has no pictures at all.
    """
    for folder in (root, root / images, root / labels):
        if not folder.is_dir():
            raise DataError(f'there is no folder {folder}')
    files = sorted(file for file in (root / images).glob(pattern)
                   if is_picture(file) and not file.is_dir() and (
                       not suffix or file.suffix.lower() == Path(f'x{suffix}').suffix))
    if not files:
        kind = Path(f'x{suffix}').suffix
        raise DataError(f'there are no pictures in {root / images}'
                        + (f' ({pattern}{kind})' if kind or pattern != '*' else ''))
    found, missing = [], []
    listed: dict[Path, dict[str, Path]] = {}
    for file in files:
        name = file.stem + file.suffix.lower()
        if not name.endswith(suffix):
            raise DataError(f'{file} should end in {suffix}')
        stem = rename(name.removesuffix(suffix) if suffix else file.stem)
        place = root / labels / file.relative_to(root / images).parent
        here = listed[place] if place in listed else listed.setdefault(place, _files(place))
        label = next((here[stem + ending] for ending in label_suffixes if stem + ending in here),
                     None)
        if label is None:
            missing.append(file)
        else:
            found.append((file, label))
    return Pairs(found, missing)


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names with suffixes in small letters."""
    if not folder.is_dir():
        return {}
    return {file.stem + file.suffix.lower(): file for file in folder.iterdir()}
