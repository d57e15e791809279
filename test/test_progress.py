# SPDX-License-Identifier: Apache-2.0
import io
import os

from dgtl_core.engine.progress import BuildProgress
from dgtl_core.progress import Progress
import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def each(monkeypatch):
    """A line for every step."""
    monkeypatch.setattr('dgtl_core.progress._EVERY', 0.0)


def test_nested_phases_add_up():
    progress = BuildProgress(io.StringIO())
    progress.start('build', None, 4)
    progress.step('build', 0)
    progress.start('graph', 'build', 2)
    progress.start('tune', 'graph', 10)
    assert progress.fraction('build') == 0.25
    progress.step('tune', 4)
    assert progress.fraction('build') == pytest.approx((1 + (0.5 / 2)) / 4)
    progress.finish('tune')
    progress.step('graph', 1)
    assert progress.fraction('build') == 0.5
    progress.finish('graph')
    progress.step('build', 3)
    assert progress.fraction('build') == 1.0


def test_lines_where_there_is_no_terminal(each):
    out = io.StringIO()
    progress = BuildProgress(out)
    progress.start('build', None, 4)
    progress.start('Tuning', 'build', 2)
    progress.step('Tuning', 0)
    progress.step('build', 3)
    progress.close()
    assert out.getvalue().splitlines() == [
        'building the engine: 0 % build', 'building the engine: 0 % Tuning',
        'building the engine: 12 % Tuning', 'building the engine: 100 % Tuning']


def test_lines_come_only_now_and_then():
    out = io.StringIO()
    progress = Progress(1000, 'frame', stream=out)
    for _ in range(1000):
        progress.advance()
    assert out.getvalue() == '' and progress.line().startswith('1000 of 1000 frames, ')


def test_what_is_being_done_is_said_at_once():
    out = io.StringIO()
    progress = BuildProgress(out)
    progress.start('build', None, 4)
    progress.step('build', 0)
    assert out.getvalue() == 'building the engine: 0 % build\n'


def test_a_bar_on_a_terminal():
    out = Terminal()
    progress = BuildProgress(out)
    progress.start('build', None, 2)
    progress.start('Tuning', 'build', 4)
    progress._shown._bar.mininterval = 0
    progress.step('Tuning', 1)
    progress.close()
    assert 'building the engine:  25%|' in out.getvalue() and 'Tuning' in out.getvalue()
    assert '\n' not in out.getvalue()


def test_a_cancelled_build_is_told_at_the_next_step():
    progress = BuildProgress(io.StringIO())
    progress.start('build', None, 3)
    assert progress.step('build', 0) is True
    progress.cancelled = True
    assert progress.step('build', 1) is False
    assert progress.step('unknown', 0) is False


def test_a_closed_output_is_no_exception(each):
    out = io.StringIO()
    progress = BuildProgress(out)
    out.close()
    progress.start('build', None, 1)
    assert progress.step('build', 0) is True


def test_a_build_whose_reader_is_gone_is_cancelled(each):
    reader, writer = os.pipe()
    with os.fdopen(writer, 'w') as stream:
        progress = BuildProgress(stream)
        os.close(reader)
        progress.start('build', None, 2)
        assert progress.step('build', 0) is False
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or closing it raises again
