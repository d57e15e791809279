# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
import fcntl
from functools import lru_cache
import hashlib
import io
import os
from pathlib import Path
import shutil
import signal
import sys
import tempfile
from typing import BinaryIO

_CHUNK = 1 << 22  # bytes
_PREFIX, _SUFFIX = '.dgtl-', '.part'


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
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'nothing can be written to the folder {path.parent}')


def make_folder(folder: Path) -> None:
    """
    Make a folder for results, and those above it.

    :raises NotADirectoryError: there is a file in its place, or above it.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(
                f'{place} is a file, and the results need a folder; give another name')
    folder.mkdir(parents=True, exist_ok=True)


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with open(path, 'rb') as file:
        return content_hash(file)


def content_hash(file: BinaryIO, kind: str = 'sha256') -> str:
    """Return the hash of what is left to read of an open file, hexadecimal."""
    digest = hashlib.new(kind, usedforsecurity=kind != 'md5')
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


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


def put(files: Mapping[Path, Path]) -> None:
    """
    Give written files, or whole folders, their places on the same disk, once all are safely on it.
    """
    for written in files:
        for file in [written, *written.rglob('*')]:
            number = os.open(file, os.O_RDONLY)
            os.fsync(number)
            os.close(number)
    for written, place in files.items():
        os.replace(written, place)


def print_any_text() -> None:
    """
    Let this program print names in any language on a terminal that knows none of it (LC_ALL=C),
    and file names that are no valid text: what cannot be shown is written as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """
    Give a temporary path of the same name; what is written there takes the place of ``path``.

    Where the block raises, nothing stays behind, and what was at ``path`` before still is.
    """
    with placing_all([path]) as [temporary]:
        yield temporary


@contextmanager
def placing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """
    Do as :func:`placing` does for files of one folder, all of which are written before one moves.

    """
    with workshop(paths[0].parent) as folder:
        temporaries = [folder / path.name for path in paths]
        for temporary in temporaries:
            temporary.touch()
        mode = temporaries[0].stat().st_mode
        yield temporaries
        for temporary in temporaries:
            os.chmod(temporary, mode)  # some writers make their files private
        put(dict(zip(temporaries, paths)))


@contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """
    Make a folder below ``parent`` to write in, which is removed after the block.

    It holds a lock, so that the next writer knows what a killed one has left there, and removes
    it. What is finished gets its place by :func:`put`.
    """
    _remove_leftovers(parent.absolute())
    while True:
        try:
            folder = Path(tempfile.mkdtemp(suffix=_SUFFIX, prefix=_PREFIX, dir=parent))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(parent)) from None
        number = _locked(folder)
        if number is not None:  # else somebody who tidies has taken it for a leftover
            break
    try:
        yield folder
    finally:
        os.close(number)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """Return a file descriptor that holds the lock of a folder; None: it has another owner."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a disk that knows no locks
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            return None
    if os.fstat(number).st_nlink:
        return number
    os.close(number)  # removed in this moment
    return None


@lru_cache(maxsize=256)  # a folder is looked through once, however many files are written there
def _remove_leftovers(parent: Path) -> None:
    """Remove what killed writers left in a folder, when this process first writes there."""
    for folder in parent.glob(f'{_PREFIX}*{_SUFFIX}'):
        number = _locked(folder)
        if number is not None:
            with suppress(OSError):  # where there are no locks nobody knows: it stays
                fcntl.flock(number, fcntl.LOCK_EX)
                shutil.rmtree(folder, ignore_errors=True)
            os.close(number)


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """
    Write a file; text as UTF-8.

    :raises OSError: it could not be written; what was there before still is.
    """
    with placing(path) as temporary:
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:  # of the user's file, not of the temporary one
            raise OSError(error.errno, error.strerror, str(path)) from None


def shipped(name: str, folder: str = 'models') -> Path:
    """
    Find a file of ``models/``, or of ``config/classes``: in the source tree, or where installed.

    :raises FileNotFoundError: it is in none of the places; the message lists them.
    """
    # A checkout has it beside the package; pip and colcon put it below the prefix they install to.
    parents = Path(__file__).resolve().parents
    places = [parents[1] / folder / name]
    places += [parent / 'share' / 'dgtl_ros' / folder / name for parent in parents[1:]]
    for candidate in places:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f'{name} is neither at {places[0]} nor in share/dgtl_ros/{folder} of a folder above '
        'it; install the package again')
