# SPDX-License-Identifier: Apache-2.0
"""Whatever a backend says can be logged, and no thread dies of it."""

import threading
import time

from dgtl_ros.printable import complain, described, printable
from dgtl_ros.worker import Worker
import pytest


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError('no words')


@pytest.mark.parametrize('text, said', [
    ('plain \u00fc\n\tline', 'plain \u00fc\n\tline'), ('a\ud800b', 'a\\ud800b'),
    ('a\0b\x1b[2J\r', 'a\\x00b\\x1b[2J\\x0d'), (7, '7'),
    (Speechless(), 'Speechless without a text (RuntimeError)')])
def test_what_is_no_text_is_escaped(text, said):
    assert printable(text) == said
    said.encode('utf-8')


def test_the_middle_of_a_long_text_goes():
    text = printable('a' * 10**6 + 'the end')
    assert len(text) < 5000 and text.startswith('aaa') and text.endswith('the end')


def test_an_exception_is_named():
    assert described(ValueError('x\ud800')) == 'ValueError: x\\ud800'


def test_complaints_survive_a_closed_stderr(monkeypatch, tmp_path):
    closed = (tmp_path / 'file').open('w')
    closed.close()
    monkeypatch.setattr('sys.stderr', closed)
    complain('it failed')


def test_a_worker_goes_on_after_whatever_its_work_raises(capsys):
    again = threading.Event()

    def work(items):
        if items == ['bad']:
            raise Speechless
        again.set()

    worker = Worker(work, lambda: 0.0)
    worker.mailbox.put('bad')
    limit = time.monotonic() + 20
    while 'Speechless' not in capsys.readouterr().err:
        assert time.monotonic() < limit
        time.sleep(0.01)
    worker.mailbox.put('good')
    assert again.wait(20) and worker.stop(20)
