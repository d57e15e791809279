# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def shared() -> Path:
    """Return the folder with real pictures and recorded numbers, or skip."""
    root = Path(os.environ.get('DGTL_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
    if not root.is_dir():
        pytest.skip(f'no shared data at {root} (set DGTL_SHARED)')
    return root
