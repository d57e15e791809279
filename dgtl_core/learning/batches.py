# SPDX-License-Identifier: Apache-2.0
"""
The stream of training batches: a function of the seed and the position in the run alone.

So a resumed run, and one on more processes, meets the pictures of an uninterrupted run on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
from functools import lru_cache
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import cv2
from dgtl_core.data.datasets import (
    CachedPictures,
    JoinedPictures,
    LabelledPicture,
    Pictures,
)
from dgtl_core.data.transforms import TransformConfig, views
from dgtl_core.files import put, workshop
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class Batch(NamedTuple):
    """Transformed pictures, as the network and the losses take them."""

    images: Tensor  # (B, 3, h, w) uint8 RGB
    labels: Tensor  # (B, h, w) uint8
    keys: tuple[int, ...]  # of the random points of each picture
    names: tuple[str, ...]
    clean: Tensor | None = None  # as images, before they were distorted

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU reads without waiting."""
        return self._replace(
            images=self.images.pin_memory(), labels=self.labels.pin_memory(),
            clean=None if self.clean is None else self.clean.pin_memory())


_Sample = tuple[Tensor, Tensor, int, str, Tensor | None]  # image, labels, key, name, clean


class _Samples(Dataset):
    """Position in the run -> one transformed picture."""

    def __init__(self, pictures: Pictures, config: TransformConfig, seed: int,
                 clean: bool) -> None:
        self.pictures, self.config, self.seed = pictures, config, seed
        self.clean = clean

    def __getitem__(self, position: int) -> _Sample:
        epoch, offset = divmod(position, len(self.pictures))
        picture = self.pictures[int(_order(len(self.pictures), self.seed, epoch)[offset])]
        choices = np.random.default_rng([self.seed, position])
        image, labels, clean = views(picture.image, picture.labels, self.config, choices)
        return (image, labels, int(choices.integers(2**31)), picture.name,
                clean if self.clean else None)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _collate(samples: list[_Sample]) -> Batch:
    images, labels, keys, names, clean = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), keys, names,
                 None if clean[0] is None else torch.stack(clean))


def batches(
        pictures: Pictures, config: TransformConfig, *, seed: int, start: int, stop: int,
        batch: int, accumulate: int = 1, rank: int = 0, world: int = 1, workers: int = 0,
        pin_memory: bool = False, clean: bool = False) -> Iterator[Batch]:
    """
    Yield ``accumulate`` batches for each step from ``start`` up to ``stop``.

    :param batch: pictures of one step over all processes.
    :param clean: with the pictures as they were before they were distorted, for a teacher.
    :raises ValueError: ``batch`` cannot be split into world * accumulate equal parts.
    """
    if batch % (world * accumulate):
        raise ValueError(
            f'batch {batch} must be a multiple of processes x accumulate, {world} x {accumulate}')
    part = batch // (world * accumulate)
    _prepare_workers(workers)
    positions = [
        list(range(first, first + part))
        for step in range(start, stop) for number in range(accumulate)
        for first in [step * batch + (number * world + rank) * part]]
    loader: DataLoader[Batch] = DataLoader(
        _Samples(pictures, config, seed, clean), batch_sampler=positions, num_workers=workers,
        collate_fn=_collate, pin_memory=pin_memory, persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_group)
    return iter(loader)


def _leave_group(worker: int) -> None:
    """
    Make a worker a process group of its own: a SIGTERM for the group of the process that saves,
    as torchrun and schedulers send it, would end the worker and with it the step.
    """
    os.setpgid(0, 0)


def _prepare_workers(workers: int) -> None:
    """
    End OpenCV's threads in this process before it forks; a worker is one process, one thread.

    A fork inherits the record of the threads but not the threads, and would wait for them.
    """
    if workers:
        cv2.setNumThreads(1)


def cached(pictures: Pictures, folder: Path, workers: int) -> Pictures:
    """
    Return the same pictures from two memory-mapped files below ``folder``, made where missing.

    Of several joined data sets each has files, and a size, of its own. Of several processes one
    makes them and the others wait. Where that ends early, nothing stays behind; what a killed
    process left is removed by the next.

    :raises ValueError: the pictures of a data set differ in size.
    :raises OSError: there is no space for them.
    """
    if isinstance(pictures, JoinedPictures):
        return JoinedPictures([cached(part, folder, workers) for part in pictures.parts])
    place = folder / hashlib.sha256(pictures.fingerprint().encode()).hexdigest()[:12]
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(place.with_suffix('.lock')):
            if not place.is_dir():  # nobody made it in the meantime
                with workshop(folder) as temporary:
                    _write_cache(pictures, temporary / place.name, workers)
                    put({temporary / place.name: place})
    return CachedPictures(place, pictures)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process is here with the same file, which is gone afterwards."""
    while True:
        with open(file, 'ab') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:  # else the one before has just removed it
                try:
                    yield
                finally:
                    file.unlink()
                return


def _write_cache(pictures: Pictures, folder: Path, workers: int) -> None:
    folder.mkdir()
    first = pictures[0]
    images, labels = (
        _new_array(folder / f'{kind}.npy', (len(pictures), *part.shape))
        for kind, part in (('images', first.image), ('labels', first.labels)))
    names = []
    _prepare_workers(workers)
    loader: DataLoader[LabelledPicture] = DataLoader(
        _Listed(pictures), batch_size=None, num_workers=workers)
    for index, picture in enumerate(tqdm(loader, desc='drawing pictures', unit='')):
        if picture.image.shape != first.image.shape:
            raise ValueError(
                f'cache needs pictures of one size: {first.name} has {first.image.shape[:2]}, '
                f'{picture.name} has {tuple(picture.image.shape[:2])}; set cache to false')
        images[index], labels[index] = picture.image, picture.labels
        names.append(picture.name)
    images.flush()
    labels.flush()
    (folder / 'about.json').write_text(
        json.dumps({'names': names}), encoding='utf-8')


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array = np.lib.format.open_memmap(path, 'w+', np.uint8, shape)
    with open(path, 'r+b') as file:  # a full disk is an error here, later it would be a crash
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class _Listed(Dataset):
    """Any pictures, for a DataLoader."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> LabelledPicture:
        return self.pictures[index]._replace(depth=None)  # a cache keeps none
