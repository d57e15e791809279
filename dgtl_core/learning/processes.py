# SPDX-License-Identifier: Apache-2.0
"""Several training processes that learn what one with the joint batch would."""

from __future__ import annotations

import torch
from torch import distributed, Tensor


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
