# SPDX-License-Identifier: Apache-2.0
"""
What killed processes left of Fast DDS's shared memory: 64 MiB each, until somebody removes it.

Fast DDS removes the segment NAME when its process ends well, and after a kill never. While it is
in use NAME_el is locked (flock); ``fastdds shm clean`` goes by the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
import re
import time

_LOCKS = re.compile(r'fast(dds|rtps)_[0-9a-f]{16}_el')  # those of ports are used again
_MAKING_S = 0.05  # until one that is just being made is locked, which takes microseconds


def remove_abandoned(folder: Path = Path('/dev/shm')) -> int:
    """
    Remove the segments of this user's processes that are gone; return their bytes together.

    What cannot be looked at or removed stays.
    """
    freed = 0
    with contextlib.suppress(OSError):  # another system; Fast DDS knows where its memory is there
        names = list(filter(_LOCKS.fullmatch, os.listdir(folder)))
        if names:
            time.sleep(_MAKING_S)
        for name in names:
            with contextlib.suppress(OSError):  # in use, or somebody was faster
                freed += _remove(folder / name)
    return freed


def _remove(lock: Path) -> int:
    if lock.stat().st_uid != os.geteuid():
        return 0
    with open(lock, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is in use
        segment = lock.with_name(lock.name.removesuffix('_el'))
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = segment.stat().st_blocks * 512
            segment.unlink()
        lock.unlink()
    return size
