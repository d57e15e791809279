# SPDX-License-Identifier: Apache-2.0
"""Do two networks label pictures alike? Asked after every export and every build of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model_file import ModelError
from dgtl_core.pictures import find_pictures, read_image
from dgtl_core.processing import place, to_input, to_source
from dgtl_core.runtime.contract import Backend
import numpy as np

MIN_AGREEMENT = 0.99  # least share of pixels with the same label, of an engine and its model
WAY_OUT = (
    'do not use it. Several versions of TensorRT compute GridSample wrongly: export the model '
    'again with "--sampling gather"; if that is no better, in fp32')
# StreetWorld(seed=7), picture i in its condition i, where no camera has been seen yet.
_PICTURES = Path(__file__).with_name('pictures')
Output = tuple[np.ndarray, np.ndarray]  # labels and confidence, (H, W) uint8 each


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two networks give the same on the same pictures."""

    pictures: int
    labels: float  # share of pixels with the same label
    confidence: float  # mean absolute difference, of 255
    miou: float | None = None  # of the first, where there is truth
    miou_reference: float | None = None

    def __str__(self) -> str:
        text = (f'{self.labels:.4%} of the labels equal on {self.pictures} pictures, confidence '
                f'differs by {self.confidence:.2f} of 255')
        if self.miou is not None and self.miou_reference is not None:
            text += f', mIoU {self.miou:.4f} (reference {self.miou_reference:.4f})'
        return text


def agreement(outputs: Sequence[Output], references: Sequence[Output], num_classes: int,
              truths: Sequence[np.ndarray] | None = None) -> Agreement:
    """
    Compare (labels, confidence) pairs of the same pictures.

    Shape: each (h, w) uint8; truths (H, W) with 255 = ignore, of any size: the labels are brought
    to it, as a camera picture's are.
    """
    off = [np.abs(a[1].astype(int) - b[1]).mean() for a, b in zip(outputs, references)]
    scores: list[float | None] = [None, None]
    if truths is not None:
        for index, found in enumerate((outputs, references)):
            matrix = ConfusionMatrix(num_classes)
            for (labels, _), truth in zip(found, truths):
                placement = place(truth.shape, labels.shape, 'stretch')
                matrix.update(to_source(labels, placement), truth)
            scores[index] = matrix.mean_iou()
    return Agreement(
        pictures=len(outputs), confidence=float(np.mean(off)),
        labels=share_of_equal([a[0] for a in outputs], [b[0] for b in references]),
        miou=scores[0], miou_reference=scores[1])


def share_of_equal(labels: Iterable[np.ndarray], references: Iterable[np.ndarray]) -> float:
    """Return the share of pixels with the same label, the mean over pictures (H, W)."""
    return float(np.mean([np.mean(a == b) for a, b in zip(labels, references, strict=True)]))


class LabeledPicture(NamedTuple):
    """A picture at the size of the network and the labels that are taken for right."""

    image: np.ndarray   # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H', W') uint8


def labeled_by(reference: Backend, pictures: Iterable[np.ndarray]) -> list[LabeledPicture]:
    """Let ``reference`` label pictures (H, W, 3) of any size, one at a time."""
    size = reference.metadata.input_size
    images = [to_input(p, place((p.shape[0], p.shape[1]), size, 'stretch')) for p in pictures]
    return [LabeledPicture(image, reference(image[None]).labels[0]) for image in images]


def street_pictures() -> list[np.ndarray]:
    """Return drawn streets in several weathers, (H, W, 3) uint8 RGB."""
    return [read_image(file) for file in find_pictures([_PICTURES])]


def verify_engine(engine: Backend, known: Sequence[LabeledPicture],
                  min_agreement: float = MIN_AGREEMENT) -> float:
    """
    Return the share of pixels that an engine labels as known, over all pictures.

    The pictures go through one by one and, where the engine takes batches, in full batches too:
    some versions are wrong only there.

    :raises ModelError: less than ``min_agreement``; the message says what to do.
    :raises ValueError: no pictures.
    """
    if not known:
        raise ValueError('an engine is compared on pictures; none were given')
    shares = {1: _share(engine, known, 1)}
    if engine.max_batch > 1:
        filled = [known[i % len(known)] for i in range(max(engine.max_batch, len(known)))]
        shares[engine.max_batch] = _share(engine, filled, engine.max_batch)
    for batch, share in shares.items():
        if not share >= min_agreement:
            raise ModelError(
                f'the engine ({engine.name}) labels only {share:.2%} of the pixels of '
                f'{len(known)} pictures as the model itself (batch {batch}); {min_agreement:.2%} '
                f'are needed: {WAY_OUT}')
    return min(shares.values())


def _share(engine: Backend, known: Sequence[LabeledPicture], batch: int) -> float:
    found: list[np.ndarray] = []
    for first in range(0, len(known), batch):
        images = [picture.image for picture in known[first:first + batch]]
        found += list(engine(np.stack(images)).labels)
    return share_of_equal(found, [picture.labels for picture in known])
