# SPDX-License-Identifier: Apache-2.0
import io
import os
import re

from dgtl_core.engine.progress import Progress
import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_nested_phases_add_up(clock):
    progress = Progress(io.StringIO(), clock=clock)
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


def test_lines_now_and_then_where_there_is_no_terminal(clock):
    out = io.StringIO()
    progress = Progress(out, every_s=10, clock=clock)
    progress.start('build', None, 100)
    for step in range(100):
        clock.now += 1
        progress.step('build', step)
    progress.close()
    lines = out.getvalue().splitlines()
    assert lines[:2] == ['building the engine:   0% build', 'building the engine:  10% build']
    assert len(lines) == 11


def test_a_bar_on_a_terminal(clock):
    out = Terminal()
    progress = Progress(out, clock=clock)
    progress.start('build', None, 2)
    clock.now = 1
    progress.start('Tuning', 'build', 4)
    clock.now = 2
    progress.step('Tuning', 1)
    progress.close()
    shown = re.sub(r'\x1b\[K', '', out.getvalue()).split('\r')
    assert shown[-2] == f'[{"#" * 8}{"." * 22}]  25% Tuning' and shown[-1] == ''
    assert '\n' not in out.getvalue()


def test_a_cancelled_build_is_told_at_the_next_step():
    progress = Progress(io.StringIO())
    progress.start('build', None, 3)
    assert progress.step('build', 0) is True
    progress.cancelled = True
    assert progress.step('build', 1) is False
    assert progress.step('unknown', 0) is False


def test_a_closed_output_is_no_exception(clock):
    out = io.StringIO()
    progress = Progress(out, every_s=0, clock=clock)
    out.close()
    progress.start('build', None, 1)
    assert progress.step('build', 0) is True


def test_a_build_whose_reader_is_gone_is_cancelled():
    reader, writer = os.pipe()
    with os.fdopen(writer, 'w') as stream:
        progress = Progress(stream, every_s=0)
        os.close(reader)
        progress.start('build', None, 2)
        assert progress.step('build', 0) is False
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or closing it raises again
