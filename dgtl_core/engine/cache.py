# SPDX-License-Identifier: Apache-2.0
"""
Built engines on disk: found again only if everything they depend on is the same.

One entry is a blob, ``<key>-<its sha256>.engine``, and a side file, ``<key>.json``, that says what
is inside. The side file is written last and in one step, so that a power cut at any moment leaves
the old engine or the new one. Nothing on disk is believed: a blob is used only if its size, its
sha256 and its key are the expected ones. Builders of one key wait for each other, and an engine is
not evicted while a process has it in use; both by locks that the kernel drops with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import asdict, dataclass, field
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
import re
import time
from typing import Any, BinaryIO

from dgtl_core.files import content_hash, file_sha256, put, workshop, write_atomically

FORMAT = 1
_LOG = logging.getLogger(__name__)
_POLL = 0.1  # seconds between two looks at a lock that another process holds
_OURS = re.compile(r'[0-9a-f]{64}-[0-9a-f]{16}\.engine')  # other engines are not ours to touch


class EngineCacheError(RuntimeError):
    """An engine could not be stored or read; what was there before is still there."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an engine depends on: if one of these differs, it is another engine."""

    model_sha256: str
    gpu: str                 # its name, as the driver gives it
    compute_capability: str  # '8.7'
    tensorrt: str            # library and full version: 'tensorrt 10.3.0.26'
    cuda: str
    driver: str
    precision: str
    shape: tuple[int, ...]   # of the input, as built
    options: dict[str, str | int | float | bool | None] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the sha256 of all fields, hexadecimal."""
        text = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


class EngineCache:
    """
    A folder of engines.

    :param root: the folder; made if missing.
    :param max_bytes: above it the engines that were not used for the longest time are removed,
        never one that a process has in use.
    :raises EngineCacheError: ``~`` stands for no folder here.
    """

    def __init__(self, root: str | Path, max_bytes: float = 8 << 30) -> None:
        if max_bytes <= 0:
            raise ValueError(f'max_bytes must be above 0, got {max_bytes}')
        try:
            self.root = Path(root).expanduser()
        except RuntimeError as error:  # a user that there is not, or without a home
            raise EngineCacheError(
                f'{root} is no folder for engines: {error} Write it in full.') from None
        self.max_bytes = max_bytes
        self._in_use: dict[str, BinaryIO] = {}

    def get_or_build(self, key: EngineKey, build: Callable[[Path], None],
                     rebuild: bool = False) -> Path:
        """
        Return the engine's file, built if it is missing, stale or broken.

        The file stays where it is until :meth:`close`, whatever other processes do. Another
        builder of the same key is waited for. What ``build`` raises is passed on; nothing is
        kept then.

        :param build: writes the engine to the path that it is given, in a folder where it may
            leave other files, too: all of them go.
        :param rebuild: build in any case; the old engine stays until the new one is complete.
        :raises EngineCacheError: the folder cannot be used, is full, or nothing was built.
        """
        if not rebuild and (found := self.find(key)):
            return found
        digest = key.digest()
        self._make_root()
        with self._building(digest):
            found = None if rebuild else self.find(key)  # somebody else may just have built it
            if found is None:
                self._sweep(digest)
                self._build(key, build)
                found = self.find(key)
                if found is None:
                    raise EngineCacheError(
                        f'the engine that was just written to {self.root} reads back wrong: the '
                        'disk or another program changes it; choose another folder')
                self._sweep(digest)
        self._evict()
        return found

    def close(self) -> None:
        """Let others evict what this cache returned."""
        while self._in_use:
            self._in_use.popitem()[1].close()

    def __enter__(self) -> EngineCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def find(self, key: EngineKey) -> Path | None:
        """
        Return the engine if there is one and everything about it is right; waits for no builder.

        The file stays where it is until :meth:`close`.
        """
        digest = key.digest()
        side = self._side_path(digest)
        if not side.exists():
            return None
        try:
            path, file = self._open(key, digest)
        except (OSError, ValueError) as error:
            _LOG.warning('the engine of %s is not used: %s', side, error)
            return None
        if digest in self._in_use:
            self._in_use[digest].close()
        self._in_use[digest] = file
        with contextlib.suppress(OSError):  # a folder that is read-only has no order of use
            os.utime(side)
        return path

    def _open(self, key: EngineKey, digest: str) -> tuple[Path, BinaryIO]:
        side = self._side(digest)
        if side['key'] != json.loads(json.dumps(asdict(key))):
            raise ValueError('it describes another engine')
        path = self._blob(digest, side['sha256'])
        file = open(path, 'rb')  # stays open: its lock says "in use"
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            status = os.fstat(file.fileno())
            if not status.st_nlink:
                raise ValueError('it was evicted in this moment')
            if status.st_size != side['size']:
                raise ValueError(f'{path.name} has {status.st_size} bytes, not {side["size"]}')
            if content_hash(file) != side['sha256']:
                raise ValueError(f'the content of {path.name} has changed')
        except BaseException:
            file.close()
            raise
        return path, file

    def _build(self, key: EngineKey, build: Callable[[Path], None]) -> None:
        start = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(workshop(self.root))
            except OSError as error:
                raise EngineCacheError(
                    f'cannot write to the engine cache {self.root}: {error.strerror}; choose '
                    'another folder') from error
            engine = folder / 'model.engine'
            build(engine)
            if not engine.is_file() or not engine.stat().st_size:
                raise EngineCacheError(f'the builder left no engine at {engine}')
            self._store(key, engine, time.monotonic() - start)

    def _store(self, key: EngineKey, engine: Path, seconds: float) -> None:
        digest, sha256, size = key.digest(), file_sha256(engine), engine.stat().st_size
        side = {
            'format': FORMAT, 'key': asdict(key), 'sha256': sha256, 'size': size,
            'built': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
            'build_seconds': round(seconds, 3)}
        try:
            put({engine: self._blob(digest, sha256)})
            write_atomically(self._side_path(digest), json.dumps(side, indent=1))
        except OSError as error:
            raise EngineCacheError(
                f'cannot write an engine of {size / 1e6:.1f} MB to {self.root}: '
                f'{error.strerror}; free some space there or choose another folder') from error

    def _make_root(self) -> None:
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EngineCacheError(
                f'cannot make the engine cache {self.root}: {error.strerror}; choose another '
                'folder') from error

    @contextlib.contextmanager
    def _building(self, digest: str) -> Iterator[None]:
        """Hold the lock of the builders of this key; wait for it with a message."""
        waiting = time.monotonic()
        said = False
        while (lock := self._try_lock(digest)) is None:
            if not said:
                _LOG.warning('another process builds engine %s in %s; waiting for it',
                             digest[:12], self.root)
                said = True
            time.sleep(_POLL)
        if said:
            _LOG.info('waited %.1f s for the other builder', time.monotonic() - waiting)
        with lock:
            yield

    def _try_lock(self, digest: str) -> BinaryIO | None:
        """Return the builders' lock of a key, which closing gives back; None: somebody has it."""
        while True:
            try:
                file = open(self.root / f'{digest}.lock', 'ab')
            except OSError as error:
                raise EngineCacheError(
                    f'cannot write to the engine cache {self.root}: {error.strerror}; choose '
                    'another folder') from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            except OSError as error:
                file.close()
                raise EngineCacheError(
                    f'cannot lock files in the engine cache {self.root}: {error.strerror}; '
                    'choose a folder on a local disk') from error
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()  # it was removed between open and lock: this lock says nothing

    def _side(self, digest: str) -> dict[str, Any]:
        side = json.loads(self._side_path(digest).read_text(encoding='utf-8'))
        kinds = {'format': int, 'key': dict, 'sha256': str, 'size': int}
        if (not isinstance(side, dict) or side.get('format') != FORMAT
                or not all(isinstance(side.get(k), kind) for k, kind in kinds.items())):
            raise ValueError(f'not a side file of format {FORMAT}')
        return side

    def _sweep(self, digest: str) -> None:
        """Remove what earlier builders of this key left behind; needs the builders' lock."""
        try:
            current = self._blob(digest, self._side(digest)['sha256'])
        except (OSError, ValueError):
            current = None
        for path in self.root.glob(f'{digest}*'):
            if _OURS.fullmatch(path.name) and path != current:
                _remove_unused(path)

    def _evict(self) -> None:
        """Remove the engines with the oldest use until the rest is small enough."""
        sizes = {p: _status(p).st_size for p in self.root.iterdir() if _OURS.fullmatch(p.name)}
        total = sum(sizes.values())
        # What has no side file is left over from a builder that was killed: it goes first.
        digests = sorted({p.name[:64] for p in sizes},
                         key=lambda d: _status(self._side_path(d)).st_mtime)
        for digest in digests:
            if total <= self.max_bytes:
                return
            lock = self._try_lock(digest)
            if lock is None:
                continue
            with lock:
                mine = [p for p in sizes if p.name.startswith(digest)]
                gone = [p for p in mine if _remove_unused(p)]
                total -= sum(sizes[p] for p in gone)
                if gone == mine:
                    self._side_path(digest).unlink(missing_ok=True)
                    Path(lock.name).unlink(missing_ok=True)
                    _LOG.info('evicted engine %s from %s', digest[:12], self.root)
        if total > self.max_bytes:
            _LOG.warning(
                'the engines in use in %s take %.1f MB, more than the limit of %.1f MB',
                self.root, total / 1e6, self.max_bytes / 1e6)

    def _side_path(self, digest: str) -> Path:
        return self.root / f'{digest}.json'

    def _blob(self, digest: str, sha256: str) -> Path:
        return self.root / f'{digest}-{sha256[:16]}.engine'


def _status(path: Path) -> os.stat_result:
    """Return the file's status; all zero if another process has just removed it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return os.stat_result([0] * 10)


def _remove_unused(path: Path) -> bool:
    """Remove the file unless a process has it in use; return whether it is gone."""
    try:
        with open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
