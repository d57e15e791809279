# SPDX-License-Identifier: Apache-2.0
"""Colours, overlays and contact sheets. Pictures are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
from dgtl_core.classes import ClassSet
from dgtl_core.pictures import read_image as read_image  # where it was until it had a room
import numpy as np

_BAR = 22  # height of a title bar, pixels


def colorize(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Paint each label in its class colour, 255 black. Shape: (H, W) uint8 -> (H, W, 3)."""
    table = np.array(classes.palette(), np.uint8)
    return cv2.merge([cv2.LUT(labels, np.ascontiguousarray(table[:, c])) for c in range(3)])


def overlay(image: np.ndarray, labels: np.ndarray, classes: ClassSet,
            alpha: float = 0.5) -> np.ndarray:
    """
    Blend class colours over a picture; unlabelled pixels keep the picture.

    Shape: image (H, W, 3), labels (H, W) -> (H, W, 3). ``alpha`` 0 shows the picture alone, 1 the
    colours alone.

    :raises ValueError: the sizes differ, or ``alpha`` is outside 0..1.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f'picture {image.shape[:2]} and labels {labels.shape} differ in size')
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha must be in 0..1, got {alpha}')
    blended = cv2.addWeighted(image, 1 - alpha, colorize(labels, classes), alpha, 0)
    unlabelled = labels >= len(classes)
    if unlabelled.any():
        blended[unlabelled] = image[unlabelled]
    return blended


def title(image: np.ndarray, text: str) -> np.ndarray:
    """Put a dark bar with a text above a picture."""
    bar = np.full((_BAR, image.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, _shown(text), (6, _BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45,
                (240, 240, 240), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (),
          row_titles: Sequence[str] = (), width: int = 384) -> np.ndarray:
    """
    Lay pictures out in a grid, each scaled to ``width`` pixels, aspect ratio kept.

    ``titles`` name the columns, ``row_titles`` the rows (shown above the first picture of a row).

    :raises ValueError: there is no picture.
    """
    if not rows or not rows[0]:
        raise ValueError('a sheet needs at least one row with one picture')
    lines = []
    for y, row in enumerate(rows):
        cells = []
        for x, image in enumerate(row):
            height = max(round(image.shape[0] * width / image.shape[1]), 1)
            cell = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            words = [t[i] for t, i in ((row_titles, y), (titles, x)) if i < len(t)]
            shown = words if x == 0 else words[-1:] if titles else []
            cells.append(title(cell, ' | '.join(shown)))
        height = max(cell.shape[0] for cell in cells)
        lines.append(np.hstack([_pad(cell, height, width) for cell in cells]))
    full = max(line.shape[1] for line in lines)
    return np.vstack([_pad(line, line.shape[0], full) for line in lines])


def legend(classes: ClassSet, width: int = 384) -> np.ndarray:
    """Draw the class names beside their colours, three to a line or as many as there is room."""
    per_line, height = max(3, width // 200), 20
    lines = -(-len(classes) // per_line)
    picture = np.full((lines * height, width, 3), 24, np.uint8)
    for i, entry in enumerate(classes):
        y, x = (i // per_line) * height, (i % per_line) * width // per_line
        cv2.rectangle(picture, (x + 4, y + 4), (x + 16, y + 16), entry.color, -1)
        cv2.putText(picture, _shown(entry.name), (x + 22, y + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4,
                    (240, 240, 240), 1, cv2.LINE_AA)
    return picture


def _shown(text: str) -> str:
    """Return the text without what is none (of a file name): OpenCV would end the process."""
    return text.encode('utf-8', 'backslashreplace').decode()


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    bottom, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(24, 24, 24))
