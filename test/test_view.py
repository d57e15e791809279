# SPDX-License-Identifier: Apache-2.0
"""``dgtl view``: the player, what travels to the page, and who gets to see it."""

import json
import socket
import struct
import threading
import time
import zlib

import cv2
from dgtl_core.classes import ClassSet, SegmentationClass
from dgtl_core.cli.main import main as dgtl
from dgtl_core.predictor import Segmentation, Timing
from dgtl_core.recorded.frame import Frame, Item, SourceError
from dgtl_core.view.feed import Shown
from dgtl_core.view.player import Player
from dgtl_core.view.wire import encode
import numpy as np
import pytest

CLASSES = ClassSet('two', (
    SegmentationClass(id=0, name='road', color=(128, 64, 128)),
    SegmentationClass(id=1, name='<b>sky</b>', color=(70, 130, 180))))


class FakePredictor:
    """Labels a picture by its first pixel; tells what it saw."""

    backend_name, engine, input_size, classes = 'fake (CPU)', None, (4, 8), CLASSES

    class metadata:
        name, method, domain = 'fake', 'none', None

    def __init__(self):
        self.seen = []

    def timed(self, image):
        self.seen.append(int(image[0, 0, 0]))
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[:, labels.shape[1] // 2:] = 1
        return Segmentation(labels, np.full(image.shape[:2], 204, np.uint8)), Timing(1, 20, 2)


class Recording:
    """Frames whose pixels are their numbers; some cannot be read."""

    name, cameras = 'recording', ('',)

    def __init__(self, count, broken=(), ends='', gap=None, size=(90, 160)):
        self.total, self.broken, self.ends, self.gap, self.size = count, broken, ends, gap, size

    def items(self):
        for number in range(self.total):
            def read(number=number):
                if number in self.broken:
                    raise SourceError('the frame cannot be decoded')
                return Frame(f'r/{number}', np.full((*self.size, 3), number % 256, np.uint8),
                             None if self.gap is None else round(number * self.gap * 1e9))
            yield Item(f'r/{number}', read)
        if self.ends:
            raise SourceError(self.ends)


@pytest.fixture
def play():
    players = []

    def start(*sources, rate=1000.0, paused=False, **options):
        predict = FakePredictor()
        player = Player(sources, predict, rate=rate, **options)
        players.append(player)
        player.predict = predict
        return player

    yield start
    for player in players:
        player.close()


def until(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, 'it did not come to that'
        time.sleep(0.005)


def shows(player, position):
    until(lambda: player.newest() is not None and player.newest().position == position)
    return player.newest()


def test_a_recording_is_played_to_its_end_and_again(play):
    player = play(Recording(3), Recording(2))
    until(lambda: player.state['ended'])
    assert player.predict.seen == [0, 1, 2, 0, 1]
    assert player.state == {'playing': False, 'seekable': True, 'total': 5, 'ended': True,
                            'fault': ''}
    player.command({'do': 'play'})
    until(lambda: len(player.predict.seen) == 10)


def test_pause_step_and_seek(play):
    player = play(Recording(1000), rate=50.0)
    shows(player, 1)
    player.command({'do': 'pause'})
    player.command({'do': 'seek', 'to': 300})  # what was under way is over when this is shown
    shows(player, 300)
    count = len(player.predict.seen)
    assert not player.state['playing']
    player.command({'do': 'step'})
    shows(player, 301)
    player.command({'do': 'seek', 'to': 700})
    assert shows(player, 700).image[0, 0, 0] == 700 % 256
    player.command({'do': 'seek', 'to': 5})  # backwards
    shows(player, 5)
    player.command({'do': 'seek', 'to': 10 ** 9})  # the last one
    shows(player, 999)
    assert len(player.predict.seen) == count + 4  # frames in between are not judged
    player.command({'do': 'play'})
    until(lambda: player.state['ended'])


@pytest.mark.parametrize('command', [
    {}, {'do': 'seek'}, {'do': 'seek', 'to': -1}, {'do': 'seek', 'to': True},
    {'do': 'seek', 'to': 1.5}, {'do': []}, {'do': 'close'}, {'to': 3}])
def test_nonsense_changes_nothing(play, command):
    player = play(Recording(3))
    until(lambda: player.state['ended'])
    player.command(command)
    player.command({'do': 'play'})  # comes after it
    until(lambda: len(player.predict.seen) == 6)
    assert player.predict.seen == [0, 1, 2, 0, 1, 2]


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(play):
    player = play(Recording(4, broken={1}), Recording(2, ends='the file ends early'))
    until(lambda: player.state['ended'])
    assert player.predict.seen == [0, 2, 3, 0, 1]
    assert player.state['fault'] == 'the file ends early'
    assert {'name': 'source', 'level': 'error',
            'message': 'the file ends early'} in player.diagnostics


def test_stamps_set_the_pace_and_stride_leaves_frames_out(play):
    start = time.monotonic()
    player = play(Recording(9, gap=0.05), stride=2)
    until(lambda: player.state['ended'])
    assert player.predict.seen == [0, 2, 4, 6, 8]
    assert 0.35 < time.monotonic() - start < 3


def shown(**changes):
    values = {'number': 1, 'name': 'f', 'image': np.zeros((720, 1280, 3), np.uint8),
              'labels': np.zeros((720, 1280), np.uint8), 'confidence': None, 'classes': CLASSES}
    return Shown(**{**values, **changes})


def decode(data):
    length = struct.unpack_from('<I', data)[0]
    header, at, parts = json.loads(data[4:4 + length]), 4 + length, {}
    for name, size in header['parts']:
        parts[name] = data[at:at + size]
        at += size
    assert at == len(data)
    return header, parts


def test_labels_travel_exactly():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (720, 1280), np.uint8)
    confidence = rng.integers(0, 256, (720, 1280), np.uint8)
    image = np.full((720, 1280, 3), (200, 100, 50), np.uint8)
    header, parts = decode(encode(shown(image=image, labels=labels, confidence=confidence)))
    found = np.frombuffer(zlib.decompress(parts['labels']), np.uint8).reshape(
        header['sizes']['labels'])
    assert np.array_equal(found, labels)
    coarse = np.frombuffer(zlib.decompress(parts['confidence']), np.uint8)
    assert np.array_equal(coarse.reshape(header['sizes']['confidence']), confidence[::4, ::4])
    picture = cv2.imdecode(np.frombuffer(parts['picture'], np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(picture[100, 100, ::-1].astype(int) - (200, 100, 50)).max() < 4  # RGB, not BGR
    assert header['shares'] == {'0': pytest.approx(1 / 3, abs=0.01),
                                '1': pytest.approx(1 / 3, abs=0.01)}
    assert header['classes'][1] == {'id': 1, 'name': '<b>sky</b>', 'color': [70, 130, 180]}


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (719, 1281), (2160, 3840)])
def test_any_size_travels(size):
    labels = np.arange(size[0] * size[1], dtype=np.uint64).reshape(size).astype(np.uint8)
    header, parts = decode(encode(shown(
        image=np.zeros((*size, 3), np.uint8), labels=labels, confidence=labels)))
    assert header['size'] == list(size)
    for name in ('labels', 'confidence'):
        height, width = header['sizes'][name]
        assert len(zlib.decompress(parts[name])) == height * width
    assert header['sizes']['labels'][1] <= 1280


@pytest.fixture
def serve(play):
    pytest.importorskip('starlette')
    pytest.importorskip('uvicorn')
    pytest.importorskip('websockets')
    from dgtl_core.view.server import ViewServer

    servers = []

    def start(feed=None, **options):
        server = ViewServer(feed or play(Recording(50), rate=20.0), port=0, **options)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        until(lambda: server._server.started)
        return server

    yield start
    for server, thread in servers:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def connect(server, token='', host='127.0.0.1', **options):
    from websockets.sync.client import connect as open_socket

    address = f'ws://{host}:{server.port}/feed' + (f'?token={token}' if token else '')
    return open_socket(address, max_size=None, compression=None,
                       sock=socket.create_connection(('127.0.0.1', server.port)), **options)


def next_frame(link):
    link.send('{"do": "next"}')
    while isinstance(data := link.recv(timeout=10), str):
        pass
    return decode(data)


def test_a_page_gets_frames_when_it_is_ready_for_them(serve):
    with connect(serve()) as link:
        first, second = next_frame(link)[0], next_frame(link)[0]
        assert second['number'] > first['number']
        with pytest.raises(TimeoutError):
            while isinstance(link.recv(timeout=0.5), str):
                pass
        link.send('{"do": "pause"}')
        link.send('{"do": "next"}')
        link.send('not json')
        link.send('[' * 4000)
        state = None
        while not isinstance(state, dict) or state['playing']:
            data = link.recv(timeout=10)
            state = json.loads(data) if isinstance(data, str) else state
        assert state['title'] == 'fake' and state['diagnostics'][0]['name'] == 'model'


def refused(server, **options):
    from websockets.exceptions import InvalidStatus

    try:
        with connect(server, **options) as link:
            link.send('{"do": "next"}')
            link.recv(timeout=10)
    except InvalidStatus as error:
        return error.response.status_code == 403
    return False


def test_a_page_from_elsewhere_sees_nothing(serve):
    server = serve()
    assert not refused(server, origin=f'http://127.0.0.1:{server.port}')
    assert refused(server, origin='http://evil.example')
    assert refused(server, origin='http://127.0.0.1:3000')  # another program's page
    assert refused(server, host='evil.example')  # a name that leads here


def test_another_address_than_this_machines_needs_the_token(serve):
    server = serve(host='0.0.0.0')
    token = server.url.partition('token=')[2]
    assert len(token) >= 16
    assert refused(server) and refused(server, token='x' * len(token))
    assert not refused(server, token=token)


def test_only_the_pages_own_files_are_served(serve):
    import http.client

    server = serve()
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=10)
    for path, status in (('/', 200), ('/view.js', 200), ('/style.css', 200), ('/feed.py', 404),
                         ('/../server.py', 404), ('/%2e%2e%2fserver.py', 404)):
        connection.request('GET', path)
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == status, path
        if status == 200:
            assert "default-src 'self'" in answer.headers['Content-Security-Policy']
            assert 'http://' not in body and 'https://' not in body, 'it must work offline'


