# SPDX-License-Identifier: Apache-2.0
"""Numbers of a command line, refused at once where nothing can be done with them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not below ``least``, for argparse."""
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f'must be a whole number of at least {least}, got {text!r}')
        return number

    return read


def positive(most: float = 1e9) -> Callable[[str], float]:
    """Return what reads a number above 0 and at most ``most``, for argparse."""
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= most:  # so that nan is refused, too
            raise ArgumentTypeError(f'must be above 0 and at most {most:g}, got {text!r}')
        return number

    return read


minutes = positive(7 * 24 * 60)  # a week
