# SPDX-License-Identifier: Apache-2.0
"""The program for a rented GPU: its parts, its time limits, and a rehearsal."""

import json

from dgtl_core.classes import CITYSCAPES
from dgtl_core.model.text import ClassTexts, save_texts
import pytest
import torch
from training.bench.contenders import parse, Spec
from training.gpu_day import main, Measurement, plan, run


@pytest.mark.parametrize('rehearse', [False, True])
def test_every_model_that_is_timed_can_be_read(rehearse):
    models = [part.arguments[0] for part in plan(rehearse) if part.module == 'training.benchmark']
    specs = [parse(model, Spec(model='')) for model in models]
    assert len(specs) == 5 and specs[0].form == 'released-eager'
    assert all(spec.compiled != rehearse for spec in specs[1:-1])


def test_what_is_measured_leaves_time_to_train():
    assert sum(part.seconds for part in plan(False)) < 9 * 60


def test_a_part_that_hangs_or_fails_is_named_and_costs_no_more_than_its_time():
    slow = Measurement(name='slow', module='timeit', arguments=('import time; time.sleep(60)',),
                seconds=60)
    assert run(slow, 1.0) == {'error': 'stopped after 1 s'}
    wrong = Measurement(name='wrong', module='json.tool', arguments=('no such file',), seconds=60)
    assert 'no such file' in run(wrong, 60)['error']


def test_texts_of_another_model_are_refused_before_anything_is_measured(tmp_path, capsys):
    names = CITYSCAPES.names
    texts, out = tmp_path / 'texts.npz', tmp_path / 'out'
    arguments = ['--rehearse', '--texts', str(texts), '--out', str(out)]
    assert main(arguments) == 1 and 'there are no class texts' in capsys.readouterr().err
    save_texts(texts, ClassTexts(torch.randn(len(names), 256), names, ''))
    assert main(arguments) == 1
    assert 'are 256 wide, and the embedded model takes 512' in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_rehearsal_measures_and_trains_and_ends_by_itself(tmp_path):
    texts = tmp_path / 'texts.npz'
    names = CITYSCAPES.names
    save_texts(texts, ClassTexts(torch.randn(len(names), 512), names, ''))
    assert main(['--rehearse', '--minutes', '3', '--texts', str(texts), '--out',
                 str(tmp_path)]) == 0
    results = json.loads((tmp_path / 'gpu_day.json').read_text())
    assert [*results] == [part.name for part in plan(True)]
    assert all(share['equal'] > 0.9 for share in results['agreement'].values()
               if isinstance(share, dict))
    assert results['light']['rows'][0]['best_ms'] > 0
    assert results['training']['steps']
    assert (tmp_path / 'model.safetensors').exists()
