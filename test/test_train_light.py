# SPDX-License-Identifier: Apache-2.0
"""A light head with one query for each class, from its training to its model file."""

import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.run import FINAL
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import ClassTexts, save_texts
from dgtl_core.predictor import Predictor
import numpy as np
import pytest
from safetensors.torch import load_file
from small_recipe import COLORS, command, MODEL, power_failure_after_saving, write_recipe
from test_light_head import config
import torch
from training import evaluate, export, train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures('one_thread')
NAMES = tuple(f'box {i}' for i in range(4))


def light_recipe(folder, queries='texts', **changes):
    """Return a recipe of a small light head; 'texts' are random ones."""
    save_texts(folder / 'texts.npz', ClassTexts(torch.randn(4, 24), NAMES, ''))
    linked = queries == 'texts'
    return write_recipe(folder, **{
        'model': {
            **{key: MODEL[key] for key in ('backbone', 'input_size', 'window_stride')},
            'adapter': {'num_tokens': 8, 'rank': 4, 'mask_link': False,
                        'text_link': 'all' if linked else 'off'},
            'text': {'file': str(folder / 'texts.npz') if linked else '', 'width': 24},
            'head': {'kind': 'light', 'queries': queries, 'num_blocks': 2, 'num_queries': 8}},
        'loss': {'num_points': 64}, **changes})


def run(recipe, out, *, resume=False, changes=()):
    given = [word for change in changes for word in ('--set', change)]
    return train.main([
        str(recipe), '--out', str(out), '--device', 'cpu', *['--resume'] * resume, *given])


@pytest.mark.parametrize('queries', ['texts', 'classes'])
def test_it_learns_resumes_is_measured_and_runs_from_a_file(
        queries, tmp_path, capsys, monkeypatch):
    recipe = light_recipe(tmp_path, queries, steps=40, save_every=15, optim={'lr': 3e-3})
    assert run(recipe, tmp_path / 'whole') == 0
    log = [json.loads(x) for x in (tmp_path / 'whole' / 'log.jsonl').read_text().splitlines()]
    assert log[-1]['loss'] == pytest.approx(log[-1]['cross_entropy'] + log[-1]['dice'])
    assert log[-1]['loss'] < 0.7 * log[0]['loss']
    with power_failure_after_saving(monkeypatch):
        assert run(recipe, tmp_path / 'part') == 1
    assert run(recipe, tmp_path / 'part', resume=True) == 0
    straight, resumed = (load_file(tmp_path / name / FINAL) for name in ('whole', 'part'))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)

    final = tmp_path / 'whole' / FINAL
    capsys.readouterr()
    assert evaluate.main([str(final), f'folder:{tmp_path}/boxes', '--device', 'cpu']) == 0
    assert 'box 3' in capsys.readouterr().out
    assert export.main([str(final), str(tmp_path / 'light.onnx')]) == 0
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 32:] = COLORS[3]
    labels = Predictor.load(tmp_path / 'light.onnx', device='cpu')(picture).labels
    model, made_of = load_segmenter(final)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (made_of.mean, made_of.std))
    with torch.no_grad():
        scores = model.scores((torch.from_numpy(picture).permute(2, 0, 1)[None] - mean) / std)
    assert (torch.from_numpy(labels) == scores.argmax(1)[0]).float().mean() > 0.99


@pytest.mark.parametrize('queries, losses', [
    ('texts', {'cross_entropy', 'dice'}), ('classes', {'cross_entropy', 'dice'}),
    ('tokens', {'cls', 'mask', 'dice'}), ('learned', {'cls', 'mask', 'dice'})])
def test_the_head_says_what_it_learns_by(queries, losses, tmp_path):
    recipe = light_recipe(tmp_path, queries, steps=1)
    assert run(recipe, tmp_path / 'out') == 0
    entry = json.loads((tmp_path / 'out' / 'log.jsonl').read_text().splitlines()[-1])
    assert losses <= entry.keys() and ('cross_entropy' in entry) == ('cross_entropy' in losses)


def test_two_processes_learn_what_one_learns_from_the_joint_batch(tmp_path):
    """But for dice, which is of each process's own pictures."""
    recipe = light_recipe(
        tmp_path, 'classes', steps=4, loss={'class_dice_weight': 0.0}, optim={'lr': 1e-3})
    for number, file in enumerate(sorted((tmp_path / 'boxes' / 'labels').iterdir())):
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        labels[:3 * number] = 255  # the processes get different numbers of pixels
        cv2.imwrite(str(file), labels)
    assert run(recipe, tmp_path / 'one') == 0
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         *command(recipe, tmp_path / 'two', '--device', 'cpu')[1:]],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / 'log.jsonl').read_text().splitlines()[-1])
                for name in ('one', 'two'))
    assert two['cross_entropy'] == pytest.approx(one['cross_entropy'], rel=1e-4)
    first, second = (load_file(tmp_path / name / FINAL) for name in ('one', 'two'))
    moves_all_classes_alike = 'model.light_head.mask_head.4.bias'  # so its gradient is noise
    for key in first.keys() - {moves_all_classes_alike}:
        assert (first[key] - second[key]).abs().mean() < 1e-5, key


def test_an_alignment_of_tokens_is_refused():
    model = Segmenter(config())
    model.set_texts(torch.randn_like(model.texts))
    with pytest.raises(ValueError, match='set loss.alignment off for a light head'):
        Objective(model, LossConfig(alignment='similarity'))
