# SPDX-License-Identifier: Apache-2.0
"""Does an engine label pictures as its model does? Asked after every build."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dgtl_core.model_file import ModelError
from dgtl_core.processing import place, to_input
from dgtl_core.runtime.contract import Backend
import numpy as np

THRESHOLD = 0.99  # least share of pixels with the same label
WAY_OUT = (
    'do not use it. Several versions of TensorRT compute GridSample wrongly: export the model '
    'again with "--sampling gather"; if that is no better, in fp32')


class Sample(NamedTuple):
    """A picture at the size of the network and the labels that are taken for right."""

    image: np.ndarray   # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H', W') uint8


def samples(reference: Backend, pictures: Iterable[np.ndarray]) -> list[Sample]:
    """Let ``reference`` label pictures (H, W, 3) of any size, one at a time."""
    size = reference.metadata.input_size
    images = [to_input(p, place((p.shape[0], p.shape[1]), size, 'stretch')) for p in pictures]
    return [Sample(image, reference(image[None]).labels[0]) for image in images]


def verify_engine(engine: Backend, known: Sequence[Sample], threshold: float = THRESHOLD) -> float:
    """
    Return the share of pixels that an engine labels as known, over all pictures.

    The pictures go through one by one and, where the engine takes batches, in full batches too:
    some versions are wrong only there.

    :raises ModelError: less than ``threshold``; the message says what to do.
    :raises ValueError: no pictures.
    """
    if not known:
        raise ValueError('an engine is compared on pictures; none were given')
    shares = {1: _share(engine, known, 1)}
    if engine.max_batch > 1:
        filled = [known[i % len(known)] for i in range(max(engine.max_batch, len(known)))]
        shares[engine.max_batch] = _share(engine, filled, engine.max_batch)
    for batch, share in shares.items():
        if not share >= threshold:
            raise ModelError(
                f'the engine ({engine.name}) labels only {share:.2%} of the pixels of '
                f'{len(known)} pictures as the model itself (batch {batch}); {threshold:.2%} are '
                f'needed: {WAY_OUT}')
    return min(shares.values())


def _share(engine: Backend, known: Sequence[Sample], batch: int) -> float:
    equal = []
    for first in range(0, len(known), batch):
        part = known[first:first + batch]
        labels = engine(np.stack([sample.image for sample in part])).labels
        equal += [np.mean(got == sample.labels) for got, sample in zip(labels, part, strict=True)]
    return float(np.mean(equal))


def generated_pictures() -> list[np.ndarray]:
    """Return streets in several weathers, where no camera has been seen yet."""
    from dgtl_core.streetworld import CONDITIONS, StreetWorld

    return [StreetWorld(seed=7, condition=c).picture(i).image for i, c in enumerate(CONDITIONS)]
