# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: it is built without a warning and loads nothing from elsewhere."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading

import pytest

pytest.importorskip('mkdocs')
pytest.importorskip('material')
playwright = pytest.importorskip('playwright.sync_api')
ROOT = Path(__file__).resolve().parent.parent
BROWSER = next(filter(None, map(
    shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Build the site and serve it; return its address and its pages."""
    out = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-q', '-d', str(out)], cwd=ROOT,
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(out)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', sorted(
        path.parent.relative_to(out).as_posix() for path in out.rglob('index.html'))
    server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason='no Chromium here (apt-get install chromium)')
def test_no_page_asks_another_server_and_the_drawing_shows(site):
    address, pages = site
    assert {'design', 'node', 'reference/commands', 'tutorials/own-pictures'} <= set(pages)
    asked, faults = [], []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=BROWSER, args=['--no-sandbox'] if os.geteuid() == 0 else [])
        page = browser.new_page()
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: faults.append(str(error)))
        for name in pages:
            page.goto(f'{address}/{name}/')
            page.wait_for_load_state('networkidle')
        assert all(url.startswith((address, 'data:', 'blob:')) for url in asked), [
            url for url in asked if not url.startswith(address)]
        assert not faults
        page.goto(f'{address}/design/')
        box = page.locator('svg.layered').bounding_box()
        assert box['width'] > 400 and page.locator('svg.layered rect').count() > 30
        assert page.locator('svg.layered text', has_text='predictor').count() == 1
        browser.close()
