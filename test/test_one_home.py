# SPDX-License-Identifier: Apache-2.0
"""Each concept has one home: what gives it away stands in no other module."""

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = 'dgtl_core'
HOMES = {
    'the normalisation of pixels': (
        r'\bconfig\.std\b|/=? (self\.)?std\b|/=? torch\.tensor\(std\)', {
            f'{CORE}/model/normalization.py',
            f'{CORE}/folding/fold.py', f'{CORE}/folding/light.py'}),  # as a part of the weights
    'putting a file in its place': (
        r'\bos\.(replace|rename)\(|_part\.(replace|rename)\(|\bpart\.rename\(|mkdtemp\(|mkstemp\(',
        {f'{CORE}/files.py'}),
    'the suffixes of pictures': (r"'.webp'", {f'{CORE}/pictures.py'}),
    'whether a CPU multiplies bfloat16': (r'avx512_bf16|amx_bf16', {f'{CORE}/runtime/board.py'}),
    'whether a GPU multiplies bfloat16': (
        r'is_bf16_supported', {f'{CORE}/learning/processes.py'}),
    'what a model runs on by default': (
        r"'--(device|backend)'.{0,20}default='|\b(device|backend): str = 'auto'",
        {f'{CORE}/runtime/contract.py'}),
}


def places(found):
    """Return the files outside of tests in which a pattern occurs."""
    return {str(path.relative_to(ROOT)) for room in (CORE, 'dgtl_ros', 'training', 'launch')
            for path in (ROOT / room).rglob('*.py')
            if re.search(found, path.read_text(encoding='utf-8'))}


@pytest.mark.parametrize('concept', HOMES)
def test_one_home(concept):
    found, homes = HOMES[concept]
    assert places(found) == homes
