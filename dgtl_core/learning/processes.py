# SPDX-License-Identifier: Apache-2.0
"""Several processes that learn, or measure, what one would with all the pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
import os
from typing import TypeVar

from dgtl_core.runtime.board import cpu_has_bfloat16
import numpy as np
import torch
from torch import distributed, nn, Tensor
from torch.nn.parallel import DistributedDataParallel

T = TypeVar('T')


@dataclass(frozen=True)
class Processes:
    """This process among all; alone where torchrun did not start it."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device('cpu')

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """
        Take the place that torchrun gave this process, and wait until all are there.

        :param device: with a GPU and without an index, each process takes its own.
        """
        rank, world = (int(os.environ.get(key, alone)) for key, alone in (
            ('RANK', 0), ('WORLD_SIZE', 1)))
        if world > 1 and not distributed.is_initialized():
            distributed.init_process_group(
                'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo')
        if device.type == 'cuda':
            device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', device.index or 0)))
            torch.cuda.set_device(device)
        return cls(rank, world, device)

    def leave(self) -> None:
        """End the connection; nothing where there is none."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def add_up(self, values: np.ndarray) -> None:
        """Put the sum over all processes in the place of ``values``."""
        if self.world > 1:
            distributed.all_reduce(torch.from_numpy(values))

    def collect(self, value: T) -> list[T]:
        """Return the values of all processes, in order."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def share(self, module: nn.Module) -> tuple[
            nn.Module, Callable[[], AbstractContextManager[None]]]:
        """
        Return the module as all processes train it, and a context that gradients do not leave.
        """
        module = module.to(self.device)
        if self.world == 1:
            return module, nullcontext
        if self.device.type == 'cuda':
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        joint = DistributedDataParallel(module, find_unused_parameters=True)
        return joint, joint.no_sync

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process."""
        flag = np.array(float(here))
        self.add_up(flag)
        return bool(flag)


def autocast_type(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type of autocast; 'auto' is bfloat16 where the hardware multiplies in it."""
    if wanted == 'auto':
        fast = (torch.cuda.is_bf16_supported(including_emulation=False) if device.type == 'cuda'
                else cpu_has_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if wanted == 'bf16' else torch.float32


def mean_over_processes(values: Tensor) -> Tensor:
    """
    Return the mean over all processes; without a wait for the device, and without a gradient.

    A loss that divides by such a mean has, averaged over the processes, the gradient of the loss
    of the joint batch.
    """
    values = values.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    values = values.to(torch.promote_types(values.dtype, torch.float32)).clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()
