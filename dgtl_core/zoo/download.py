# SPDX-License-Identifier: Apache-2.0
"""
One file over HTTPS: resumed where it was cut, bounded, and checked before it is put in place.

What was received lies in ``.NAME.part`` beside the place of the file, and stays there when the
connection breaks; the next call goes on from it if the server still has the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import errno
import fcntl
import http.client
import json
import os
from pathlib import Path
import re
import shutil
import time
from typing import Any, BinaryIO
import urllib.error
from urllib.parse import urlsplit
import urllib.request

from dgtl_core.files import content_hash, put

MAX_BYTES = 16 << 30  # of a file whose size nobody told
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 3  # in a row that bring nothing new
_CHUNK = 1 << 20
_MARGIN = 64 << 20  # bytes of the disk that are left alone
_LOOPBACK = ('127.0.0.1', '::1', 'localhost')

OnBytes = Callable[[int, int], None]  # bytes that are here, bytes in all (0: not known)


class DownloadError(OSError):
    """The file is not here; the message says why and what to do."""


class _Cut(Exception):
    """The connection ended before the file did."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few redirects, and never to an address that may not be asked."""

    max_redirections = 5
    max_repeats = 2
    sha256 = ''  # of the file, as Hugging Face tells before it redirects

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str,
                         headers: Any, newurl: str) -> urllib.request.Request | None:
        """Check the address, and keep what is told about the file."""
        check_address(newurl)
        told = (headers.get('X-Linked-ETag') or '').strip('"')
        if re.fullmatch('[0-9a-f]{64}', told):
            self.sha256 = told
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(url: str) -> None:
    """
    Refuse what is neither HTTPS nor HTTP to this very machine.

    :raises DownloadError: it is such an address.
    """
    parts = urlsplit(url)
    if parts.scheme == 'https' and parts.hostname:
        return
    if parts.scheme != 'http' or parts.hostname not in _LOOPBACK:
        raise DownloadError(f'{url} is not fetched: only https addresses are')


