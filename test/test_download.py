# SPDX-License-Identifier: Apache-2.0
"""Files over HTTP from a server on this machine: cut, resumed, redirected, refused, too large."""

import hashlib
import os
import shutil

from dgtl_core.zoo import download as module
from dgtl_core.zoo.download import ask_json, check_address, download, DownloadError
import pytest

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(server, monkeypatch):
    monkeypatch.setattr(module, '_CHUNK', 1 << 16)
    monkeypatch.setattr(module.time, 'sleep', lambda seconds: None)
    server.files['/a.pth'] = CONTENT
    return server


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_the_progress_is_told(server, tmp_path):
    told = []
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', size=len(CONTENT),
             digests={'sha256': SHA256}, progress=lambda *now: told.append(now))
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT
    assert left(tmp_path) == ['a.pth']
    assert told[0] == (0, len(CONTENT)) and told[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts['/a.pth'] = [1_000_000, 500_000]
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', digests={'sha256': SHA256})
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [
        '', 'bytes=1000000-', 'bytes=1500000-']


def test_the_next_run_goes_on_from_what_the_first_got(server, tmp_path):
    server.cuts['/a.pth'] = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match='1.0 MB are kept, the same command goes on'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    assert not (tmp_path / 'a.pth').exists()
    server.cuts.clear()
    server.requests.clear()
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', digests={'sha256': SHA256})
    assert server.requests == [('/a.pth', 'bytes=1000000-')]
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT


def test_what_was_kept_of_a_former_file_is_not_mixed_with_a_new_one(server, tmp_path):
    server.cuts['/a.pth'] = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    server.cuts.clear()
    server.files['/a.pth'] = CONTENT[::-1]
    download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize('lacks', ['ranges', 'validators', 'lengths'])
def test_a_server_without(server, tmp_path, lacks):
    """No parts, nothing that tells files apart, no length: it is fetched from the start again."""
    setattr(server, lacks, False)
    server.cuts['/a.pth'] = [1_000_000]
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', size=len(CONTENT),
             digests={'sha256': SHA256})
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT


def test_a_kept_part_that_is_longer_than_the_file_is_given_up(server, tmp_path):
    server.cuts['/a.pth'] = [2_000_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    server.cuts.clear()
    server.files['/a.pth'] = CONTENT[:1_000_000]
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', size=1_000_000)
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT[:1_000_000]


def test_another_hash_is_refused_and_nothing_stays(server, tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'before')
    with pytest.raises(DownloadError, match=f'its sha256 is {SHA256}, not {"0" * 64}'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth', digests={'sha256': '0' * 64})
    assert left(tmp_path) == ['a.pth'] and (tmp_path / 'a.pth').read_bytes() == b'before'


def test_another_size_is_refused_before_it_is_read(server, tmp_path):
    with pytest.raises(DownloadError, match=r'3000000 bytes, not 1217586395\. The publisher'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth', size=1217586395)
    assert not (tmp_path / 'a.pth').exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_a_file_without_an_end_is_not_read_for_ever(server, tmp_path, monkeypatch):
    server.lengths = False
    monkeypatch.setattr(module, 'MAX_BYTES', 1_000_000)
    with pytest.raises(DownloadError, match='is longer than 1000000 bytes'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')


def test_a_disk_without_room_is_said_before_the_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda folder: usage._replace(free=10 ** 6))
    with pytest.raises(DownloadError, match=r'needs 70 MB of room .* has 1 MB; make room'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if 'etag' not in path.name) == 0


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device that is always full')
def test_a_device_that_is_full_is_told(monkeypatch):
    with open('/dev/full', 'wb', buffering=0) as file:
        with pytest.raises(DownloadError, match='the disk is full at 0.0 MB of u; make room'):
            module._write(file, b'x', 'u')


def test_a_disk_that_fills_up_keeps_what_came(server, tmp_path, monkeypatch):
    """The kernel cuts a write at the file's limit and refuses the next, as a full disk does."""
    import resource
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_234_567, limits[1]))
    try:
        with pytest.raises(DownloadError, match=r'the disk is full at 1\.2 MB'):
            download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / '.a.pth.part').stat().st_size == 1_234_567
    download(f'{server.url}/a.pth', tmp_path / 'a.pth', digests={'sha256': SHA256})
    assert server.requests[-1] == ('/a.pth', 'bytes=1234567-')


