# SPDX-License-Identifier: Apache-2.0
"""Hostile bytes for the readers of messages; ``test/fuzz.py`` tries many more of them."""

import random

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