def check_space(folder: Path, needed: int, what: str) -> None:
    """
    Find out whether the disk has room.

    :raises DownloadError: it has not ``needed`` bytes and a margin.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise DownloadError(
            f'{what} needs {(needed + _MARGIN) / 1e6:.0f} MB of room ({_MARGIN / 1e6:.0f} of them '
            f'as a reserve) and {folder} has {free / 1e6:.0f} MB; make room, '
            'or set XDG_CACHE_HOME to a folder on a larger disk')


def ask_json(url: str, limit: int = 1 << 20) -> Any:
    """
    Return the JSON that an address answers with.

    :raises DownloadError: it does not answer, or with something else or longer.
    """
    try:
        with _open(url, {'Accept': 'application/json'})[0] as answer:
            text = answer.read(limit + 1)
        if len(text) > limit:
            raise ValueError(f'longer than {limit} bytes')
        return json.loads(text)
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise DownloadError(f'{url} does not tell what it should ({error})') from None


def download(url: str, path: Path, *, size: int = 0, digests: Mapping[str, str] | None = None,
             progress: OnBytes = lambda here, total: None) -> None:
    """
    Bring the file at ``url`` to ``path``, whose folder is there.

    :param size: its bytes; 0: not known. A server that tells another size is not read.
    :param digests: what it must have, {'sha256': hexadecimal}; checked before it is put in place.
    :param progress: called with the bytes that are here and all bytes.
    :raises DownloadError: it could not be brought here, or is another file. What a cut connection
        or a full disk leaves is kept for the next call; a file with another hash is removed.
    """
    part = path.with_name(f'.{path.name}.part')
    with _locked(part) as file:
        told = _receive(url, file, Path(f'{part}.etag'), size, progress)
        for kind, wanted in {**told, **(digests or {})}.items():
            with open(part, 'rb') as received:
                found = content_hash(received, kind)
            if found != wanted:
                _forget(part)
                raise DownloadError(
                    f'{url} is another file than expected: its {kind} is {found}, not {wanted}. '
                    'It was removed. Try once more; if it stays so, the publisher changed it')
        put({part: path})
        Path(f'{part}.etag').unlink(missing_ok=True)


def _open(url: str, headers: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    """Return the answer, and the hashes that were told on the way to it."""
    check_address(url)
    opener, redirects = urllib.request.OpenerDirector(), _Redirects()
    for handler in (  # what may be asked: no file:, no ftp:, no data:
            urllib.request.ProxyHandler(), urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(), urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(), redirects):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={'User-Agent': 'dgtl', **headers})
    answer = opener.open(request, timeout=_TIMEOUT)
    return answer, {'sha256': redirects.sha256} if redirects.sha256 else {}


def _receive(url: str, file: BinaryIO, validator: Path, size: int,
             progress: OnBytes) -> dict[str, str]:
    """Fill the file, however often the connection breaks; return the hashes that were told."""
    fruitless = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            return _request(url, file, validator, size, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the file became shorter: from the start
                file.truncate(0)
                reason = 'the server has no such part'
            elif error.code in (429, 500, 502, 503, 504):
                reason = f'the server answers {error.code} {error.reason}'
            else:
                raise DownloadError(
                    f'{url} cannot be fetched: the server answers {error.code} {error.reason}'
                    + _advice(error.code)) from None
        except DownloadError:
            raise
        except (_Cut, OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, 'reason', error)) or type(error).__name__
        here = file.seek(0, os.SEEK_END)
        fruitless = 0 if here > before else fruitless + 1
        if fruitless >= _ATTEMPTS:
            kept = f'; {here / 1e6:.1f} MB are kept, the same command goes on from there' \
                if here else ''
            raise DownloadError(
                f'{url} cannot be fetched: {reason}{kept}. Without a network here, download the '
                'file elsewhere and give it with --from FILE')
        time.sleep(0.2 * 4 ** fruitless)


def _request(url: str, file: BinaryIO, validator: Path, size: int,
             progress: OnBytes) -> dict[str, str]:
    """Ask once for what is missing."""
    here = file.seek(0, os.SEEK_END)
    same = _read_validator(validator)
    if here and (not same or size and here > size):
        file.truncate(0)
        here = 0
    if size and here == size:
        return {}
    headers = {'Range': f'bytes={here}-', 'If-Range': same} if here else {}
    answer, told = _open(url, headers)
    with answer:
        whole = answer.status != 206
        begins = re.match(r'bytes (\d+)-', answer.headers.get('Content-Range', ''))
        if whole or not begins or int(begins[1]) != here:
            if not whole:
                raise _Cut('the server sent another part than it was asked for')
            file.truncate(0)
            here = 0
        length = answer.headers.get('Content-Length', '')
        total = here + int(length) if length.isdecimal() else 0
        _check_total(url, total, size)
        check_space(validator.parent, max((total or size) - here, 0), url)
        if answer.headers.get_content_type() == 'text/html':
            raise DownloadError(
                f'{url} leads to a page, not to a file: open it in a browser (this network may '
                'want you to log in), or give the file with --from FILE')
        etag = answer.headers.get('ETag') or answer.headers.get('Last-Modified') or ''
        validator.write_text('' if etag.startswith('W/') else etag[:1000], encoding='utf-8')
        limit = total or size or MAX_BYTES
        progress(here, total or size)
        while here < limit and (chunk := answer.read(min(_CHUNK, limit - here))):
            _write(file, chunk, url)
            here += len(chunk)
            progress(here, total or size)
        if not total and answer.read(1):
            raise DownloadError(f'{url} is longer than {limit} bytes and is not read on')
    if here < (total or size):
        raise _Cut(f'the connection ended after {here} of {total or size} bytes')
    return told


def _check_total(url: str, total: int, size: int) -> None:
    if size and total and total != size:
        raise DownloadError(
            f'{url} is another file than expected: {total} bytes, not {size}. The publisher '
            'changed it, or the address leads to a page; open it in a browser')
    if total > MAX_BYTES:
        raise DownloadError(f'{url} has {total} bytes; at most {MAX_BYTES} are fetched')


def _write(file: BinaryIO, chunk: bytes, url: str) -> None:
    try:
        rest = memoryview(chunk)
        while rest:  # an unbuffered file may take less than it is given
            rest = rest[file.write(rest):]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DownloadError(f'{url} cannot be stored: {error.strerror}') from None
        raise DownloadError(
            f'the disk is full at {file.tell() / 1e6:.1f} MB of {url}; make room and run the same '
            'command, it goes on from there') from None


def _read_validator(path: Path) -> str:
    """Return what tells whether the server still has the same file; '' where nothing does."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError):
        return ''
    return text if text.isprintable() else ''


def _advice(code: int) -> str:
    if code in (401, 403):
        return '. The publisher wants you to ask first: do so on its page, then use --from FILE'
    if code in (404, 410):
        return ': it was moved. Look for it on the page of its authors, then use --from FILE'
    return ''


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    Path(f'{part}.etag').unlink(missing_ok=True)


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open what was received so far, for this process alone."""
    with open(part, 'ab', buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadError(
                f'another process is downloading {part.name[1:-5]}; wait for it') from None
        yield file
