# SPDX-License-Identifier: Apache-2.0
"""A contact sheet of a run: up to 24 frames, evenly spread, each beside its labels."""

from __future__ import annotations

from pathlib import Path
import shutil

import cv2
from dgtl_core.classes import ClassSet, IGNORE_INDEX
from dgtl_core.pictures import read_image, write_image
from dgtl_core.recorded.labels import Labelled
from dgtl_core.visualize import legend, overlay, title
import numpy as np

_MOST = 24
_WIDTH = 320  # of one picture
_MOST_HEIGHT = 480  # of one picture; a higher one stands between bars
_PAIRS = 2  # in a row


class Sheet:
    """
    Collects its cells in a hidden folder, so that a run that was killed can go on.

    How many frames there will be need not be known: when there are too many, every second goes.

    :param done: how many frames came before; the cells of later ones, which come again, go.
    """

    def __init__(self, out: Path, classes: ClassSet, alpha: float, done: int = 0) -> None:
        self._out, self._cells = out / 'sheet.jpg', out / '.sheet'
        self._classes, self._alpha, self._number = classes, alpha, done
        for number in self._kept():
            if number >= done:
                (self._cells / f'{number}.png').unlink()
        kept = self._kept()
        self._step = kept[1] - kept[0] if len(kept) > 1 else 1

    def _kept(self) -> list[int]:
        return sorted(int(path.stem) for path in self._cells.glob('[0-9]*.png'))

    def add(self, labelled: Labelled) -> None:
        """Take the next frame, if it is its turn."""
        number, self._number = self._number, self._number + 1
        if number % self._step:
            return
        small = _fit(labelled.frame.image, cv2.INTER_AREA, 24)
        labels = _fit(labelled.labels, cv2.INTER_NEAREST_EXACT, IGNORE_INDEX)
        cell = np.hstack([small, overlay(small, labels, self._classes, self._alpha)])
        write_image(self._cells / f'{number}.png', title(cell, labelled.frame.name[-80:]))
        kept = self._kept()
        if len(kept) > _MOST:
            self._step *= 2
            for other in kept:
                if other % self._step:
                    (self._cells / f'{other}.png').unlink()

    def finish(self) -> list[Path]:
        """Write the sheet."""
        cells = [read_image(self._cells / f'{number}.png') for number in self._kept()]
        if not cells:
            return []
        rows = [cells[i:i + _PAIRS] for i in range(0, len(cells), _PAIRS)]
        lines = []
        for row in rows:
            height = max(cell.shape[0] for cell in row)
            row = row + [np.zeros((1, 2 * _WIDTH, 3), np.uint8)] * (_PAIRS - len(row))
            lines.append(np.hstack([cv2.copyMakeBorder(
                cell, 0, height - cell.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(24, 24, 24))
                for cell in row]))
        lines.append(legend(self._classes, 2 * _WIDTH * _PAIRS))
        write_image(self._out, np.vstack(lines))
        shutil.rmtree(self._cells)
        return [self._out]

    def abandon(self) -> None:
        """Keep the cells for the run that goes on."""


def _fit(pixels: np.ndarray, interpolation: int, bars: int) -> np.ndarray:
    """Bring a picture or labels to the width of a cell; what is too high gets bars beside it."""
    height, width = pixels.shape[:2]
    scale = min(_WIDTH / width, _MOST_HEIGHT / height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = cv2.resize(pixels, size, interpolation=interpolation)
    left = (_WIDTH - size[0]) // 2
    return cv2.copyMakeBorder(
        small, 0, 0, left, _WIDTH - size[0] - left, cv2.BORDER_CONSTANT, value=(bars,) * 3)
