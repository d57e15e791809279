# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import signal
import sys


def destination(path: Path, suffix: str) -> None:
    """
    Make the folder of a file that a long run is going to write, and find out now if it cannot.

    :raises ValueError: the name has another suffix, or is that of a folder.
    :raises OSError: there is no such folder and there can be none.
    """
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f'the result must be a file that ends in {suffix}, got {path}')
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'nothing can be written to the folder {path.parent}')


def tidy_on_signals() -> None:
    """
    Let SIGTERM and SIGHUP (a closed terminal) end this program by SystemExit, as Ctrl-C raises.

    So that what tidies up after half-written files still runs. The exit code is 128 and the
    signal's number, as a shell reports it. What is ignored (nohup) stays so.
    """
    def end(number: int, frame: object) -> None:
        with suppress(OSError):  # a closed terminal; print() may not be used in here
            os.write(2, f'\nstopped by {signal.Signals(number).name}\n'.encode())
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """
    Give a temporary path in the folder of ``path``; what is written there takes its place.

    Where the block raises, nothing stays behind, and what was at ``path`` before still is.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part{path.suffix}')
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # some writers make their files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """
    Write a file; text as UTF-8.

    :raises OSError: it could not be written; what was there before still is.
    """
    with placing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
