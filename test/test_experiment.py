# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch')
from dgtl_core.classes import CITYSCAPES
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.recipe import read_recipe, Recipe
from dgtl_core.model.segmenter import build_segmenter
from dgtl_core.model.text import ClassTexts, load_texts, save_texts
from dgtl_core.strict import from_dict
from safetensors.torch import save_file
import torch
from training.experiment import main
from training.experiment_plan import METHODS, pretraining_data, sources
from training.experiment_report import statistics, UNSEEN
from training.experiment_runs import isometric_texts

RECIPE = Path(__file__).parents[1] / 'training' / 'recipes' / 'experiment.yaml'


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / 'clip.npz'
    save_texts(path, ClassTexts(torch.randn(19, 40), CITYSCAPES.names, 'made for a test'))
    return path


def test_texts_of_another_width_have_the_same_products(texts, tmp_path):
    isometric_texts(texts, 64, tmp_path / 'wide.npz')
    before, after = load_texts(texts), load_texts(tmp_path / 'wide.npz')
    assert after.embeddings.shape == (19, 64) and after.classes == before.classes
    torch.testing.assert_close(
        after.embeddings @ after.embeddings.T, before.embeddings @ before.embeddings.T,
        atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match='19 texts do not fit into 16'):
        isometric_texts(texts, 16, tmp_path / 'narrow.npz')


@pytest.mark.parametrize('method', METHODS)
def test_a_method_differs_from_the_recipe_where_it_should(method, texts, tmp_path):
    isometric_texts(texts, 256, tmp_path / 'wide.npz')
    changes = [f'{key}={json.dumps(value)}' for key, value in METHODS[method].items()]
    recipe = read_recipe(RECIPE, [*changes, f'model.text.file={tmp_path}/wide.npz'])
    model = build_segmenter(recipe.segmenter())
    Objective(model, recipe.loss)
    learns = {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad}
    assert ('backbone' in learns) == (method == 'finetuned' or method.startswith('head'))
    assert (model.light_head is not None) == ('light' in method)
    assert ('adapter' in learns) == (method not in ('frozen', 'finetuned'))
    assert recipe.loss.alignment == {
        'dgtl-released': 'released', 'dgtl': 'similarity',
        'dgtl-released-start': 'similarity'}.get(method, 'off')


def test_nothing_that_is_tested_on_was_learned_from():
    plan = sources('FOLDER', (128, 256))
    learned = {*pretraining_data('FOLDER', (128, 256)), *(s.data for s in plan.values())}
    tested = {domain.data for source in plan.values() for domain in source.domains}
    assert not any('split=train' in data for data in tested)
    seeds = [{data.partition('seed=')[2].partition(',')[0] for data in part if 'seed=' in data}
             for part in (learned, tested)]
    assert seeds[0].isdisjoint(seeds[1]) and seeds[1] == {'1000'}


def test_mean_and_deviation_over_seeds_and_unseen_domains():
    found = statistics({'dgtl': {
        '0': {'clear': 0.5, 'fog': 0.2, 'night': 0.1},
        '1': {'clear': 0.7, 'fog': 0.4, 'night': 0.2}}})
    assert found['dgtl']['clear'] == pytest.approx((60, 10 * 2 ** 0.5))
    assert found['dgtl'][UNSEEN] == pytest.approx((22.5, 7.5 * 2 ** 0.5))  # 15 and 30


def test_missing_texts_are_missed_before_anything_is_learned(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('training.experiment.domain_pictures', lambda _: pytest.fail('drawn'))
    monkeypatch.setattr('training.experiment.open_pictures', lambda _: None)
    command = ['--recipe', str(RECIPE), '--texts', str(tmp_path / 'none.npz')]
    assert main([*command, '--out', str(tmp_path / 'out')]) == 1
    assert 'there are no class texts at' in capsys.readouterr().err
    (tmp_path / 'file').touch()
    assert main([*command, '--out', str(tmp_path / 'file')]) == 1
    assert 'file is a file, and the results need a folder' in capsys.readouterr().err


def test_missing_pictures_are_missed_before_anything_is_drawn(
        texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('training.experiment.domain_pictures', lambda _: pytest.fail('drawn'))
    assert main(['--out', str(tmp_path / 'out'), '--recipe', str(RECIPE), '--texts', str(texts),
                 '--camvid', str(tmp_path / 'none'), '--sources', 'streetworld']) == 1
    assert f'there is no folder {tmp_path}/none' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_finished_run_is_not_done_again(texts, tmp_path, capsys):
    small = {'name': 'vit', 'embed_dim': 64, 'depth': 4, 'num_heads': 2, 'img_size': [64, 128],
             'out_indices': [0, 1, 2, 3]}
    recipe = from_dict(Recipe, {
        'name': 'x', 'preset': 'dgtl-mini', 'model': {'backbone': small, 'text': {'width': 64}}})
    backbone = tmp_path / 'backbone.safetensors'
    save_file(build_segmenter(recipe.segmenter()).backbone.vit.state_dict(), backbone)
    camvid = tmp_path / 'camvid'
    for split in ('train', 'val', 'test'):
        for kind, image in (('images', np.full((64, 128, 3), 99, np.uint8)),
                            ('labels', np.tile(np.uint8([0, 1]), (64, 64)))):
            (camvid / split / kind).mkdir(parents=True)
            assert cv2.imwrite(str(camvid / split / kind / 'a.png'), image)
    command = [
        '--out', str(tmp_path / 'out'), '--recipe', str(RECIPE), '--camvid', str(camvid),
        '--texts', str(texts), '--methods', 'dgtl', '--sources', 'camvid', '--seeds', '0',
        '--device', 'cpu', '--set', 'steps=1', '--set',
        f'model.backbone={json.dumps({**small, "weights": str(backbone)})}',
        '--set', 'model.text.width=64', '--set', 'model.input_size=[64,128]',
        '--set', 'transforms.crop=[64,128]']
    assert main(command) == 0
    run = tmp_path / 'out' / 'camvid' / 'dgtl' / '0'
    scores = json.loads((run / 'scores.json').read_text())
    assert set(scores) == {domain.name for domain in sources('', (64, 128))['camvid'].domains}
    assert {p.name for p in (tmp_path / 'out').iterdir()} >= {
        'results.json', 'results.md', 'results.png'}
    made = (run / 'model.safetensors').stat().st_mtime_ns
    (run / 'scores.json').unlink()
    assert main(command) == 0  # scored again, not trained again
    assert json.loads((run / 'scores.json').read_text()) == scores
    assert (run / 'model.safetensors').stat().st_mtime_ns == made
    printed = capsys.readouterr().out
    assert '| dgtl |' in printed and 'mIoU in % of one seed' in printed and 'nan' not in printed
    assert main([*command, '--set', 'nonsense=1']) == 1
    assert 'unknown key nonsense' in capsys.readouterr().err
