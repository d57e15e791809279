# SPDX-License-Identifier: Apache-2.0
"""What an export is compared on, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from pathlib import Path
import sys

from dgtl_core.classes import ClassSet
from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.checks import check
from dgtl_core.data.datasets import LabelledPicture
from dgtl_core.engine.agreement import Output
from dgtl_core.export.onnx import ExportError
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter, slide
from dgtl_core.pictures import find_pictures, read_image
from dgtl_core.processing import place, to_input
import numpy as np
import torch
import torch.nn.functional as F

Size = tuple[int, int]
_LEAST = 1e-12  # of a share


def _spread(total: int, count: int) -> list[int]:
    """Return ``count`` numbers below ``total``, evenly spread; all of them if it has fewer."""
    count = min(total, count)
    return [i * total // count for i in range(count)]


def pictures_of(folder: Path | None, count: int, size: Size) -> list[np.ndarray]:
    """Real pictures of a folder, evenly spread over it, or generated ones, at ``size``."""
    if folder is None:
        from dgtl_core.streetworld import StreetWorld
        world = StreetWorld(seed=7, size=size)
        return [np.ascontiguousarray(world.picture(i).image) for i in range(count)]
    files = find_pictures([folder])
    images = [read_image(files[i]) for i in _spread(len(files), count)]
    return [to_input(image, place(image.shape[:2], size, 'stretch')) for image in images]


def chosen_pictures(spec: str, count: int, classes: ClassSet) -> Iterator[LabelledPicture]:
    """
    Open a data set; give pictures of it, evenly spread over it.

    :raises ExportError: it has other classes than the model.
    """
    data = open_pictures(spec)
    for line in check(data):
        print(f'export: {line}', file=sys.stderr)
    if data.classes.names != classes.names:
        raise ExportError(
            f'{data.name} has the classes {list(data.classes.names)}, the model '
            f'{list(classes.names)}; they must be equal')
    return (data[i] for i in _spread(len(data), count))


def labelled_pictures(spec: str, count: int, size: Size, classes: ClassSet) -> tuple[
        list[np.ndarray], list[np.ndarray]]:
    """Pictures of a data set, evenly spread over it, at ``size``; their truth at its own size."""
    chosen = list(chosen_pictures(spec, count, classes))
    images = [np.ascontiguousarray(to_input(c.image, place(c.labels.shape, size, 'stretch')))
              for c in chosen]
    return images, [c.labels for c in chosen]


@torch.inference_mode()
def as_trained(segmenter: Segmenter, network: LabelNetwork, stride: Size,
             pictures: Sequence[np.ndarray]) -> list[Output]:
    """Labels and confidence as training and evaluation compute them: nothing folded, float32."""
    config, window = segmenter.config, network.network.size
    normalize = Normalization(config)
    results = []
    for picture in pictures:
        images = normalize(torch.from_numpy(picture).permute(2, 0, 1))[None]
        scores = segmenter.scores(images) if len(network.windows) == 1 else slide(
            segmenter.scores, images, window, stride)
        if network.output_size != network.picture_size:
            scores = F.interpolate(
                scores, network.output_size, mode='bilinear', align_corners=False)
        if network.grouping is not None:
            scores = network.grouping.scores(scores)
        labels, shares = scores[0].argmax(dim=0), scores[0] / scores[0].sum(dim=0)
        if network.temperature is not None:
            logs = shares.clamp_min(_LEAST).log()
            entropy = -(shares * logs).sum(dim=0).mean() / math.log(max(len(shares), 2))
            shares = (logs / network.temperature.of(entropy)).softmax(dim=0)
        confidence = (shares.amax(dim=0) * 255).round()
        if network.grouping is not None:
            labels = network.grouping.labels(labels)
        results.append((labels.to(torch.uint8).numpy(), confidence.to(torch.uint8).numpy()))
    return results
