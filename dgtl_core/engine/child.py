# SPDX-License-Identifier: Apache-2.0
"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import os
import sys

# In the new process, before the program that it becomes: the kernel sends the signal when the
# thread that started it is gone, which may already be so.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tied() -> list[str]:
    """
    Return what to put in front of a command, so that its process is killed when we are gone.

    We: the thread that starts it. The command's program needs a full path. Linux can do that;
    elsewhere nothing is put in front.
    """
    if sys.platform != 'linux':
        return []
    return [sys.executable, '-I', '-S', '-c', _TIE, str(os.getpid())]
