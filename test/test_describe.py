# SPDX-License-Identifier: Apache-2.0
"""The description of a segmenter."""

import json

from dgtl_core.config import preset
from dgtl_core.strict import to_dict
import pytest
from tiny_segmenter import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from training.bench.anatomy import describe
from training.describe import main
import yaml


def test_counts_are_those_of_the_released_model(capsys):
    assert main(['dgtl-dinov2-l', '--levels', '1', '--json']) == 0
    parts = {part['name']: part for part in json.loads(capsys.readouterr().out)['parts']}
    assert parts['segmenter']['trained'] == 23_569_877
    assert parts['segmenter']['frozen'] == parts['backbone']['frozen'] == 304_199_680
    assert parts['adapter']['trained'] == 2_990_081
    assert parts['backbone']['output'] == '4 * 1x1024x32x32'
    # 24 blocks: 12 C^2 multiply-adds per token and 2 N C for the attention
    blocks = 24 * 2 * 1025 * (12 * 1024 ** 2 + 2 * 1025 * 1024) / 1e9
    assert parts['backbone']['gflops'] == pytest.approx(blocks, rel=0.1)


def test_parts_add_up_to_the_whole():
    parts = describe(tiny(), (64, 96), levels=1)
    whole, rest = parts[0], parts[1:]
    assert whole.name == 'segmenter'
    assert sum(part.trained for part in rest) == whole.trained
    assert sum(part.frozen for part in rest) == whole.frozen
    assert 0.9 * whole.gflops < sum(part.gflops for part in rest) <= whole.gflops


def test_gflops_are_those_of_a_real_run():
    from dgtl_core.model.mask_decoder import semantic_scores
    from dgtl_core.model.segmenter import Segmenter

    model = Segmenter(tiny()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        semantic_scores(model.predict(torch.randn(1, 3, 64, 96)), (64, 96))
    assert describe(tiny(), (64, 96))[0].gflops == pytest.approx(
        counter.get_total_flops() / 1e9, rel=0.05)


def test_table_of_a_yaml_file(tmp_path, capsys):
    path = tmp_path / 'model.yaml'
    path.write_text(yaml.safe_dump(to_dict(tiny())))
    assert main([str(path), '--size', '32', '64', '--levels', '3']) == 0
    text = capsys.readouterr().out
    assert text.startswith('tiny (dgtl), one picture of 32x64')
    assert 'blocks.0-3' in text and '4 * 1x64x2x4' in text


def test_refuses_what_it_does_not_know(capsys):
    assert main(['dgtl-dinov2-xl']) == 1
    assert 'did you mean dgtl-dinov2-l' in capsys.readouterr().err
    for height, message in (('100', 'multiples of the patch'), ('-32', 'at least 32x32'),
                            ('16', 'at least 32x32')):
        assert main(['dgtl-mini', '--size', height, '512']) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize('name', ['dgtl-rt-mini', 'dgtl-rt-s', 'dgtl-rt-l-p32'])
def test_parts_of_a_light_head_add_up(name):
    parts = {part.name: part for part in describe(preset(name), (128, 256), levels=1)}
    whole = parts.pop('segmenter')
    assert parts.keys() == {'backbone', 'adapter', 'light_head'}
    assert all(part.gflops > 0 for part in parts.values())
    assert 0.9 * whole.gflops < sum(part.gflops for part in parts.values()) <= whole.gflops
    assert sum(part.trained for part in parts.values()) == whole.trained
