# SPDX-License-Identifier: Apache-2.0
"""Notices, without a GPU, what would make the host wait for one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoWait(TorchDispatchMode):
    """Refuses every operation that would make the host wait for a GPU."""

    waits = {'_local_scalar_dense', 'nonzero', 'masked_select', 'unique_consecutive', '_unique2',
             'unique_dim', 'is_nonzero', 'equal', 'item', 'multinomial'}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.waits or (name in ('index', 'index_put', 'index_put_') and any(
                x is not None and x.dtype == torch.bool for x in args[1])):
            raise AssertionError(f'{name} waits for the device')
        if name == '_to_copy' and 'device' in (kwargs or {}):
            raise AssertionError('copies between devices')
        return func(*args, **(kwargs or {}))
