# SPDX-License-Identifier: Apache-2.0
"""What is written of each frame on its own: label maps and pictures, at OUT/KIND/NAME.SUFFIX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.pictures import write_image
from dgtl_core.recorded.labels import Labelled
from dgtl_core.visualize import colorize, overlay
import numpy as np

_Maker = Callable[[Labelled, ClassSet, float], np.ndarray]
KINDS: dict[str, tuple[str, _Maker]] = {
    'labels': ('.png', lambda of, classes, alpha: of.labels),
    'color': ('.png', lambda of, classes, alpha: colorize(of.labels, classes)),
    'overlay': ('.jpg', lambda of, classes, alpha: overlay(
        of.frame.image, of.labels, classes, alpha)),
    'confidence': ('.png', lambda of, classes, alpha: of.confidence),
    # 65535 is certain, as the BRAVO challenge wants it; a model file gives 256 levels
    'confidence16': ('.png', lambda of, classes, alpha: of.confidence.astype(np.uint16) * 257),
}


def write(out: Path, kind: str, labelled: Labelled, classes: ClassSet, alpha: float) -> Path:
    """
    Write a file of one frame and return it; it appears complete or not at all.

    :raises OSError: it cannot be written.
    """
    suffix, make = KINDS[kind]
    path = out / kind / f'{labelled.frame.name}{suffix}'
    write_image(path, make(labelled, classes, alpha))
    return path
