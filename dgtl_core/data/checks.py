# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set, found before a run of hours begins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.data.datasets import (
    JoinedPictures,
    PicturePairs,
    Pictures,
    UnlabelledPictures,
)
from dgtl_core.data.labels import ColorError, DataError, named
from dgtl_core.label_mapping import HOW_TO_MAP
from dgtl_core.pictures import header_of
import numpy as np

SAMPLE = 64  # label files that are read, evenly spread; of all others header and end


def check(pictures: Pictures, limit: int = 0, *, unlabelled: bool = False) -> list[str]:
    """
    Read header and end of every file and some of the labels; return what the user should know.

    :param limit: of the pictures that will be used, the first ones; 0: all.
    :param unlabelled: no labels, and label files that label nothing, are as they should be.
    :raises DataError: files that are broken or differ in size from their labels, values that
        mean nothing, or labels that do not label anything; the message names them all.
    """
    if isinstance(pictures, JoinedPictures):
        return [line for part in pictures.parts
                for line in check(part, limit, unlabelled=unlabelled)]
    if isinstance(pictures, UnlabelledPictures) and not unlabelled:
        raise DataError(
            f'{pictures.name} has no labels: leave it out, or learn from it with a teacher, who '
            'says what it shows (the recipe\'s key "teacher")')
    if not isinstance(pictures, PicturePairs):
        return []
    pairs = pictures.pairs[:limit or len(pictures)]
    lines = [*pictures.notes, *_sizes(pairs)]
    chosen = [pairs[i * len(pairs) // SAMPLE][1] for i in range(SAMPLE)] \
        if len(pairs) > SAMPLE else [label for _, label in pairs]
    lines += _values(pictures, chosen, unlabelled)
    return [f'{pictures.name}: {line}' for line in lines]


def _sizes(pairs: list[tuple[Path, Path]]) -> list[str]:
    """Compare the sizes in the headers of pictures and labels."""
    broken, unequal = [], []
    turned: Counter[int] = Counter()
    for image, label in pairs:
        try:
            header, size = header_of(image), header_of(label).size
        except (OSError, ValueError) as error:
            broken.append(str(error))
            continue
        if header.size != size:
            unequal.append(f'{label} {size}, {image.name} {header.size}')
        turned[header.orientation] += 1
    for what, found in (('cannot be read', broken),
                        ('have labels of another size (height, width)', unequal)):
        if found:
            raise DataError(
                f'{len(found)} of {len(pairs)} pictures {what}: {"; ".join(found[:5])}'
                + ('; ...' if len(found) > 5 else '')
                + '; mend these files, or move them out of the folder')
    del turned[1]
    return [f'{count} pictures have orientation {value} in their EXIF data, for which a viewer '
            'would turn them; they and their labels are taken as they are stored'
            for value, count in sorted(turned.items())]


def _values(pictures: PicturePairs, files: list[Path], unlabelled: bool) -> list[str]:
    """Look at what the label files hold."""
    own = pictures.own_ids
    wrong, empty, seen = [], [], np.zeros(IGNORE_INDEX + 1, bool)
    for file in files:
        try:
            labels = pictures.labels(file)
        except DataError as error:
            wrong.append(error)
            continue
        seen[labels] = True
        if (labels == IGNORE_INDEX).all():
            empty.append(file)
    advice = f'; {HOW_TO_MAP}' if own else ''
    if wrong:
        raise DataError(f'{wrong[0]}; so it is with {len(wrong)} of {len(files)} label files '
                        'that were looked at'
                        + ('' if isinstance(wrong[0], ColorError) else advice))
    if unlabelled and len(empty) == len(files):
        return []
    if len(empty) == len(files):
        raise DataError(
            f'no pixel has a class in the {len(files)} label files that were looked at '
            f'({named(empty)}): all are {IGNORE_INDEX}, "no label"' + (
                advice or '; are these the labels of a test split, which are not published?'))
    if own and len(pictures.classes) > 1 and np.flatnonzero(seen).tolist() == [0, IGNORE_INDEX]:
        raise DataError(
            f'the {len(files)} label files that were looked at hold nothing but 0 and '
            f'{IGNORE_INDEX}, of which {IGNORE_INDEX} means "no label": they look like masks of '
            f'one object{advice}. Where {IGNORE_INDEX} really means "no label", say '
            f'"ids: {{0: {pictures.classes[0].name}}}"')
    return [f'{len(empty)} of {len(files)} label files that were looked at have no class in '
            f'any pixel: {named(empty)}'] * bool(empty)
