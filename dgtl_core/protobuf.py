# SPDX-License-Identifier: Apache-2.0
"""
Read single fields out of a protobuf file, within a limit and without its schema.

A message is a list of (field number, content). What is not asked for is skipped by its length, so
the weights of a model are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import mmap
from pathlib import Path

MAX_FIELDS = 500_000  # that are looked at in a file: half a second


class Message:
    """One message inside a mapped file; iterates over number and content of what has a length."""

    def __init__(self, data: mmap.mmap, start: int, end: int, budget: list[int]) -> None:
        self._data, self._start, self._end = data, start, end
        self._budget = budget  # fields that may still be looked at, of the whole file

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        at, end = self._start, self._end
        while at < end:
            self._budget[0] -= 1
            if self._budget[0] < 0:
                raise ValueError(f'more than {MAX_FIELDS} fields')
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if not number:
                raise ValueError('a field has the number 0')
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 0:
                _, at = self._varint(at)
            elif kind == 2:
                size, at = self._varint(at)
            elif not size:
                raise ValueError(f'unknown wire type {kind}')
            if at + size > end:
                raise ValueError('a field ends behind the message')
            if kind == 2:
                yield number, Message(self._data, at, at + size, self._budget)
            at += size

    def of(self, *numbers: int) -> Iterator[Message]:
        """Yield the contents of all fields with one of these numbers."""
        return (content for number, content in self if number in numbers)

    def first(self, number: int) -> Message:
        """Return the content of the first field with a number; :raises ValueError: none."""
        for content in self.of(number):
            return content
        raise ValueError(f'there is no field {number}')

    def text(self, limit: int) -> str:
        """Return the content as text; :raises ValueError: more bytes than ``limit``."""
        if len(self) > limit:
            raise ValueError(f'a text of {len(self)} bytes, {limit} are read')
        return self._data[self._start:self._end].decode('utf-8')

    def leading_number(self, field: int) -> int | None:
        """Return the number in a field that comes first in the message; None: another does."""
        if not len(self) or self._data[self._start] != field << 3:
            return None
        return self._varint(self._start + 1)[0]

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            if at >= self._end:
                raise ValueError('a number ends behind the message')
            byte = self._data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at
        raise ValueError('a number of more than 64 bits')


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[tuple[mmap.mmap, Message]]:
    """Map a file that is not empty into memory: its bytes, and the message that it is."""
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data, Message(data, 0, len(data), [MAX_FIELDS])
