# SPDX-License-Identifier: Apache-2.0
"""Held-out pictures on the device that learns, for a quick look at what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.datasets import Pictures
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.processing import place, to_input
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class HeldOut(NamedTuple):
    """Pictures of one size on the device, with their truth."""

    name: str
    images: Tensor  # (n, 3, h, w) uint8
    truth: list[Tensor]  # (H, W) uint8 each


@lru_cache
def _opened(spec: str) -> Pictures:
    """Open a data set once in each process."""
    return open_pictures(spec)


class _Prepared(Dataset):
    """The pictures of all tests, brought to the network's size, and their truth as it is."""

    def __init__(self, specs: Sequence[str], counts: Sequence[int],
                 size: tuple[int, int]) -> None:
        self._size = size
        self._items = [(spec, i) for spec, count in zip(specs, counts) for i in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        spec, number = self._items[index]
        picture = _opened(spec)[number]
        image = to_input(picture.image, place(picture.labels.shape, self._size, 'stretch'))
        return (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous(),
                torch.from_numpy(picture.labels))


def open_held_out(specs: Sequence[str], size: tuple[int, int], device: torch.device,
                  workers: int) -> list[HeldOut]:
    """Draw or read the data sets, as training.evaluate names them, in processes of their own."""
    counts = [len(open_pictures(spec)) for spec in specs]
    loader = DataLoader(_Prepared(specs, counts, size), None, num_workers=workers,
                        multiprocessing_context='spawn' if workers else None)
    found = iter(loader)
    opened = []
    for spec, count in zip(specs, counts):
        pairs = [next(found) for _ in range(count)]
        opened.append(HeldOut(spec, torch.stack([image for image, _ in pairs]).to(device),
                           [truth.to(device) for _, truth in pairs]))
    return opened


@torch.no_grad()
def mean_iou(model: Segmenter, test: HeldOut) -> float:
    """Return the mean IoU over the classes that occur, in protocol ``whole``."""
    device, classes = test.images.device, model.config.num_classes
    normalize = Normalization(model.config).to(device)
    counts = torch.zeros(classes, classes, device=device, dtype=torch.int64)
    for index, truth in enumerate(test.truth):
        x = normalize(test.images[index:index + 1]).contiguous(
            memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            labels = model.scores(x).argmax(1).float()
        labels = F.interpolate(labels[None], truth.shape, mode='nearest-exact')[0, 0].long()
        known = truth < classes
        counts += torch.bincount(
            truth[known].long() * classes + labels[known], minlength=classes ** 2,
        ).view(classes, classes)
    hit = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - hit
    return float((hit / union)[counts.sum(1) > 0].mean())
