# SPDX-License-Identifier: Apache-2.0
"""The table of sizes and speed: every form once, the ratios of one run."""

import json

import pytest

pytest.importorskip('transformers')
from dgtl_core.config import preset
from dgtl_core.model.segmenter import Segmenter
from training import sizes
from training.bench.segformer import NAME, segformer

FORMS = {
    sizes.MASK2FORMER: ('dgtl-{}', 'head-mask2former'),
    'released form': ('dgtl-{}:released-eager', ''),
    'light head': ('dgtl-rt-{}', 'head-light-texts')}


def test_every_form_is_timed_against_the_same(monkeypatch):
    monkeypatch.setattr(sizes, 'FORMS', FORMS)
    lines = sizes.compare('mini', (64, 128), 1, 'fp32', {'head-light-texts': 20.0})
    assert [line.form for line in lines] == [*FORMS, NAME]
    first, released, light, other = lines
    assert first.to_mask2former == 1 and other.to_segformer == 1
    assert light.to_mask2former == pytest.approx(light.ms / first.ms)
    assert released.to_segformer == pytest.approx(released.ms / other.ms)
    assert released.gflop > first.gflop
    model = Segmenter(preset('dgtl-rt-mini'))
    assert light.parameters == sum(p.numel() for p in model.parameters()) / 1e6
    assert 3.7 < other.parameters < 3.8  # 3.7 M and the classifier, as published
    assert [line.miou for line in lines] == [None, None, 20.0, None]
    rows = sizes.sizes_table(lines).splitlines()
    assert len(rows) == 2 + len(lines) and all(row.count('|') == 9 for row in rows)
    assert rows[2].startswith('| MINI | Mask2Former head, folded |') and '| 1.00 |' in rows[2]


def test_the_arithmetic_of_segformer_is_that_of_its_paper():
    """8.4 GFLOP at 512x512, a multiply-add counted once, its attention's products left out."""
    contender = segformer((512, 512))
    gflop = sizes.count(contender.network, (512, 512)).flops / 1e9
    assert gflop / 2 == pytest.approx(8.4, rel=0.3)


def test_scores_come_from_the_experiment_and_nothing_else(tmp_path, capsys, monkeypatch):
    file = tmp_path / 'results.json'
    file.write_text(json.dumps({'streetworld': {'head-mask2former': {
        '0': {'clear': 0.5, 'fog': 0.2, 'rain': 0.4}, '1': {'clear': 0.5, 'fog': 0.4, 'rain': 0.6},
    }}}))
    assert sizes.experiment_scores(file) == {'head-mask2former': pytest.approx(40)}
    seen = []
    monkeypatch.setattr(sizes, 'compare', lambda *given: seen.append(given) or [])
    assert sizes.main(['--sizes', 's', '--experiment', str(file), '--out',
                       str(tmp_path / 'sizes.json')]) == 0
    assert seen == [('s', (512, 1024), 3, 'fp32', {'head-mask2former': pytest.approx(40)})]
    assert json.loads((tmp_path / 'sizes.json').read_text()) == []
    file.write_text('[]')
    assert sizes.main(['--experiment', str(file)]) == 1
    assert 'holds no results of training.experiment' in capsys.readouterr().err
    assert sizes.main(['--threads', '0']) == 1
    assert '--threads must be 1 to' in capsys.readouterr().err
