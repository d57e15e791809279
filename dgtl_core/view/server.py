# SPDX-License-Identifier: Apache-2.0
"""The page's server: its files, and one WebSocket that carries frames out and commands in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
import errno
from hmac import compare_digest
import json
from pathlib import Path
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

from dgtl_core.view.feed import Feed
from dgtl_core.view.wire import encode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
import uvicorn

_PAGE = Path(__file__).parent / 'page'
_LOCAL = ('127.0.0.1', 'localhost', '::1')
_MOST_VIEWERS = 8
_POLICY = ("default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; "
           "frame-ancestors 'none'; base-uri 'none'; form-action 'none'")


class ViewServer:
    """
    Serves the page of a feed.

    :param host: address to listen on. On any but this machine's own a token is needed to see
        something, which is part of :attr:`url`.
    :param port: 0: one that is free.
    :param rate: the most frames a second that are sent to a page.
    :raises OSError: nothing can listen there; the message says what to do.
    """

    def __init__(self, feed: Feed, host: str = '127.0.0.1', port: int = 8765,
                 rate: float = 15.0) -> None:
        if not 0 < rate <= 100:
            raise ValueError(f'rate must be above 0 and at most 100, got {rate}')
        self._feed, self._gap = feed, 1 / rate
        self._host = host
        self._token = '' if host in _LOCAL else secrets.token_urlsafe(16)
        self._viewers = 0
        self._encoded = (-1, b'')
        app = Starlette(routes=[
            Route('/', self._file), Route('/{name:str}', self._file),
            WebSocketRoute('/feed', self._serve)])
        self._server = uvicorn.Server(uvicorn.Config(
            app, host=host, port=port, log_level='warning', ws_max_size=4096,
            ws_per_message_deflate=False, lifespan='off', timeout_graceful_shutdown=1))
        self._sockets = [_listening(host, port)]
        self.port = self._sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The address of the page."""
        host = f'[{self._host}]' if ':' in self._host else self._host
        return f'http://{host}:{self.port}/' + (f'?token={self._token}' if self._token else '')

    def run(self) -> None:
        """Serve until Ctrl-C or :meth:`stop`."""
        self._server.run(sockets=self._sockets)

    def stop(self) -> None:
        """End :meth:`run`, from any thread."""
        self._server.should_exit = True

    def _trusted(self, connection: Request | WebSocket) -> bool:
        """
        Tell whoever may see the pictures from the others.

        On this machine's own address the browser must have asked for that address: else a page
        from anywhere could reach us by a name of its own that leads here.
        """
        if self._token:
            return compare_digest(connection.query_params.get('token', ''), self._token)
        asked = connection.headers.get('host', '')
        origin = connection.headers.get('origin')
        return urlsplit(f'//{asked}').hostname in _LOCAL and (
            origin is None or urlsplit(origin).netloc == asked)

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get('name', 'index.html')
        known = {path.name: path for path in _PAGE.iterdir()}
        if name not in known:
            return Response('there is no such page', 404)
        return FileResponse(known[name], headers={
            'Content-Security-Policy': _POLICY, 'Cache-Control': 'no-store',
            'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'no-referrer'})

    async def _serve(self, socket: WebSocket) -> None:
        if not self._trusted(socket) or self._viewers >= _MOST_VIEWERS:
            await socket.close(1008)
            return
        await socket.accept()
        self._viewers += 1
        ready = asyncio.Event()
        sending = asyncio.create_task(self._send(socket, ready))
        try:
            while True:
                text = await socket.receive_text()
                with suppress(ValueError, RecursionError):
                    command = json.loads(text)
                    if isinstance(command, dict):
                        if command.get('do') == 'next':
                            ready.set()  # the page has drawn: it gets what is newest then
                        else:
                            self._feed.command(command)
        except (WebSocketDisconnect, KeyError):  # KeyError: bytes instead of text
            pass
        finally:
            self._viewers -= 1
            sending.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await sending

    async def _send(self, socket: WebSocket, ready: asyncio.Event) -> None:
        """Send the newest frame whenever the page is ready for one, and the state beside it."""
        number, told = -1, ''
        loop = asyncio.get_running_loop()
        while True:
            await ready.wait()
            fresh = await asyncio.to_thread(self._feed.wait, number, 0.25)
            state: dict[str, Any] = {
                **self._feed.state, 'title': self._feed.title,
                'diagnostics': self._feed.diagnostics}
            if (text := json.dumps(state)) != told:
                told = text
                await socket.send_text(text)
            shown = self._feed.newest()
            if fresh and shown is not None:
                began = loop.time()
                ready.clear()
                number = shown.number
                if self._encoded[0] != number:
                    self._encoded = number, await asyncio.to_thread(encode, shown)
                await socket.send_bytes(self._encoded[1])
                await asyncio.sleep(max(self._gap - (loop.time() - began), 0))


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        advice = ('give another --port, or 0 for a free one' if error.errno == errno.EADDRINUSE
                  else 'give an address of this machine with --host')
        reason = (error.strerror or str(error)).partition(' (while')[0]
        raise OSError(
            f'nothing can listen on {host}, port {port} ({reason}): {advice}') from None
