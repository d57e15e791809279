# SPDX-License-Identifier: Apache-2.0
"""Streets drawn while a model learns from them, and the store on the device that keeps them."""

from __future__ import annotations

from collections.abc import Iterator
import queue
import threading

import cv2
from dgtl_core.streetworld import StreetWorld
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info, IterableDataset

Size = tuple[int, int]
FIRST_SEED = 2_000_000  # far from the seeds that pictures are tested and demonstrated with
SHOWN = 150  # pixels from which on a class counts as shown by a picture


class _Streets(IterableDataset):
    """Clear streets without end; each process draws others."""

    def __init__(self, size: Size, seed: int) -> None:
        self._size, self._seed = size, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        worker = get_worker_info()
        seed = FIRST_SEED + self._seed + (0 if worker is None else worker.id)
        world = StreetWorld(seed=seed, size=self._size, variety=True)
        index = 0
        while True:
            drawn = world.picture(index)
            yield (torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous(),
                   torch.from_numpy(drawn.labels))
            index += 1


class PictureStore:
    """
    The latest pictures that processes have drawn, in the device's memory.

    :param capacity: how many it keeps; then a new one takes the place of the oldest.
    """

    def __init__(self, size: Size, capacity: int, classes: int, device: torch.device, *,
                 workers: int, seed: int = 0, chunk: int = 16) -> None:
        self._images = torch.empty((capacity, 3, *size), dtype=torch.uint8, device=device)
        self._labels = torch.empty((capacity, *size), dtype=torch.uint8, device=device)
        self._shows = torch.zeros((capacity, classes), device=device)
        self._chance = torch.zeros(capacity, device=device)
        self.counts = torch.zeros(classes, device=device)  # pixels of each class so far
        self.drawn = 0
        self._waiting: queue.Queue[tuple[Tensor, Tensor]] = queue.Queue(maxsize=64)
        self._failed: list[Exception] = []
        self._closed = threading.Event()
        # without a process of its own the drawing would hold up the learning
        loader = DataLoader(
            _Streets(size, seed), chunk, num_workers=max(workers, 1), prefetch_factor=2,
            pin_memory=device.type == 'cuda', multiprocessing_context='spawn')
        chunks = iter(loader)  # starts the processes
        self._fetcher = threading.Thread(target=self._fetch, args=(chunks,), daemon=True)
        self._fetcher.start()

    def _fetch(self, chunks: Iterator[tuple[Tensor, Tensor]]) -> None:
        try:
            for chunk in chunks:
                if self._closed.is_set():
                    break
                self._waiting.put(chunk)
        except RuntimeError as error:  # a process that draws has died
            self._failed.append(error)

    def close(self) -> None:
        """Stop drawing; an interpreter that ends while the thread waits for a process aborts."""
        self._closed.set()
        while self._fetcher.is_alive():
            try:
                self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue

    def take(self, at_least: int = 0) -> None:
        """
        Take over what has been drawn; wait until there are ``at_least`` pictures in all.

        :raises RuntimeError: a process that draws has failed.
        """
        while self.drawn < at_least or not self._waiting.empty():
            if self._failed:
                raise self._failed[0]
            try:
                self._put(*self._waiting.get(timeout=1))
            except queue.Empty:
                continue

    def _put(self, images: Tensor, labels: Tensor) -> None:
        where = (torch.arange(len(images)) + self.drawn) % len(self._images)
        where = where.to(self._images.device)
        images, labels = (x.to(where.device, non_blocking=True) for x in (images, labels))
        self._images[where], self._labels[where] = images, labels
        numbers = labels.flatten(1).long() + 256 * torch.arange(
            len(labels), device=where.device)[:, None]
        pixels = torch.bincount(numbers.flatten(), minlength=256 * len(labels))
        pixels = pixels.view(len(labels), 256)[:, :len(self.counts)]
        self.counts += pixels.sum(0)
        self._shows[where] = (pixels > SHOWN).float()
        self.drawn += len(images)
        # A picture comes as often as the rarest class that it shows asks for.
        share = self._shows[:self.drawn].mean(0).clamp(min=0.01)
        self._chance = (self._shows * share ** -0.4).amax(1)

    def sample(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return random pictures (B, 3, H, W) and labels (B, H, W), rare classes more often."""
        chosen = torch.multinomial(self._chance, batch, replacement=True)
        return self._images[chosen], self._labels[chosen]
