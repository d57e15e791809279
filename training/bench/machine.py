# SPDX-License-Identifier: Apache-2.0
"""What a measurement ran on, and how much memory it took."""

from __future__ import annotations

import gc
import os
from pathlib import Path
import platform
import resource
import sys

import torch

_CLEAR, _STATUS = Path('/proc/self/clear_refs'), Path('/proc/self/status')


def machine(device: torch.device) -> dict[str, object]:
    """Say where the numbers come from."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith('model name')]
        cpu = names[0] if names else cpu
    gpu = {'gpu': torch.cuda.get_device_name(device)} if device.type == 'cuda' else {}
    return {'cpu': cpu, 'cores': os.cpu_count(), **gpu, 'python': platform.python_version(),
            'torch': torch.__version__, 'load_before': round(os.getloadavg()[0], 2)}


class PeakMemory:
    """
    The most memory in use since this object was made, in MiB.

    On a GPU what PyTorch has allocated there; else what the process holds, libraries and weights
    included. Where the kernel cannot forget the former peak, it is that of the whole process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            _CLEAR.write_text('5')  # Linux: forget the peak so far
        except OSError:
            pass

    def mib(self) -> float:
        """Return the peak."""
        if self._device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        if _STATUS.is_file():
            lines = _STATUS.read_text().splitlines()
            return next(int(x.split()[1]) for x in lines if x.startswith('VmHWM')) / 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == 'darwin' else 2**10)
