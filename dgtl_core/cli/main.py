# SPDX-License-Identifier: Apache-2.0
"""Find the command that was asked for, run it, and turn faults into one line and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import errno
from importlib import import_module
import os
import sys

from dgtl_core.files import print_any_text, tidy_on_signals
from dgtl_core.strict import closest

# In the order of the help. Each is a module here, with a main(arguments) that returns the exit
# code: 0 good, 1 something failed, 2 wrong use. A module is imported when its command is run.
COMMANDS = {
    'predict': 'Label pictures, videos and bags.',
    'fetch': 'List published weights, or bring some here and make a model file of them.',
    'info': 'Show what a model file says about itself.',
    'engine': 'Build a TensorRT engine of a model, for the GPU of this computer.',
    'doctor': 'Check this computer, and say how to fix what is wrong.',
    'calibrate': 'Teach a model file what normal drives look like, or check a recording.',
    'view': 'Watch a model at work on pictures, a video or a bag, in a browser.',
}
_EPILOG = """Exit codes: 0 all is well, 1 something failed, 2 the command was used wrongly.
"dgtl COMMAND --help" describes a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dgtl``; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ('-h', '--help', 'help'):
        return _guarded('', _help)
    if words[0] == '--version':
        return _guarded('', _version)
    name, rest = words[0], words[1:]
    return _guarded(f' {name}', lambda: _run(name, rest))


def _run(name: str, arguments: list[str]) -> int:
    # Faults are told by us, once. OpenCV reads these when it is imported.
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '8')
    if name in COMMANDS:
        code: int = import_module(f'dgtl_core.cli.{name}').main(arguments)
        return code
    from dgtl_core.cli.external import external

    command = external(name)
    if command is not None:
        return command(arguments)
    near = closest(name, COMMANDS)
    hint = f'did you mean {near!r}? ' if near else ''
    print(f'dgtl: there is no command {name!r}; {hint}"dgtl --help" lists them all',
          file=sys.stderr)
    return 2


def _guarded(name: str, command: Callable[[], int]) -> int:
    """Run it; whatever ends it ends in one line for people and an exit code for programs."""
    try:
        tidy_on_signals()
        print_any_text()
        code = command()
        sys.stdout.flush()  # a reader that is gone is noticed here, not while Python exits
        return code
    except KeyboardInterrupt:
        print(f'\ndgtl{name}: stopped', file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        print(f'dgtl{name}: there is not enough memory for this; close other programs, or give '
              'smaller pictures or a smaller model', file=sys.stderr)
        return 1
    except (ImportError, OSError, ValueError) as error:  # a ModelError is a ValueError
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        print(f'dgtl{name}: {error}' + '; make room, and repeat the command' * full,
              file=sys.stderr)
        return 1


def _help() -> int:
    print('usage: dgtl COMMAND ...\n\n'
          'Semantic segmentation of camera images that holds in weather and light it was not '
          'trained on.\n\ncommands:')
    for name, summary in COMMANDS.items():
        print(f'  {name:<10} {summary}')
    print(f'\n{_EPILOG}')
    return 0


def _version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f'dgtl {version("dgtl_ros")}')
    except PackageNotFoundError:
        print('dgtl, run from its source tree')
    return 0
