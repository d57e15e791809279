# SPDX-License-Identifier: Apache-2.0
"""Foreign texts, made fit for logs and messages."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback

_LONGEST = 4000  # characters; what is longer says nothing more
_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f]')


def printable(text: object) -> str:
    """
    Return the text of anything, such as an exception, so that ROS can log and publish it.

    What is no Unicode (ROS raises for it) or a control character (a zero ends a text) is
    escaped, and what is very long is cut in the middle. It never raises.
    """
    try:
        text = str(text)
    except Exception as error:  # a foreign __str__ may raise anything
        text = f'{type(text).__name__} without a text ({type(error).__name__})'
    if len(text) > _LONGEST:
        text = f'{text[:_LONGEST // 2]} ... {text[-_LONGEST // 2:]}'
    text = text.encode('utf-8', 'backslashreplace').decode('utf-8')
    return _CONTROL.sub(lambda found: f'\\x{ord(found.group()):02x}', text)


def described(error: BaseException) -> str:
    """Return an exception as kind and text, printable."""
    return f'{type(error).__name__}: {printable(error)}'


def complain(what: str) -> None:
    """
    Say on stderr that something failed, with the exception in work. It never raises.

    For threads that must go on: the logger of ROS may be what failed.
    """
    with contextlib.suppress(OSError, ValueError):  # no stderr any more
        print(f'{what}:\n{printable(traceback.format_exc())}', file=sys.stderr, flush=True)