def test_without_the_server_the_command_says_what_to_install(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, 'starlette', None)
    assert dgtl(['view', 'streetworld']) == 1
    assert 'pip install "dgtl_ros[view]"' in capsys.readouterr().err


def test_wrong_numbers_are_refused(play):
    with pytest.raises(ValueError, match='rate above 0 and at most 1000'):
        play(Recording(1), rate=0)
    with pytest.raises(ValueError, match='stride must be'):
        play(Recording(1), stride=0)


@pytest.mark.parametrize('option, value, said', [
    ('--port', '99999', 'must be in 0..65535'), ('--port', '-1', 'must be in 0..65535'),
    ('--stride', '0', 'must be 1 or more'), ('--rate', '0', 'must be above 0 and at most 100'),
    ('--rate', 'nan', 'must be above 0 and at most 100'),
    ('--picture-rate', '0', 'must be above 0 and at most 1000')])
def test_wrong_use_is_said_before_anything_is_loaded(capsys, option, value, said):
    with pytest.raises(SystemExit, match='2'):
        dgtl(['view', 'streetworld', option, value])
    assert said in capsys.readouterr().err


def test_what_is_no_source_is_wrong_use(capsys):
    for package in ('starlette', 'uvicorn', 'websockets'):
        pytest.importorskip(package)
    with pytest.raises(SystemExit, match='2'):
        dgtl(['view', '/nowhere'])
    assert "there is no '/nowhere'" in capsys.readouterr().err


def test_a_place_where_nothing_can_listen_is_told_in_words(capsys):
    pytest.importorskip('starlette')
    pytest.importorskip('uvicorn')
    pytest.importorskip('websockets')
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        assert dgtl(['view', 'streetworld', '--port', port, '--no-browser']) == 1
        assert (f'nothing can listen on 127.0.0.1, port {port} (Address already in use): give '
                'another --port, or 0 for a free one') in capsys.readouterr().err
    assert dgtl(['view', 'streetworld', '--host', '192.0.2.1', '--no-browser']) == 1
    assert 'give an address of this machine with --host' in capsys.readouterr().err


def test_the_verdict_on_the_domain_is_shown_and_starts_anew_after_a_jump(play):
    player = play(Recording(100, size=(90, 160)), rate=200.0)  # even pictures: nothing to judge
    until(lambda: player.state['ended'])
    told = player.newest().domain
    assert told['verdict'] == 'unusable' and told['causes'] and told['score'] == 1
    assert decode(encode(player.newest()))[0]['domain'] == told
    player.command({'do': 'pause'})
    player.command({'do': 'seek', 'to': 40})
    shows(player, 40)
    assert len(player._domain._frames) == 1
