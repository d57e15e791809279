# SPDX-License-Identifier: Apache-2.0
"""The trainer as a user starts it: what it leaves, what it learns, what it refuses."""

import json
import logging
import subprocess
import sys

import cv2
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.model.checkpoint import load_segmenter, read_header
import numpy as np
import pytest
from safetensors.torch import load_file
from small_recipe import command, MODEL, write_pictures, write_recipe
from small_training import ENVIRONMENT, lines, run, write_texts
import timm
import torch
from training.train import main

pytestmark = pytest.mark.usefixtures('one_thread')


def test_run_leaves_a_model_that_loads_and_a_log(whole):
    _, out = whole
    model, config = load_segmenter(out / FINAL)
    assert config.classes.names == ('box 0', 'box 1', 'box 2', 'box 3')
    scores = model.scores(torch.zeros(1, 3, 32, 64))
    assert scores.shape == (1, 4, 32, 64)
    entry = lines(out)[-1]
    assert entry['step'] == 8 and entry['loss'] == pytest.approx(
        sum(entry[name] for name in ('cls', 'mask', 'dice', 'semantic')))
    assert list((out / 'tensorboard').iterdir())
    header = read_header(out / FINAL)
    assert header['training']['recipe']['seed'] == 5 and header['method'] == 'dgtl'
    assert all(key.startswith('model.') for key in load_file(out / FINAL))


def test_moving_average_is_what_is_shipped(whole):
    _, out = whole
    last, final = load_file(out / LAST), load_file(out / FINAL)
    averaged = {key for key in final if not torch.equal(final[key], last[f'raw{key[5:]}'])}
    assert averaged and all(torch.equal(final[key], last[key]) for key in final)


@pytest.mark.parametrize('change', ['data=[]', 'data=["folder:nowhere"]', 'init=none.pth'])
def test_start_that_fails_leaves_no_folder(change, tmp_path):
    recipe = write_recipe(tmp_path)
    assert run(recipe, tmp_path / 'runs' / 'new', '--set', change) == 1
    assert not (tmp_path / 'runs').exists()
    (tmp_path / 'mine').mkdir()
    assert run(recipe, tmp_path / 'mine', '--set', change) == 1
    assert list((tmp_path / 'mine').iterdir()) == []


def test_a_missing_network_is_one_line(tmp_path, monkeypatch, capfd):
    create = timm.create_model

    def unreachable(name, pretrained=False, **options):
        if not pretrained:
            return create(name, **options)
        for number in range(5):
            logging.getLogger('huggingface_hub.utils._http').warning('Retrying in %d s', number)
        raise OSError

    monkeypatch.setattr('dgtl_core.model.backbone_weights.timm.create_model', unreachable)
    recipe = write_recipe(tmp_path, preset='dgtl-rt-s', model={
        'backbone': {'weights': 'timm'}, 'adapter': {'text_link': 'off'},
        'head': {'queries': 'classes'}, 'input_size': [32, 64]})
    assert run(recipe, tmp_path / 'out') == 1
    said = capfd.readouterr()
    assert 'cannot get the weights of vit_small' in said.err and 'Retrying' not in said.err
    assert 'dinov2-s starts from published weights' in said.out


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    (tmp_path / 'a').write_text('mine')
    for out in (tmp_path / 'a', tmp_path / 'a' / 'b' / 'c'):
        assert run(recipe, out) == 1
        assert f'{tmp_path}/a is a file, and the results need a folder' in capsys.readouterr().err
    assert (tmp_path / 'a').read_text() == 'mine'


@pytest.mark.parametrize('fault, message', [
    ('size', 'another size'), ('mask', 'hold nothing but 0 and 255'), ('empty', 'no pixel'),
    ('cut', 'cut short')])
