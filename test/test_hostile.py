# SPDX-License-Identifier: Apache-2.0
"""Hostile bytes for the readers of messages; ``test/fuzz.py`` tries many more of them."""

from pathlib import Path
import random
import resource

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
hypothesis = pytest.importorskip('hypothesis')
from fuzz import checked, CORPUS, mutated  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.ros
SEEDS = [path.read_bytes() for path in sorted(CORPUS.glob('*.bin'))]


@pytest.mark.parametrize('path', sorted(CORPUS.glob('*.bin')), ids=lambda path: path.stem)
def test_the_corpus_is_read_or_refused(path):
    held = checked(path.read_bytes())
    assert held == (path.stem not in {'png-bomb', 'jpeg-fill', 'jpeg-scans', 'cdr-length'})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data):
    checked(data)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1 << 32))
def test_whatever_a_picture_is_changed_to_is_read_or_refused(seed):
    checked(mutated(random.Random(seed), SEEDS))


def test_what_is_refused_leaves_nothing_behind():
    """An exception that is raised again and again would keep every message it refused."""
    cut = next(data for data in SEEDS if data[2:4] == b'\xff\xd8')[:-2] + bytes(100_000)
    for _ in range(10):
        assert not checked(cut)
    before = resident()
    for _ in range(300):
        assert not checked(cut)
    assert resident() - before < 10e6, 'it has 30 MB of messages'


def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()
