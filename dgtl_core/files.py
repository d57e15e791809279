# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import signal
import sys


def destination(path: Path, suffix: str, *, force: bool = True,
                sources: Iterable[Path] = ()) -> None:
    """
    Make the folder of a file that a long run is going to write, and find out now if it cannot.

    :param force: overwrite a file that is there.
    :param sources: what the run reads, and must not overwrite.
    :raises ValueError: the name has another suffix, is that of a folder or of a source, or there
        is such a file already.
    :raises OSError: there is no such folder and there can be none.
    """
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f'the result must be a file that ends in {suffix}, got {path}')
    if any(path.resolve() == source.resolve() for source in sources):
        raise ValueError(f'{path} is what is read here; give the result another name')
    if path.exists() and not force:
        raise ValueError(f'{path} exists; --force overwrites it, another name keeps it')
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


def shipped(name: str) -> Path:
    """
    Find a file of ``models/``: in the source tree, or where it was installed.

    :raises FileNotFoundError: it is in none of the places; the message lists them.
    """
    # A checkout has it beside the package; pip and colcon put it below the prefix they install to.
    parents = Path(__file__).resolve().parents
    places = [parents[1] / 'models' / name]
    places += [parent / 'share' / 'dgtl_ros' / 'models' / name for parent in parents[1:]]
    for candidate in places:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f'{name} is neither at {places[0]} nor in share/dgtl_ros/models of a folder above it; '
        'install the package again')