def test_data_that_teach_nothing_are_refused_before_the_first_step(
        fault, message, tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    files = sorted((tmp_path / 'boxes' / 'labels').iterdir())
    for file in files if fault in ('mask', 'empty') else files[-1:]:
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if fault == 'cut':
            file.write_bytes(file.read_bytes()[:-20])
        else:
            cv2.imwrite(str(file), {'size': labels[:-6], 'mask': np.where(labels, 255, 0),
                                    'empty': np.full_like(labels, 255)}[fault].astype(np.uint8))
    assert run(recipe, tmp_path / 'out') == 1
    said = capsys.readouterr().err
    assert message in said and str(tmp_path / 'boxes' / 'labels') in said or fault == 'mask'
    assert 'Traceback' not in said and not (tmp_path / 'out').exists()


def test_two_data_sets_of_one_name_are_both_measured(tmp_path):
    recipe = write_recipe(tmp_path)
    write_pictures(tmp_path / 'other' / 'boxes', count=2)
    specs = [f'folder:{tmp_path}/boxes', f'folder:{tmp_path}/other/boxes']
    assert run(recipe, tmp_path / 'out', '--set', 'steps=1', '--set',
               f'evaluation.data={json.dumps(specs)}') == 0
    assert {f'miou/{spec}' for spec in specs} <= set(lines(tmp_path / 'out')[-1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(('link', 'alignment', 'batch'), [
    ('present', 'released', 2),  # one picture a process: alone it would link no text
    ('all', 'similarity', 4)])
def test_two_processes_learn_what_one_learns_from_the_joint_batch(
        link, alignment, batch, tmp_path):
    write_texts(tmp_path / 'texts.npz', [f'box {i}' for i in range(4)], 0)
    recipe = write_recipe(
        tmp_path, steps=4, batch=batch,
        model={**MODEL, 'adapter': {**MODEL['adapter'], 'text_link': link},
               'text': {'file': str(tmp_path / 'texts.npz'), 'width': 64}},
        loss={'num_points': 64, 'semantic_weight': 1.0, 'alignment': alignment,
              'alignment_weight': 1.0})
    for number, file in enumerate(sorted((tmp_path / 'boxes' / 'labels').iterdir())):
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        labels[:3 * number] = 255  # the processes get different numbers of pixels
        cv2.imwrite(str(file), labels)
    assert run(recipe, tmp_path / 'one') == 0
    module = command(recipe, tmp_path / 'two')[1:]
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         *module], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (lines(tmp_path / name)[-1] for name in ('one', 'two'))
    for name in ('loss', 'cls', 'mask', 'dice', 'semantic', 'align'):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name
    first, second = (load_file(tmp_path / name / FINAL) for name in ('one', 'two'))
    moved = 0.0
    for key, value in first.items():
        assert (value - second[key]).abs().max() < 2e-3, key
        moved = max(moved, (value - second[key]).abs().mean().item())
    assert moved < 1e-4


def test_accumulated_parts_learn_about_what_the_whole_batch_learns(tmp_path):
    recipe = write_recipe(tmp_path)
    assert run(recipe, tmp_path / 'one', '--set', 'steps=1') == 0
    assert run(recipe, tmp_path / 'two', '--set', 'steps=1', '--set', 'accumulate=2') == 0
    one, two = (lines(tmp_path / name)[-1] for name in ('one', 'two'))
    # the divisors are those of a part, so the sums agree only roughly
    assert two['loss'] == pytest.approx(one['loss'], rel=0.05) and two['loss'] != one['loss']


@pytest.mark.parametrize(('change', 'message'), [
    ('optim.learning_rate=1', 'unknown key learning_rate'),
    ('loss.num_point=3', 'did you mean num_points'),
    ('batch', 'a change must be key=value'),
    ('batch=3', 'must be a multiple of processes x accumulate'),
    ('data=[]', 'names no data'),
    ('data=[folder:x', "the value of 'data=[folder:x' is not YAML"),
    ('data=[folder:nowhere,classes=x.yaml]', 'in quotes: data=["NAME:FOLDER,key=value"]'),
    ('preset=dgtl-dinov2-x', 'unknown preset'),
    ('evaluation.data=["streetworld:clear,count=1"]', 'bicycle instead of box 0, box 1'),
    ('init=nothing.safetensors', 'there is no file nothing.safetensors'),
])
def test_wrong_recipes_are_refused_in_words(change, message, tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    extra = ['--set', 'accumulate=2'] if change == 'batch=3' else []
    assert run(recipe, tmp_path / 'out', '--set', change, *extra) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out' / LAST).exists()


def test_wrong_label_is_named_with_its_file_also_from_a_worker(tmp_path, capfd):
    recipe = write_recipe(tmp_path, workers=1)
    for file in (tmp_path / 'boxes' / 'labels').iterdir():
        cv2.imwrite(str(file), np.full((32, 64), 9, np.uint8))
    assert run(recipe, tmp_path / 'out') == 1
    shown = capfd.readouterr().err
    said = [line for line in shown.splitlines() if line.startswith('train: ')]
    assert len(said) == 1 and 'holds the ids [9]; boxes has 0-3, 255' in said[0]
    assert str(tmp_path / 'boxes' / 'labels') in said[0] and 'Traceback' not in shown


@pytest.mark.parametrize(('device', 'message'), [
    ('cuda', 'take --device cpu'), ('gpu', 'must be auto, cpu, cuda or cuda:N')])
def test_device_that_is_not_there_is_refused_in_words(
        device, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run(write_recipe(tmp_path), tmp_path / 'out', '--device', device) == 1
    assert message in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ('--resume', '--set KEY=VALUE', '--out', 'torchrun'))


def test_eight_pictures_are_learned_by_heart(tmp_path):
    recipe = write_recipe(tmp_path)
    plain = {'steps': 150, 'batch': 8, 'save_every': 1000, 'optim.lr': 3e-3, 'optim.warmup': 20,
             'transforms.scale': [1.0, 1.0], 'transforms.photometric': 0, 'transforms.flip': False,
             'evaluation.data': [f'folder:{tmp_path}/boxes']}
    changes = [word for key, value in plain.items()
               for word in ('--set', f'{key}={json.dumps(value)}')]
    assert run(recipe, tmp_path / 'out', *changes) == 0
    assert lines(tmp_path / 'out')[-1]['miou/boxes'] > 0.95
