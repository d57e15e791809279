# SPDX-License-Identifier: Apache-2.0
import json

import pytest

pytest.importorskip('torch')
from dgtl_core.config import override, preset
from dgtl_core.model.segmenter import build_segmenter
from safetensors.torch import load_file
import torch
from training.pretrain import main, oriented_gradients, PixelObjective

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


@pytest.mark.parametrize('objective', ['labels', 'pixels', 'gradients'])
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


def test_painting_is_scored_on_hidden_patches_alone():
    config = override(preset('dgtl-mini'), {'backbone': SMALL})
    objective, seen = PixelObjective(config), []

    def backbone(images):
        seen.append(images)
        return [torch.zeros(2, 48, 4, 8)]

    torch.nn.init.zeros_(objective.paint.bias)
    images = torch.full((2, 3, 64, 128), 0.5)
    loss = objective(backbone, images, None).detach()
    assert float(loss) == pytest.approx(0.5)  # 0 is painted for 0.5, over hidden pixels alone
    hidden = (seen[0] == 0).float().mean()
    assert 0.3 < float(hidden) < 0.9


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


def test_a_wrong_output_name_is_refused(recipe, tmp_path, capsys):
    assert main([str(recipe), '--objective', 'labels', '--out', str(tmp_path / 'x.pth')]) == 1
    assert 'must end in .safetensors' in capsys.readouterr().err
