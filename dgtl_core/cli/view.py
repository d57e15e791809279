# SPDX-License-Identifier: Apache-2.0
"""``dgtl view SOURCE``: watch a model at work in a browser, without leaving this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
import sys
import webbrowser

from dgtl_core.cli.arguments import positive
from dgtl_core.cli.external import external


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    if '--ros' in arguments:
        command = external('view-ros')
        if command is None:
            print('dgtl view: --ros needs the package dgtl_ros; install it with pip install '
                  '"dgtl_ros[ros,view]", or build it with colcon', file=sys.stderr)
            return 1
        return command([word for word in arguments if word != '--ros'])
    from dgtl_core.runtime.contract import RunOptions

    parser = argparse.ArgumentParser(
        prog='dgtl view', description='Show pictures and what a model says of them on a web page '
        'of this machine: the classes as an overlay, class and confidence under the cursor, rate '
        'and latency. Recordings can be paused, stepped and moved through. Nothing is loaded from '
        'the network. With --ros it shows the topics of a running node instead.')
    parser.add_argument('source', nargs='+', metavar='SOURCE', help=(
        'a picture, a folder, a glob, a video, a bag, camera:0, or streetworld to show'))
    parser.add_argument('--model', metavar='FILE|NAME', help=(
        'use this model file, or the weights that were fetched under this name (default: the '
        'embedded model)'))
    parser.add_argument('--ros', action='store_true', help=(
        'show the topics of a running node; no SOURCE then ("dgtl view --ros --help")'))
    parser.add_argument('--topic', action='append', default=[], metavar='NAME',
                        help='show this topic of a bag; can be repeated')
    parser.add_argument('--stride', type=int, default=1, metavar='N',
                        help='label every Nth frame (default: %(default)s)')
    parser.add_argument('--picture-rate', type=positive(1000), default=2.0, metavar='HZ', help=(
        'show so many pictures a second where they have no time of their own (default: '
        '%(default)s)'))
    parser.add_argument('--device', default=RunOptions.device,
                        help='run on auto, cpu, cuda or cuda:N (default: %(default)s)')
    add_page_options(parser)
    args = parser.parse_args(arguments)
    if args.stride < 1:
        parser.error(f'--stride must be 1 or more, got {args.stride}')
    from dgtl_core.predictor import Predictor
    from dgtl_core.recorded.frame import SourceError
    from dgtl_core.recorded.sources import open_sources
    from dgtl_core.view.player import Player

    check_able()
    try:
        sources = open_sources(args.source, args.topic)
    except SourceError as error:
        parser.error(str(error))
    predict = Predictor.load(args.model, device=args.device)
    try:
        player = Player(sources, predict, stride=args.stride, rate=args.picture_rate)
        try:
            serve(player, args)
        finally:
            player.close()
    finally:
        predict.close()
    return 0


def check_able() -> None:
    """:raises ImportError: the page's server is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'the page needs {error.name}: pip install "dgtl_ros[view]"') from None


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Add what every page has."""
    parser.add_argument('--host', default='127.0.0.1', help=(
        'listen on this address (default: %(default)s, which only this machine can reach); on any '
        'other, visitors need the token in the address that is printed'))
    parser.add_argument('--port', type=_port, default=8765,
                        help='listen on this port; 0 takes a free one (default: %(default)s)')
    parser.add_argument('--rate', type=positive(100), default=15.0, metavar='HZ',
                        help='send the page at most so many frames a second (default: '
                             '%(default)s)')
    parser.add_argument('--no-browser', action='store_true', help='do not open a browser')


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'must be in 0..65535, got {text!r}')
    return int(text)


def serve(feed: object, args: argparse.Namespace) -> None:
    """Show a feed until Ctrl-C."""
    from dgtl_core.view.server import ViewServer

    server = ViewServer(feed, args.host, args.port, args.rate)  # type: ignore[arg-type]
    print(f'{server.url}  (Ctrl-C ends it)', flush=True)
    if not args.no_browser:
        webbrowser.open(server.url)
    with suppress(KeyboardInterrupt):  # the way to end it
        server.run()
