# SPDX-License-Identifier: Apache-2.0
"""A loss that is NaN or infinite ends a run, with the pictures that it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dgtl_core.learning.matcher import NonFiniteError
import torch
from torch import nn, Tensor


class _Loss(NamedTuple):
    step: int
    value: Tensor  # not looked at yet
    files: Sequence[str]


class FiniteLosses:
    """
    Looks at a loss when the next one is made: the matcher waits for the device then anyway.

    :param last: the checkpoint to go back to, for the message.
    """

    def __init__(self, last: Path) -> None:
        self._last, self._before = last, _Loss(0, torch.zeros(()), ())

    @contextmanager
    def forward(self, step: int, files: Sequence[str]) -> Iterator[None]:
        """Surround the computing of a loss; :raises NonFiniteError: it, or the one before, is."""
        try:
            yield
        except NonFiniteError:  # the matcher saw it first; the weights may be those of before
            self.look()
            raise self._error(_Loss(step, torch.tensor(torch.nan), files)) from None
        self.look()

    def expect(self, step: int, loss: Tensor, files: Sequence[str]) -> None:
        """Take the loss of ``step`` (from 0), to be looked at later."""
        self._before = _Loss(step, loss.detach(), files)

    def look(self) -> None:
        """Raise NonFiniteError where the last loss is NaN or infinite; waits for the device."""
        if not self._before.value.isfinite():
            raise self._error(self._before)

    def weights(self, model: nn.Module, step: int) -> None:
        """Raise NonFiniteError where a weight is NaN or infinite."""
        if not all(x.isfinite().all() for x in model.parameters()):
            raise NonFiniteError(f'weights are not finite after step {step}; {self._good()}')

    def _error(self, loss: _Loss) -> NonFiniteError:
        return NonFiniteError(
            f'the loss of step {loss.step + 1} is {float(loss.value)}, with the pictures '
            f'{list(loss.files)}; {self._good()}. Look at these pictures, lower optim.lr, set '
            'optim.clip_norm, or take precision fp32')

    def _good(self) -> str:
        return f'the last good checkpoint is {self._last}' if self._last.exists() else \
            'there is no checkpoint yet'
