# SPDX-License-Identifier: Apache-2.0
"""Fit the temperature of a network on labelled pictures that it did not learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
from dgtl_core.calibration import CORRUPTIONS
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.data.corruptions import corrupt
from dgtl_core.data.datasets import LabelledPicture
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.temperature import Temperature
from dgtl_core.processing import place, to_input
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

COPIES = 3  # of each picture, each corrupted otherwise
SEVERITIES = (1, 2, 3)  # beyond, a network often knows nothing, and the mild ones lose by it
_PIXELS = 2000  # of each window; neighbours say the same
_LEAST_PIXELS = 1000  # in all
_RANGE = (0.05, 20.0)  # beyond, the pictures do not tell a temperature


@torch.inference_mode()
def fit_temperature(network: LabelNetwork, pictures: Iterable[LabelledPicture]) -> Temperature:
    """
    Return the temperature of the least cross-entropy on pictures and corrupted copies of them.

    Copies of the same pictures, with one corruption after the other, show by how much the
    confidence is exaggerated elsewhere (Tomani et al., Post-hoc uncertainty calibration for domain
    drift scenarios, 2021); the pictures alone do not.

    :raises ValueError: too few pixels have a truth.
    """
    assert network.temperature is None
    rng = np.random.default_rng(0)
    samples = [sample for picture in _with_copies(pictures)
               for sample in _pixels(network, picture, rng)]
    found = sum(len(truth) for _, truth, _ in samples)
    if found < _LEAST_PIXELS:
        raise ValueError(
            f'{found} pixels with a label are too few to fit the confidence; give labelled '
            'pictures, best 30 or more')
    logits, truth, entropy = (torch.cat(parts) for parts in zip(*samples))
    with torch.inference_mode(False):
        return _least_cross_entropy(logits.clone(), truth.clone(), entropy.clone())


def untold(temperature: Temperature) -> list[str]:
    """Return what the pictures did not tell of a fitted temperature, in words."""
    least, most = _RANGE
    return [
        f'the pictures do not tell the temperature where {where} ({value:g} is the end of what is '
        'tried): the confidence may be off there; calibrate on more pictures, 30 or more'
        for value, where in zip(temperature, ('a picture is certain', 'nothing is certain'))
        if not 1.01 * least < value < 0.99 * most]


def _with_copies(pictures: Iterable[LabelledPicture]) -> Iterator[LabelledPicture]:
    for number, picture in enumerate(pictures):
        yield picture
        for copy in range(COPIES * number, COPIES * (number + 1)):
            kinds, kind = divmod(copy, len(CORRUPTIONS))
            severity = SEVERITIES[kinds % len(SEVERITIES)]
            yield picture._replace(
                image=corrupt(picture.image, CORRUPTIONS[kind], severity, number))


def _pixels(network: LabelNetwork, picture: LabelledPicture,
            rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits (n, K), truth (n,) and entropy (n,) of some pixels of each window."""
    size = network.picture_size
    image = to_input(picture.image, place(picture.labels.shape, size, 'stretch'))
    logits, entropy = network.distributions(torch.from_numpy(np.ascontiguousarray(image))[None])
    labels = cv2.resize(picture.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    for found, unsure, (y0, y1, x0, x1) in zip(logits, entropy, network.windows):
        truth = cv2.resize(labels[y0:y1, x0:x1], tuple(found.shape[:0:-1]),
                           interpolation=cv2.INTER_NEAREST_EXACT).ravel()
        known = np.flatnonzero(truth != IGNORE_INDEX)
        chosen = rng.permutation(known)[:_PIXELS]
        yield (found.flatten(1)[:, chosen].T.contiguous(),
               torch.from_numpy(truth[chosen].astype(np.int64)), unsure.expand(len(chosen)))


def _least_cross_entropy(logits: Tensor, truth: Tensor, entropy: Tensor) -> Temperature:
    ends = torch.zeros(2, requires_grad=True)  # logarithms
    optimizer = torch.optim.LBFGS([ends], max_iter=50, line_search_fn='strong_wolfe')

    def loss() -> Tensor:
        optimizer.zero_grad()
        temperature = Temperature(*ends.exp().clamp(*_RANGE)).of(entropy)
        found = F.cross_entropy(logits / temperature[:, None], truth)
        found.backward()
        return found

    optimizer.step(loss)
    return Temperature(*ends.detach().exp().clamp(*_RANGE).tolist())
