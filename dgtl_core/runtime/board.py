# SPDX-License-Identifier: Apache-2.0
"""
What the computer says about itself: memory, temperature, power of its GPU; read, never set.

A Jetson tells it in files, any other NVIDIA GPU through the driver's management library (NVML).
Neither has been read on such a machine yet: names and numbers are those of the vendor's manual and
bindings, files and library were stand-ins.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
import re

_NVML = 'libnvidia-ml.so.1'
_REASONS = {  # bits of nvmlDeviceGetCurrentClocksThrottleReasons that mean a fault
    0x08: 'hardware slowdown', 0x20: 'temperature (driver)', 0x40: 'temperature (hardware)',
    0x80: 'power brake'}


class Device:
    """
    The GPU that the model runs on.

    :param name: the parameter ``device``: auto, cpu, cuda or cuda:N.
    :param root: where the file system starts.
    """

    def __init__(self, name: str, root: Path = Path('/')) -> None:
        self._root = root
        self._board = ''
        self._library: ctypes.CDLL | None = None
        self._handle = ctypes.c_void_p()
        if name == 'cpu':
            return
        board = _text(root / 'proc/device-tree/model')
        if 'Jetson' in board:
            self._board = board
            self._events = self._over_current()
        else:
            self._open(_visible(int(name.partition(':')[2] or 0)))

    def read(self) -> dict[str, object]:
        """Return the figures there are; nothing where the model has no GPU, or after close."""
        if self._board:
            return self._jetson()
        return self._nvml() if self._library is not None else {}

    def close(self) -> None:
        """Let the driver's library go; what is closed may be closed again."""
        if self._library is not None:
            self._ask('nvmlShutdown')
        self._board, self._library = '', None

    def _jetson(self) -> dict[str, object]:
        values: dict[str, object] = {'gpu': self._board}
        memory = dict(re.findall(r'(\w+): +(\d+) kB', _text(self._root / 'proc/meminfo')))
        if 'MemTotal' in memory and 'MemAvailable' in memory:
            total = int(memory['MemTotal']) // 1024  # CPU and GPU share it
            values['mem_used_mb'] = total - int(memory['MemAvailable']) // 1024
            values['mem_total_mb'] = total
        zones = [_number(p) for p in self._root.glob('sys/class/thermal/thermal_zone*/temp')]
        known = [zone for zone in zones if zone is not None]
        if known:
            values['temp_c'] = max(known) / 1000
        mode = _text(self._root / 'var/lib/nvpmodel/status').partition(':')[2]
        if mode.isdigit():
            name = re.search(rf'POWER_MODEL +ID={int(mode)} +NAME=(\S+)',
                             _text(self._root / 'etc/nvpmodel.conf'))
            values['power_mode'] = name[1] if name else int(mode)
        events = self._over_current() - self._events
        values['throttling'] = f'over-current ({events} times)' if events else ''
        return values

    def _over_current(self) -> int:
        counts = (_number(p) for p in self._root.glob('sys/class/hwmon/hwmon*/oc*_event_cnt'))
        return sum(count or 0 for count in counts)

    def _open(self, index: int) -> None:
        try:
            self._library = ctypes.CDLL(_NVML)
        except OSError:
            return
        if not self._ask('nvmlInit_v2'):
            self._library = None
        elif not self._ask('nvmlDeviceGetHandleByIndex_v2', index, ctypes.byref(self._handle)):
            self.close()

    def _nvml(self) -> dict[str, object]:
        handle, values = self._handle, dict[str, object]()
        name = ctypes.create_string_buffer(96)
        if self._ask('nvmlDeviceGetName', handle, name, 96):
            values['gpu'] = name.value.decode(errors='replace')
        memory = (ctypes.c_ulonglong * 3)()  # total, free, used
        if self._ask('nvmlDeviceGetMemoryInfo', handle, memory):
            values['mem_used_mb'], values['mem_total_mb'] = memory[2] >> 20, memory[0] >> 20
        degrees, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
        if self._ask('nvmlDeviceGetTemperature', handle, 0, ctypes.byref(degrees)):
            values['temp_c'] = degrees.value
        if self._ask('nvmlDeviceGetCurrentClocksThrottleReasons', handle, ctypes.byref(reasons)):
            values['throttling'] = ', '.join(
                text for bit, text in _REASONS.items() if reasons.value & bit)
        return values

    def _ask(self, name: str, *arguments: object) -> bool:
        """Call a function of the library; return whether it exists and did what it should."""
        function = getattr(self._library, name, None)
        return function is not None and function(*arguments) == 0


def cpu_has_bfloat16(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Say whether this CPU multiplies bfloat16 (AMX, AVX512-BF16, ARM), as the kernel lists it."""
    flags = next((line for line in _text(cpuinfo).splitlines()
                  if line.startswith(('flags', 'Features'))), '').split()
    return bool({'amx_bf16', 'avx512_bf16', 'bf16'} & set(flags))


def _visible(index: int) -> int:
    """Return NVML's number of CUDA's GPU; NVML knows nothing of CUDA_VISIBLE_DEVICES."""
    shown = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
    return int(shown[index]) if index < len(shown) and shown[index].strip().isdecimal() else index


def _text(path: Path) -> str:
    """Return what a small file says; nothing where it cannot be read."""
    try:
        return path.read_text(encoding='utf-8', errors='replace').strip('\0 \n')
    except OSError:
        return ''


def _number(path: Path) -> int | None:
    """Return the number in a file of the kernel; sensors that are off refuse to be read."""
    text = _text(path)
    return int(text) if text.lstrip('-').isdigit() else None
