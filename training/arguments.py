# SPDX-License-Identifier: Apache-2.0
"""Numbers of a command line, refused at once where nothing can be done with them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

_MOST_MINUTES = 7 * 24 * 60


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not below ``least``, for argparse."""
    def read(text: str) -> int:
        if not text.strip().lstrip('+-').isdecimal() or int(text) < least:
            raise ArgumentTypeError(f'must be a whole number of at least {least}, got {text!r}')
        return int(text)

    return read


def positive(text: str, most: float = 1e9) -> float:
    """
    Read a number above 0, for argparse.

    :raises ArgumentTypeError: it is none, not finite, or above ``most``.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:  # so that nan is refused, too
        raise ArgumentTypeError(f'must be more than 0 and at most {most:g}, got {text!r}')
    return number


def minutes(text: str) -> float:
    """Read a time in minutes, a week at most, for argparse."""
    return positive(text, _MOST_MINUTES)
