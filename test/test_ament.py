# SPDX-License-Identifier: Apache-2.0
"""The linters of a ROS build farm, where they are installed; `make lint` has their rules."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT / 'dgtl_ros'), str(ROOT / 'launch')]


def test_flake8():
    flake8 = pytest.importorskip('ament_flake8.main')
    code, errors = flake8.main_with_errors(argv=PATHS)
    assert code == 0, '\n'.join(errors)


def test_pep257():
    pep257 = pytest.importorskip('ament_pep257.main')
    assert pep257.main(argv=PATHS) == 0


def test_a_build_farm_installs_them():
    text = (ROOT / 'package.xml').read_text(encoding='utf-8')
    for name in ('ament_flake8', 'ament_pep257'):
        assert f'<test_depend>{name}</test_depend>' in text
