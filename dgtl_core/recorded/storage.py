# SPDX-License-Identifier: Apache-2.0
"""Results on storage that is no disk of this machine: whatever fsspec reaches, such as S3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
import tempfile

from dgtl_core.recorded.sink import SinkError

_BUCKETS = {'s3', 's3a', 'gs', 'gcs', 'az', 'abfs'}  # what keeps files in buckets, or containers


class Storage:
    """
    A folder behind an address such as ``s3://bucket/run``. It can be pickled.

    Files are made on a local disk and go there when they are finished, so none is ever half there
    where the storage puts files as a whole, as object storages do.

    :raises SinkError: fsspec, or its package for such an address, is not installed, or there is
        no such kind of address, or it names no place.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise SinkError(f'to write to {url} install fsspec: pip install fsspec') from None
        kind, _, place = url.partition('://')
        if not kind or not place.strip('/'):
            raise SinkError(
                f'{url} names no place: expected an address such as s3://bucket/run')
        self._url = url.rstrip('/')
        try:
            self._files, self._root = fsspec.url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise SinkError(f'cannot write to {url}: {error}') from None

    def __str__(self) -> str:
        return self._url

    def filled(self) -> bool:
        """
        Return whether something is there.

        :raises OSError: there is no such bucket, which would be made by the first file.
        """
        bucket = self._root.partition('/')[0]
        kinds = self._files.protocol
        with self._faults():
            there = _BUCKETS.isdisjoint([kinds] if isinstance(kinds, str) else kinds) or \
                self._files.exists(bucket)
        if not there:
            raise FileNotFoundError(
                f'{self._url}: there is no bucket {bucket}, or your keys may not see it; make it, '
                'or correct the address')
        with self._faults():
            return self._files.isdir(self._root) and bool(
                self._files.ls(self._root, detail=False))

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None: there is none."""
        with self._faults():
            try:
                content: bytes = self._files.cat_file(f'{self._root}/{name}')
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._faults():
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f'{self._root}/{name}', content)

    def take(self, made: Sequence[Path], folder: Path) -> list[str]:
        """Move files, and all in folders, from below ``folder`` here; return their addresses."""
        addresses = []
        for path in made:
            for file in [path] if path.is_file() else sorted(path.rglob('*')):
                if file.is_file():
                    name = file.relative_to(folder).as_posix()
                    with self._faults():
                        self._files.makedirs(
                            f'{self._root}/{name}'.rpartition('/')[0], exist_ok=True)
                        self._files.put_file(str(file), f'{self._root}/{name}')
                    file.unlink()
            addresses.append(f'{self._url}/{path.relative_to(folder).as_posix()}')
        return addresses

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of storage raises what it likes
            raise OSError(f'{self._url}: {type(error).__name__}: {error}') from error


@contextmanager
def made_in(out: Path | Storage) -> Iterator[Path]:
    """Give the folder in which the files for ``out`` are made: itself, or one for a while."""
    if isinstance(out, Path):
        yield out
    else:
        with tempfile.TemporaryDirectory(prefix='dgtl-predict-') as folder:
            yield Path(folder)