def test_redirects_are_followed_and_what_they_tell_is_checked(server, tmp_path):
    server.redirects['/r'] = f'{server.url}/a.pth', {'X-Linked-ETag': f'"{SHA256}"'}
    download(f'{server.url}/r', tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT
    server.redirects['/r'] = f'{server.url}/a.pth', {'X-Linked-ETag': f'"{"1" * 64}"'}
    with pytest.raises(DownloadError, match='another file than expected'):
        download(f'{server.url}/r', tmp_path / 'b.pth')


@pytest.mark.parametrize('target, message', [
    ('/r', '302'),  # for ever
    ('http://example.org/a.pth', 'only https addresses'),
    ('file:///etc/passwd', 'is not allowed'),
    ('ftp://example.org/a.pth', 'only https addresses'),
])
def test_redirects_lead_to_no_other_kind_of_address(server, tmp_path, target, message):
    server.redirects['/r'] = server.url + target if target.startswith('/') else target, {}
    with pytest.raises(DownloadError, match=message):
        download(f'{server.url}/r', tmp_path / 'a.pth')
    assert not (tmp_path / 'a.pth').exists() and len(server.requests) < 12


@pytest.mark.parametrize('status, message', [
    (404, 'answers 404 .* was moved'), (403, 'answers 403 .* ask first'),
    (503, 'answers 503 .* --from FILE')])
def test_a_refusal_says_what_to_do(server, tmp_path, status, message):
    server.status['/a.pth'] = status
    with pytest.raises(DownloadError, match=message):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    assert len(server.requests) == (3 if status == 503 else 1)


def test_a_page_is_no_file(server, tmp_path):
    """A network that wants a login, or a publisher who moved, answers with a page and 200."""
    server.files['/it'] = b'<html>log in</html>'
    server.kinds['/it'] = 'text/html; charset=utf-8'
    with pytest.raises(DownloadError, match='/it leads to a page, not to a file: open it in a'):
        download(f'{server.url}/it', tmp_path / 'it')
    assert not (tmp_path / 'it').exists()
    server.kinds['/it'] = 'application/octet-stream'
    download(f'{server.url}/it', tmp_path / 'it')


def test_nobody_there(tmp_path, server):
    server.close()
    with pytest.raises(DownloadError, match='refused.*--from FILE'):
        download(f'{server.url}/a.pth', tmp_path / 'a.pth')


def test_two_do_not_write_one_file(server, tmp_path):
    with module._locked(tmp_path / '.a.pth.part'):
        with pytest.raises(DownloadError, match=r'another process is downloading a\.pth'):
            download(f'{server.url}/a.pth', tmp_path / 'a.pth')
    assert not server.requests


@pytest.mark.parametrize('url', [
    'http://example.org/a', 'file:///a', 'ftp://127.0.0.1/a', 'https:///a', 'a.pth',
    'http://127.0.0.1.example.org/a'])
def test_addresses_that_are_never_asked(url):
    with pytest.raises(DownloadError, match='only https addresses'):
        check_address(url)


def test_json_is_bounded_and_checked(server):
    server.files['/j'] = b'{"a": 1}'
    assert ask_json(f'{server.url}/j') == {'a': 1}
    server.files['/j'] = b'<html>'
    with pytest.raises(DownloadError, match='does not tell what it should'):
        ask_json(f'{server.url}/j')
    server.files['/j'] = b'[' * 100_000
    with pytest.raises(DownloadError, match='does not tell what it should'):
        ask_json(f'{server.url}/j')
    with pytest.raises(DownloadError, match='longer than 10 bytes'):
        ask_json(f'{server.url}/j', limit=10)


