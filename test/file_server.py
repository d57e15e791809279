# SPDX-License-Identifier: Apache-2.0
"""A server of small files on 127.0.0.1 that can do what servers of large files do."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import re
import threading


class FileServer:
    """
    Serves ``files`` by path; what happens to a path can be set.

    ``cuts``: {path: [bytes after which the connection of each request in turn breaks]};
    ``redirects``: {path: (where to, headers)}; ``ranges``: whether parts can be had.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.status: dict[str, int] = {}
        self.kinds: dict[str, str] = {}  # Content-Type by path
        self.ranges = self.lengths = self.validators = True
        self.requests: list[tuple[str, str]] = []  # path, Range
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition('?')[0]
        wanted = request.headers.get('Range', '')
        self.requests.append((path, wanted))
        if path in self.redirects:
            target, headers = self.redirects[path]
            request.send_response(302)
            for key, value in {'Location': target, 'Content-Length': '0', **headers}.items():
                request.send_header(key, value)
            request.end_headers()
            return
        if path not in self.files or path in self.status:
            request.send_error(self.status.get(path, 404))
            return
        content = self.files[path]
        etag = f'"{hash(content)}"'
        first = 0
        found = re.fullmatch(r'bytes=(\d+)-', wanted)
        if found and self.ranges and request.headers.get('If-Range') in (None, etag):
            first = int(found[1])
            if first >= len(content):
                request.send_response(416)
                request.send_header('Content-Range', f'bytes */{len(content)}')
                request.send_header('Content-Length', '0')
                request.end_headers()
                return
            request.send_response(206)
            last = len(content) - 1
            request.send_header('Content-Range', f'bytes {first}-{last}/{len(content)}')
        else:
            request.send_response(200)
        if path in self.kinds:
            request.send_header('Content-Type', self.kinds[path])
        if self.lengths:
            request.send_header('Content-Length', str(len(content) - first))
        if self.validators:
            request.send_header('ETag', etag)
        request.end_headers()
        cuts = self.cuts.get(path)
        end = first + cuts.pop(0) if cuts else len(content)
        request.wfile.write(content[first:end])
        request.wfile.flush()
        request.close_connection = True
