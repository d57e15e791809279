# SPDX-License-Identifier: Apache-2.0
"""The page of ``dgtl view`` in a real browser: drawn, pointed at, operated, dark and light."""

import os
import shutil
import threading

import cv2
from dgtl_core.classes import ClassSet, SegmentationClass
from dgtl_core.predictor import Segmentation
from dgtl_core.view.player import Player
import numpy as np
import pytest
from test_view import FakePredictor, Recording, until

playwright = pytest.importorskip('playwright.sync_api')
expect = playwright.expect
pytest.importorskip('starlette')
pytest.importorskip('uvicorn')
BROWSER = next(filter(None, map(
    shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason='no Chromium here (apt-get install chromium)')


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=BROWSER, args=['--no-sandbox'] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


class ManyClasses(FakePredictor):
    """Knows 150 classes and sees the 140th alone."""

    classes = ClassSet('many', tuple(
        SegmentationClass(id=i, name=f'class {i}', color=(i, 99, 7)) for i in range(150)))

    def timed(self, image):
        (labels, confidence), timing = super().timed(image)
        return Segmentation(np.full_like(labels, 140), confidence), timing


@pytest.fixture
def player(request):
    predict = getattr(request, 'param', FakePredictor)()
    player = Player([Recording(200, size=(90, 160))], predict, rate=20.0)
    yield player
    player.close()


@pytest.fixture
def server(player):
    from dgtl_core.view.server import ViewServer

    server = ViewServer(player, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server
    server.stop()
    thread.join(10)


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={'width': 1200, 'height': 800}, color_scheme='dark')
    page.faults, page.asked = [], []
    page.on('pageerror', lambda error: page.faults.append(str(error)))
    page.on('console', lambda said: page.faults.append(said.text) if said.type == 'error' else 0)
    page.on('request', lambda request: page.asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector('#legend label')
    yield page
    assert not page.faults
    own = f'http://127.0.0.1:{server.port}/'
    assert all(url.startswith((own, 'data:', 'blob:')) for url in page.asked), page.asked
    page.close()


def overlay(page, x, y):
    """RGBA of the overlay at a place, 0..1."""
    return page.evaluate("""([x, y]) => {
        const canvas = document.getElementById('overlay');
        const context = canvas.getContext('2d');
        return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
    }""", [x, y])


def point_at(page, x, y):
    box = page.locator('#overlay').bounding_box()
    page.mouse.move(box['x'] + box['width'] * x, box['y'] + box['height'] * y)


def test_classes_are_drawn_named_and_toggled(page):
    assert [row.inner_text().split('\n')[0] for row in page.locator('#legend label').all()] == [
        'road', '<b>sky</b>']  # names are text, whatever is in them
    assert '50.0 %' in page.inner_text('#legend')
    red, green, blue, alpha = overlay(page, 0.25, 0.5)
    assert abs(red - 128) < 3 and abs(green - 64) < 3 and alpha == 140  # 55 % of 255
    assert abs(overlay(page, 0.75, 0.5)[2] - 180) < 3
    page.locator('#legend input').first.uncheck()
    assert overlay(page, 0.25, 0.5)[3] == 0 and overlay(page, 0.75, 0.5)[3] == 140
    page.click('#none')
    assert overlay(page, 0.75, 0.5)[3] == 0
    page.click('#all')
    page.locator('#opacity').fill('100')
    assert overlay(page, 0.25, 0.5) == [128, 64, 128, 255]


@pytest.mark.parametrize('player', [ManyClasses], indirect=True)
def test_of_many_classes_those_that_were_seen_stand_on_top(page):
    tops = {row.get_attribute('data-id'): row.bounding_box()['y']
            for row in page.locator('#legend label').all()}
    assert len(tops) == 150 and min(tops, key=tops.get) == '140'
    assert list(tops) == [str(i) for i in range(150)]  # and all others in the order of their ids
    legend = page.locator('#legend').bounding_box()
    assert tops['140'] - legend['y'] < 5 and legend['height'] < 500


def test_the_cursor_is_told_class_and_confidence(page):
    point_at(page, 0.25, 0.5)
    assert page.inner_text('#tip') == 'road 80 %'
    assert page.locator('#legend label.under').inner_text().startswith('road')
    point_at(page, 0.98, 0.98)
    assert page.inner_text('#tip') == '<b>sky</b> 80 %'
    box, tip = (page.locator(name).bounding_box() for name in ('#pictures', '#tip'))
    assert tip['x'] + tip['width'] <= box['x'] + box['width'] + 1
    page.mouse.move(1, 1)
    assert page.locator('#tip').is_hidden()


def test_pause_step_seek(page, player):
    page.click('#play')
    expect(page.locator('#play')).to_have_text('Play')
    until(lambda: not player.state['playing'])
    page.wait_for_timeout(200)
    shown = player.newest().position
    expect(page.locator('#position')).to_have_text(f'{shown + 1} of 200')
    page.click('#step')
    expect(page.locator('#position')).to_have_text(f'{shown + 2} of 200')
    page.locator('#seek').fill('150')
    expect(page.locator('#position')).to_have_text('151 of 200')
    picture = page.evaluate("""[...document.getElementById('picture').getContext('2d')
        .getImageData(5, 5, 1, 1).data]""")
    assert abs(picture[0] - 150) < 4  # the very frame


def test_dark_and_light(page, tmp_path):
    def brightness():
        page.screenshot(path=tmp_path / 'page.png')
        return float(np.mean(cv2.imread(str(tmp_path / 'page.png'))[-60:, :800]))

    assert brightness() < 60
    page.click('#theme')
    assert brightness() > 200
    page.click('#theme')
    page.emulate_media(color_scheme='light')
    assert brightness() < 60  # what was chosen by hand stays


def test_a_small_window_needs_no_sideways_scrolling(page):
    page.set_viewport_size({'width': 420, 'height': 800})
    assert page.evaluate('document.documentElement.scrollWidth') <= 420


def test_it_comes_back_when_the_connection_is_lost(page, server, player):
    server.stop()
    expect(page.locator('#status')).to_have_attribute('data-state', 'lost')
    page.faults.clear()
    from dgtl_core.view.server import ViewServer

    again = None

    def bind():
        nonlocal again
        try:
            again = ViewServer(player, port=server.port)
        except (OSError, SystemExit):
            return False
        return True

    until(bind)
    thread = threading.Thread(target=again.run, daemon=True)
    thread.start()
    expect(page.locator('#status')).to_have_attribute('data-state', 'live')
    page.faults.clear()  # the refused attempts in between
    page.goto('about:blank')
    again.stop()
    thread.join(10)
