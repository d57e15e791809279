# SPDX-License-Identifier: Apache-2.0
"""Numbers that nothing can be done with are refused by every program at once."""

from importlib import import_module

import pytest

pytest.importorskip('torch')

PRETRAIN = ['r.yaml', '--objective', 'labels', '--out', 'x.safetensors']


@pytest.mark.parametrize(('program', 'needed', 'option', 'values'), [
    ('mini', ['--texts', 'x', '--out', 'x'], '--minutes', ('nan', 'inf', '0', '-1', 'soon')),
    ('mini', ['--texts', 'x', '--out', 'x'], '--lr', ('nan', '-1')),
    ('mini', ['--texts', 'x', '--out', 'x'], '--batch', ('0', '1.5', '-2', '')),
    ('gpu_day', [], '--minutes', ('nan', '-3')),
    ('experiment', [], '--jobs', ('0',)),
    ('experiment', [], '--seeds', ('-1',)),
    ('experiment', [], '--pretrain-steps', ('0',)),
    ('pretrain', PRETRAIN, '--lr', ('nan', 'inf', '0')),
    ('describe', ['dgtl-mini'], '--levels', ('-1',)),
    ('sizes', [], '--runs', ('0',))])
def test_impossible_numbers_are_refused_with_what_is_allowed(
        program, needed, option, values, capsys):
    for value in values:
        with pytest.raises(SystemExit, match='2'):
            import_module(f'training.{program}').main([*needed, f'{option}={value}'])
        said = capsys.readouterr().err
        assert f'argument {option}: must be ' in said and f'got {value!r}' in said
