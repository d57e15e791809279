# SPDX-License-Identifier: Apache-2.0
"""
What a domain is fitted on: signatures of normal drives, and of corrupted copies of them.

Shape legend: T pictures of a drive, n copied ones, D length of a signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
import math
from typing import NamedTuple

from dgtl_core.domain_model import DomainError
import numpy as np

WINDOW = 10          # pictures over which false alarms are counted
LEAST_OF_A_DRIVE = WINDOW
LEAST_PICTURES = 20  # of all drives together
_LEAST_COPIES = 4    # directions that one half of them gives are tried on the other
_SHARED = 0.5        # of the shorter of two drives: they are one recording


class Copies(NamedTuple):
    """Signatures of the same pictures before and after a corruption, (n, D) each."""

    clean: np.ndarray
    corrupted: np.ndarray


def checked_drives(drives: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    Return the drives as float64, each (T, D), without pictures that repeat the one before.

    :raises DomainError: one has too few pictures, or those of another drive; numbers are not
        finite, or signatures of two lengths. The message says what to do.
    """
    given = {name: _matrix(f'the drive {name}', drive) for name, drive in drives.items()}
    _of_one_length(given)
    checked = {name: _without_repeats(drive) for name, drive in given.items()}
    total, all_given = (sum(map(len, part.values())) for part in (checked, given))
    require_enough(total, all_given)
    for name, new in checked.items():
        require_pictures(name, len(new), len(given[name]))
    _all_different(checked)
    return checked


def require_enough(total: int, given: int | None = None) -> None:
    """
    Refuse drives that are too short together.

    :param given: with the pictures that repeat the one before.
    :raises DomainError: they have fewer than ``LEAST_PICTURES``.
    """
    if total < LEAST_PICTURES:
        raise DomainError(
            f'{_counted(total, given or total)}: too few to know what is normal. Give at least '
            f'{LEAST_PICTURES}, better some hundred from three or more drives.')


def require_pictures(name: str, count: int, given: int | None = None) -> None:
    """
    Refuse a drive that is too short to be judged.

    :param given: with the pictures that repeat the one before.
    :raises DomainError: it has fewer than ``LEAST_OF_A_DRIVE``.
    """
    if count < LEAST_OF_A_DRIVE:
        raise DomainError(
            f'the drive {name} has {_counted(count, given or count)}, and each drive needs at '
            f'least {LEAST_OF_A_DRIVE}. Leave it out, or give a longer one; all pictures of a '
            'drive belong in one folder, video or bag.')


def most_new_places(alarmed: int, count: int) -> float:
    """
    Return which share of new places raises a false alarm at most, with 95 % confidence.

    The upper end of Clopper and Pearson's interval (1934), one-sided: the share at which so few
    alarms have a chance of 5 %.

    :param alarmed: of ``count`` drives that were left out.
    """
    low, high = alarmed / count, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = sum(math.comb(count, k) * share ** k * (1 - share) ** (count - k)
                     for k in range(alarmed + 1))
        low, high = (share, high) if chance > 0.05 else (low, share)
    return high


def checked_copies(copies: Mapping[str, Copies], length: int) -> dict[str, Copies]:
    """
    Return the copies as float64, by name in alphabetical order.

    :param length: of a signature of the drives.
    :raises DomainError: there are none, or too few; they have no finite numbers, or other shapes.
    """
    if not copies:
        raise DomainError('a domain needs corrupted copies of at least one kind, got none')
    checked = {}
    for name in sorted(copies):
        clean, corrupted = (_matrix(f'the {word} pictures of {name}', part)
                            for word, part in zip(Copies._fields, copies[name]))
        if clean.shape != corrupted.shape or clean.shape[1] != length:
            raise DomainError(
                f'the copies of {name} must have the shape of their originals and the length of '
                f'the drives, {length}, got {corrupted.shape} and {clean.shape}')
        if len(clean) < _LEAST_COPIES:
            raise DomainError(
                f'the corruption {name} needs at least {_LEAST_COPIES} pictures, got {len(clean)}')
        checked[name] = Copies(clean, corrupted)
    return checked


def _matrix(what: str, signatures: np.ndarray) -> np.ndarray:
    array = np.asarray(signatures)
    if array.size == 0:
        return np.zeros((0, 0))
    if array.ndim != 2 or array.dtype.kind not in 'fiu':
        raise DomainError(
            f'{what} must be numbers of the shape (pictures, length of a signature), got '
            f'{array.dtype} of {array.shape}')
    array = array.astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(broken):
        raise DomainError(
            f'{what}: the model gives numbers that are not finite for {len(broken)} of '
            f'{_pictures(len(array))}, first for number {broken[0] + 1}. Export the model with '
            '--precision fp32, or run it on the CPU (--device cpu).')
    return array


def _without_repeats(drive: np.ndarray) -> np.ndarray:
    if len(drive) < 2:
        return drive
    return drive[np.r_[True, (drive[1:] != drive[:-1]).any(axis=1)]]


def _counted(new: int, given: int) -> str:
    if new == given:
        return _pictures(new)
    return f'{_pictures(new)} and {given - new} repeated (was the camera stuck?)'


def _of_one_length(drives: Mapping[str, np.ndarray]) -> None:
    lengths = {name: drive.shape[1] for name, drive in drives.items() if len(drive)}
    if len(set(lengths.values())) > 1:
        raise DomainError(
            'all drives need signatures of one model file, got the lengths '
            + ', '.join(f'{length} ({name})' for name, length in lengths.items()))


def _all_different(drives: Mapping[str, np.ndarray]) -> None:
    """Drives that share pictures would be their own proof when one of them is left out."""
    rows = {name: _rows(drive) for name, drive in drives.items()}
    for one, other in combinations(rows, 2):
        same = len(rows[one] & rows[other])
        if same > _SHARED * min(len(rows[one]), len(rows[other])):
            raise DomainError(
                f'{_pictures(same)} of the drive {one} are in {other} too: give each drive once')


def _rows(signatures: Iterable[np.ndarray]) -> set[bytes]:
    return {row.tobytes() for row in signatures}


def _pictures(count: int) -> str:
    return f'{count} picture' + 's' * (count != 1)
