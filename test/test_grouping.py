# SPDX-License-Identifier: Apache-2.0
"""Groups inside the graph: labels and confidence are those of summed probabilities."""

from dgtl_core.classes import ClassSet
from dgtl_core.folding.fold import fold
from dgtl_core.folding.grouping import Grouping
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.groups import ClassGroups
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.predictor import Predictor
import numpy as np
import pytest
from small_segmenter import small_config, small_segmenter, street
from test_labels import CLASSES, Found, pictures, SIZE
import torch
import torch.nn.functional as F
from training.export import main

FIVE = ClassSet.from_list('five', [
    {'id': i, 'name': name, 'color': [i, i, i]} for i, name in enumerate('abcde')])
SOME = {'first': ['a', 'd'], 'second': ['c']}
ALL = {'first': ['a', 'd'], 'second': ['c'], 'third': ['b', 'e']}


def grouping(groups):
    return Grouping(ClassGroups.from_mapping('groups', groups, FIVE), CLASSES)


def summed(probabilities):
    """Add by hand: shape (B, 5, H, W) -> (B, 3, H, W); b and e are the third."""
    a, b, c, d, e = probabilities.unbind(1)
    return torch.stack((a + d, c, b + e), dim=1)


@pytest.mark.parametrize('groups, third', [(SOME, 255), (ALL, 2)])
def test_queries_with_classes_are_summed_exactly(groups, third):
    found, seen = set(), pictures(0, 255)
    for seed in range(6):
        network = Found(True, seed)
        labels, confidence, vector = LabelNetwork(network, SIZE, grouping=grouping(groups))(seen)
        plain = LabelNetwork(network, SIZE)
        scores = plain.scores(seen)
        best, number = (summed(scores) / scores.sum(dim=1, keepdim=True)).max(dim=1)
        assert torch.equal(labels, torch.tensor([0, 1, third])[number].to(torch.uint8))
        assert (best * 255 - confidence).abs().max() < 0.51
        torch.testing.assert_close(vector, plain(seen)[2])  # the domain is judged as before
        found |= set(labels.unique().tolist())
    assert found == {0, 1, third}


def test_classes_that_are_masks_are_summed_on_a_finer_grid():
    network, seen = Found(False), pictures(0, 255)
    labels, confidence, _ = LabelNetwork(network, SIZE, grouping=grouping(SOME))(seen)
    full = F.interpolate(network(seen).masks, size=SIZE, mode='bilinear').softmax(dim=1)
    best, number = summed(full).max(dim=1)
    expected = torch.tensor([0, 1, 255])[number].to(torch.uint8)
    assert (labels == expected).float().mean() > 0.97, 'a picture that is all borders'
    assert (best * 255 - confidence).abs().mean() < 12


def test_the_sum_may_win_where_no_class_of_it_does():
    network = Found(True)
    network.classes = torch.tensor([0.30, 0.1, 0.35, 0.25, 1e-9, 1e-9]).log().expand(1, 7, 6)
    network.masks.fill_(20)
    labels, confidence, _ = LabelNetwork(network, SIZE, grouping=grouping(SOME))(pictures(0))
    assert (labels == 0).all() and (confidence == round(0.55 * 255)).all()


def test_a_group_of_which_nothing_is_left_is_no_infinity():
    network = Found(False)
    network.masks.fill_(-200)
    network.masks[:, 2] = 200
    found = grouping(ALL)(network(pictures(0)))
    assert torch.isfinite(found.masks).all()
    labels, confidence, _ = LabelNetwork(network, SIZE, grouping=grouping(ALL))(pictures(0))
    assert (labels == 1).all() and (confidence == 255).all()


def test_the_command_writes_a_file_with_groups_for_classes(tmp_path, capsys):
    config = small_config('rein-dinov2-s')
    model = small_segmenter(config, street(config.input_size))
    save_checkpoint(tmp_path / 'model.safetensors', model, config, source='test')
    groups = tmp_path / 'mine.yaml'
    groups.write_text('drivable: [road]\npeople: [person, rider]\nsky: [sky]\n')
    command = [str(tmp_path / 'model.safetensors'), str(tmp_path / 'm.onnx'), '--count', '1',
               '--class-groups', str(groups)]
    assert main([*command, '--truth', 'streetworld:fog']) == 1
    assert '--class-groups gives labels that --truth' in capsys.readouterr().err
    assert main(command) == 0
    predict = Predictor.load(tmp_path / 'm.onnx', device='cpu')
    assert predict.classes.names == ('drivable', 'people', 'sky')
    image = street(config.input_size, 3)
    found = predict(image)
    folded = LabelNetwork(fold(model, config.input_size), config.input_size)
    with torch.no_grad():
        scores = folded.scores(torch.from_numpy(image)[None])[0]
    of = ClassGroups.from_yaml(groups, config.classes).group_of[:19]
    sums = torch.stack([scores[torch.from_numpy(of == group)].sum(0) for group in (0, 1, 2, 255)])
    best, number = (sums / scores.sum(0)).max(0)
    expected = np.array([0, 1, 2, 255], np.uint8)[number.numpy()]
    assert (found.labels == expected).mean() > 0.999
    assert np.abs(found.confidence - best.numpy() * 255).mean() < 0.5
    groups.write_text('drivable: [rood]\n')
    assert main([*command, '--force']) == 1
    assert "there is no class 'rood'; did you mean road" in capsys.readouterr().err
