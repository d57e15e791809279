# SPDX-License-Identifier: Apache-2.0
"""A training that starts from a checkpoint, as far as it fits."""

from dgtl_core.learning.run import FINAL
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_recipe import MODEL, write_recipe
from small_training import run, write_texts
import torch
import yaml

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize('changes, maker', [
    (['init=none.safetensors'], 'training.train'),
    (['model.backbone.weights=none.safetensors'], 'training.pretrain'),
    (['model.text={file: none.npz, width: 8}', 'model.adapter.text_link=all'],
     'training.embed_classes')])
def test_a_file_to_start_from_is_missed_before_pictures_are_drawn(
        tmp_path, capsys, monkeypatch, changes, maker):
    monkeypatch.setattr('training.train.to_learn_from', None)
    given = [word for change in changes for word in ('--set', change)]
    assert run(write_recipe(tmp_path), tmp_path / 'out', *given) == 1
    said = capsys.readouterr().err
    assert 'there is no file none' in said and f'python -m {maker} makes one' in said


def test_fine_tuning_starts_from_a_checkpoint_as_far_as_it_fits(whole, tmp_path, capsys):
    _, out = whole
    recipe = write_recipe(tmp_path, init=str(out / FINAL), steps=1)
    file = tmp_path / 'boxes' / 'classes.yaml'
    classes = yaml.safe_load(file.read_text())
    classes['classes'].append({'id': 4, 'name': 'more', 'color': [1, 1, 1]})
    file.write_text(yaml.safe_dump(classes))
    assert run(recipe, tmp_path / 'out', '--set', 'optim.lr=1e-9') == 0
    assert 'these start afresh: mask_decoder.class_head.bias, mask_decoder.class_head.weight' in (
        capsys.readouterr().out)
    before, after = load_file(out / FINAL), load_file(tmp_path / 'out' / FINAL)
    key = 'model.backbone.vit.blocks.1.attn.qkv.weight'
    torch.testing.assert_close(before[key], after[key], rtol=1e-4, atol=1e-6)


def test_fine_tuning_needs_no_other_files_and_takes_texts_of_its_own_classes(tmp_path, capsys):
    names = [f'box {i}' for i in range(4)]
    first = write_texts(tmp_path / 'first.npz', names, 0)
    linked = {**MODEL, 'adapter': {**MODEL['adapter'], 'text_link': 'all'}}
    text = {'file': str(tmp_path / 'first.npz'), 'width': 64}
    recipe = write_recipe(tmp_path, model={**linked, 'text': text}, steps=1)
    assert run(recipe, tmp_path / 'one') == 0
    key = 'model.adapter.text_link.texts'
    assert np.array_equal(load_file(tmp_path / 'one' / FINAL)[key].numpy(), first)
    # the checkpoint has the backbone and the texts: neither timm's file nor theirs is asked for
    again = ['--set', f'init={tmp_path / "one" / FINAL}', '--set', 'model.text.file=""',
             '--set', 'model.backbone.weights=nowhere.safetensors']
    assert run(recipe, tmp_path / 'two', *again) == 0
    assert np.array_equal(load_file(tmp_path / 'two' / FINAL)[key].numpy(), first)
    # other classes, as many of them: the checkpoint's texts would say the wrong thing
    file = tmp_path / 'boxes' / 'classes.yaml'
    file.write_text(file.read_text().replace('box 3', 'tree'))
    assert run(recipe, tmp_path / 'three', *again) == 1
    assert 'learns with class texts' in capsys.readouterr().err
    other = write_texts(tmp_path / 'other.npz', [*names[:3], 'tree'], 1)
    again[3] = f'model.text.file={tmp_path / "other.npz"}'
    assert run(recipe, tmp_path / 'three', *again) == 0
    assert np.array_equal(load_file(tmp_path / 'three' / FINAL)[key].numpy(), other)


def test_fine_tuning_keeps_what_the_checkpoint_has_of_the_backbone(whole, tmp_path):
    _, out = whole
    learned = load_file(out / FINAL)
    published = {key.removeprefix('model.backbone.vit.'): value + 1
                 for key, value in learned.items() if key.startswith('model.backbone.vit.')}
    published['pos_embed'] = torch.full((1, 17, 64), 5.0)  # class token, 4 x 4
    save_file(published, tmp_path / 'published.safetensors')
    larger = {**MODEL, 'backbone': {**MODEL['backbone'], 'img_size': [64, 64],
                                    'weights': str(tmp_path / 'published.safetensors')}}
    recipe = write_recipe(tmp_path, init=str(out / FINAL), steps=1, model=larger)
    assert run(recipe, tmp_path / 'out', '--set', 'optim.lr=1e-9') == 0
    after = load_file(tmp_path / 'out' / FINAL)
    key = 'model.backbone.vit.blocks.1.attn.qkv.weight'
    torch.testing.assert_close(after[key], learned[key], rtol=1e-4, atol=1e-6)
    # but its position embedding is for another size: that comes from the published weights
    torch.testing.assert_close(
        after['model.backbone.vit.pos_embed'], torch.full((1, 65, 64), 5.0))
