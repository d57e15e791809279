# SPDX-License-Identifier: Apache-2.0
"""A user's own classes: groups and thresholds, checked against the model's."""

from dgtl_core.classes import CITYSCAPES
from dgtl_core.groups import ClassGroups, confident, least_confidence, recolored
import numpy as np
import pytest

LABELS = np.array([[0, 1, 13, 255], [11, 12, 10, 200]], np.uint8)


def write(path, text):
    path.write_text(text)
    return path


def test_groups_regroup_ids_names_and_colours(tmp_path):
    groups = ClassGroups.from_yaml(write(
        tmp_path / 'mine.yaml',
        'drivable: [road]\npeople: {classes: [person, rider], color: [1, 2, 3]}\n'), CITYSCAPES)
    assert groups.classes.names == ('drivable', 'people') and groups.classes.name == 'mine'
    assert [e.color for e in groups.classes] == [(128, 64, 128), (1, 2, 3)]
    np.testing.assert_array_equal(groups(LABELS), [[0, 255, 255, 255], [1, 1, 255, 255]])


@pytest.mark.parametrize('text, said', [
    ('drivable: [raod]', "group 'drivable' of .*no class 'raod'; did you mean road"),
    ('a: [road]\nb: [car, road]', "'road' is in 'a' already"),
    ('a: road', 'must list classes'),
    ('a: []', 'must list classes'),
    ('a: {classes: [road], colour: [0, 0, 0]}', 'knows the keys classes and color'),
    ('a: {classes: [road], color: red}', 'color of class'),
    ('3: [road]', 'needs a name'),
    ('[a, b]', 'must hold groups'),
    ('a: [', 'not valid YAML'),
])
def test_wrong_groups_are_refused_with_the_next_step(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        ClassGroups.from_yaml(write(tmp_path / 'mine.yaml', text), CITYSCAPES)


def test_each_class_can_have_its_own_threshold():
    least = least_confidence(0.5, {'car': 0.9, 'sidewalk': 0.0}, CITYSCAPES)
    confidence = np.array([[127, 0, 229, 200], [128, 255, 10, 0]], np.uint8)
    np.testing.assert_array_equal(
        confident(LABELS, confidence, least), [[255, 1, 255, 255], [11, 12, 255, 255]])
    assert confident(LABELS, confidence, least_confidence(0.0, {}, CITYSCAPES)) is LABELS
    with pytest.raises(ValueError, match="threshold: there is no class 'cra'; did you mean car"):
        least_confidence(0.5, {'cra': 0.9}, CITYSCAPES)
    with pytest.raises(ValueError, match='threshold of car: must be in 0..1, got 90'):
        least_confidence(0.5, {'car': 90}, CITYSCAPES)


def test_a_palette_changes_the_classes_that_it_names():
    mine = recolored(CITYSCAPES, {'road': [9, 9, 9]}, 'palette.yaml')
    assert mine[0].color == (9, 9, 9) and mine[1] == CITYSCAPES[1]
    with pytest.raises(ValueError, match="palette.yaml: there is no class 'rood'"):
        recolored(CITYSCAPES, {'rood': [9, 9, 9]}, 'palette.yaml')
