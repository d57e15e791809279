# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """
    Give a temporary path in the folder of ``path``; what is written there takes its place.

    Where the block raises, nothing stays behind, and what was at ``path`` before still is.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part{path.suffix}')
    try:
        yield temporary
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
