# SPDX-License-Identifier: Apache-2.0
"""What a training run says: a bar for people, log.jsonl for programs, TensorBoard for both."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import time

from dgtl_core.files import write_atomically
import torch
from torch import distributed, Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

EVERY = 20  # steps between two lines


class Log:
    """
    Collects losses without waiting for the device, and writes their means now and then.

    Every process has one, since the means are over all of them; one of them
    ``writes``.
    """

    def __init__(self, out: Path, start: int, steps: int, batch: int, writes: bool) -> None:
        self._steps, self._batch, self._writes = steps, batch, writes
        self._sums: list[Tensor] = []
        self._start = self._last = time.monotonic()
        if self._writes:
            _forget(out / 'log.jsonl', start)
            self._file = open(out / 'log.jsonl', 'a', encoding='utf-8')
            self._board = SummaryWriter(str(out / 'tensorboard'), purge_step=start + 1)
            self._bar = tqdm(total=steps, initial=start, unit='step', dynamic_ncols=True)

    def losses(self, step: int, losses: Mapping[str, Tensor], lr: float) -> None:
        """Take the losses of one step, by name."""
        self._sums.append(torch.stack(list(losses.values())))
        if self._writes:
            self._bar.update()
        if len(self._sums) < EVERY and step != self._steps:
            return
        means = torch.stack(self._sums).mean(0).cpu()
        if distributed.is_initialized():
            distributed.all_reduce(means)
            means /= distributed.get_world_size()
        now = time.monotonic()
        rate = len(self._sums) * self._batch / (now - self._last)
        self._sums, self._last = [], now
        values = dict(zip(losses, means.tolist(), strict=True))
        loss = sum(values.values())
        self._write(step, {'loss': loss, **values, 'lr': lr, 'pictures_per_s': round(rate, 2)})
        if self._writes:
            self._bar.set_postfix(loss=f'{loss:.3f}', pictures_per_s=f'{rate:.1f}')

    def evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Take the mean IoU by data set."""
        self._write(step, {f'miou/{name}': value for name, value in results.items()})
        self.say(f'step {step}: mIoU ' + ', '.join(
            f'{name} {100 * value:.1f}' for name, value in results.items()))
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._writes:
            self._bar.write(text)

    def close(self) -> None:
        """Write what is left."""
        if self._writes:
            self._bar.close()
            self._board.close()
            self._file.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._writes:
            return
        seconds = round(time.monotonic() - self._start, 1)
        self._file.write(json.dumps({'step': step, 'seconds': seconds, **values}) + '\n')
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _forget(file: Path, start: int) -> None:
    """Drop the lines of steps after ``start``, which come again, and one that was cut short."""
    if file.exists():
        lines = file.read_text(encoding='utf-8').splitlines(keepends=True)
        write_atomically(file, ''.join(
            line for line in lines if line.endswith('\n') and json.loads(line)['step'] <= start))
