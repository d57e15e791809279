# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import pytest

pytest.importorskip('torch')
from dgtl_core.config import preset
from dgtl_core.model.segmenter import build_segmenter
from dgtl_core.strict import override
from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from training.pretext import oriented_gradients, SceneObjective, ScenePairs
from training.pretrain import main

SMALL = {'name': 'vit', 'embed_dim': 48, 'depth': 4, 'num_heads': 2, 'img_size': [64, 128],
         'out_indices': [0, 1, 2, 3]}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'small.yaml'
    path.write_text(json.dumps({  # JSON is YAML
        'preset': 'dgtl-mini', 'model': {'backbone': SMALL, 'input_size': [64, 128]},
        'data': ['streetworld:clear,count=4,seed=0,height=64,width=128'], 'workers': 0,
        'cache': True,
        'transforms': {'crop': [64, 128], 'scale': [1, 1], 'photometric': 0.0}}))
    return path


@pytest.mark.parametrize('objective', ['labels', 'scenes'])
def test_the_loss_falls_and_a_segmenter_takes_the_result(recipe, tmp_path, objective):
    out = tmp_path / 'run' / 'backbone.safetensors'
    arguments = [str(recipe), '--objective', objective, '--out', str(out), '--steps', '60',
                 '--batch', '4', '--device', 'cpu', '--lr', '3e-3']
    assert main(arguments) == 0
    log = [json.loads(line) for line in out.with_suffix('.jsonl').read_text().splitlines()]
    assert log[-1]['loss'] < 0.9 * log[0]['loss']
    config = override(preset('dgtl-mini'), {'backbone': {**SMALL, 'weights': str(out)}})
    vit = build_segmenter(config).backbone.vit
    for name, value in load_file(out).items():
        torch.testing.assert_close(vit.state_dict()[name], value)
    assert sorted(p.name for p in out.parent.iterdir()) == [
        'backbone.jsonl', 'backbone.safetensors', 'cache']


def test_the_scene_is_painted_from_a_disturbed_picture_with_hidden_patches():
    config = override(preset('dgtl-mini'), {'backbone': SMALL})
    objective, seen = SceneObjective(config), []

    def backbone(images):
        seen.append(images)
        return [torch.zeros(2, 48, 4, 8)]

    torch.nn.init.zeros_(objective.paint.bias)
    grey = torch.tensor(config.mean).round().to(torch.uint8).view(3, 1, 1).expand(2, 3, 64, 128)
    images = torch.full((2, 3, 64, 128), 0.5)
    assert float(objective(backbone, images, grey).detach()) < 1e-4  # 0 is painted, for mean grey
    assert float(objective(backbone, images, 255 - 0 * grey).detach()) > 0.2
    hidden = (seen[0].abs().amax(1, keepdim=True).unfold(2, 16, 16).unfold(3, 16, 16) == 0)
    hidden = hidden.flatten(4).float().mean(-1)
    assert set(hidden.unique().tolist()) == {0.0, 1.0} and 0.1 < float(hidden.mean()) < 0.6
    assert seen[0].amax() != 0.5


def test_of_a_street_the_scene_is_the_one_in_clear_weather(tmp_path):
    pairs = ScenePairs(['streetworld:night,count=2,seed=3,height=72,width=144'], tmp_path, 0)
    batch = next(pairs.batches((64, 128), 4, 1, seed=0))
    assert batch.images.shape == batch.labels.shape == (4, 3, 64, 128)
    night, day = (x.float().mean((1, 2, 3)) for x in (batch.images, batch.labels))
    assert (night < 0.8 * day).all()
    clear = ScenePairs(['streetworld:clear,count=2,seed=3,height=72,width=144'], tmp_path, 0)
    again = next(clear.batches((64, 128), 4, 1, seed=0))
    assert again.images.equal(again.labels) and again.labels.equal(batch.labels)


def test_gradients_are_sorted_by_their_direction_whatever_the_light():
    ramp = torch.arange(16.0)
    across = ramp.expand(1, 3, 16, 16)  # brighter to the right: direction 0
    down = across.transpose(2, 3)  # brighter downwards: 90 degrees, bin 4 of 9
    for images, expected in ((across, 0), (down, 4)):
        cells = oriented_gradients(images, 8)
        assert cells.shape == (1, 27, 2, 2)
        assert cells.unflatten(1, (3, 9)).argmax(2).eq(expected).all()
        torch.testing.assert_close(
            oriented_gradients(3 - 0.5 * images, 8), cells, atol=0.02, rtol=0)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--set', 'data=[]'], 'small names no data'), (['--steps', '0'], 'must be positive'),
    (['--device', 'gpu'], "must be auto, cpu, cuda or cuda:N, got 'gpu'")])
@pytest.mark.parametrize('objective', ['labels', 'scenes'])
def test_wrong_questions_are_refused_in_words(
        arguments, message, objective, recipe, tmp_path, capsys):
    assert main([str(recipe), '--objective', objective, '--out', str(tmp_path / 'x.safetensors'),
                 *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_full_disk_is_said_and_leaves_nothing(recipe, tmp_path, monkeypatch, capsys):
    def full(tensors, file, metadata):
        raise SafetensorError('No space left on device')

    monkeypatch.setattr('dgtl_core.model.checkpoint.save_file', full)
    monkeypatch.setattr('training.pretrain.pretrain', lambda *_: SimpleNamespace(
        vit=torch.nn.Linear(1, 1)))
    out = tmp_path / 'x.safetensors'
    assert main([str(recipe), '--objective', 'labels', '--out', str(out)]) == 1
    assert f'pretrain: cannot write {out}: No space left on device' in capsys.readouterr().err
    assert not out.exists()


def test_a_wrong_output_name_is_refused(recipe, tmp_path, capsys):
    assert main([str(recipe), '--objective', 'labels', '--out', str(tmp_path / 'x.pth')]) == 1
    assert 'that ends in .safetensors' in capsys.readouterr().err
    (tmp_path / 'x.safetensors').write_text('of before')
    assert main([str(recipe), '--objective', 'labels', '--out',
                 str(tmp_path / 'x.safetensors')]) == 1
    assert 'x.safetensors exists; --force overwrites it' in capsys.readouterr().err
    assert (tmp_path / 'x.safetensors').read_text() == 'of before'
