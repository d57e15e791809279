# SPDX-License-Identifier: Apache-2.0
"""Pictures without label files: what they mean, and who takes them."""

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import join, open_pictures
from dgtl_core.data.checks import check
from dgtl_core.data.labels import DataError
from dgtl_core.learning.run import FINAL
import numpy as np
import pytest
from small_recipe import write_pictures
from test_train_light import light_recipe, run


@pytest.fixture
def more(tmp_path):
    """A folder with a picture deep inside."""
    folder = tmp_path / 'more'
    (folder / 'deep').mkdir(parents=True)
    cv2.imwrite(str(folder / 'deep' / 'a.png'), np.zeros((32, 64, 3), np.uint8))
    return folder


def test_they_take_the_classes_of_those_that_have_labels(more, tmp_path):
    write_pictures(tmp_path / 'boxes')
    alone = open_pictures(f'unlabelled:{more}')
    assert len(alone) == 1 and alone.classes is CITYSCAPES
    assert (alone[0].labels == 255).all() and alone[0].name == 'more/a.png'
    own = open_pictures(f'unlabelled:{more},classes={tmp_path}/boxes/classes.yaml')
    assert own.classes.names == ('box 0', 'box 1', 'box 2', 'box 3')
    joined = join([f'unlabelled:{more}', f'folder:{tmp_path}/boxes'])
    assert joined.classes.names == own.classes.names and len(joined) == 9


def test_another_file_is_another_data_set(more):
    before = open_pictures(f'unlabelled:{more}').fingerprint()
    assert before == open_pictures(f'unlabelled:{more}').fingerprint()
    cv2.imwrite(str(more / 'b.png'), np.zeros((32, 64, 3), np.uint8))
    assert open_pictures(f'unlabelled:{more}').fingerprint() != before


def test_only_a_teacher_makes_something_of_them(more, tmp_path, capsys):
    pictures = open_pictures(f'unlabelled:{more}')
    assert check(pictures, unlabelled=True) == []
    with pytest.raises(DataError, match='more has no labels: leave it out, or learn from it'):
        check(pictures)
    with pytest.raises(DataError, match='unlabelled: no pictures at'):
        open_pictures(f'unlabelled:{tmp_path}/none')
    recipe = light_recipe(tmp_path, 'classes', steps=1)
    both = f'data=["folder:{tmp_path}/boxes", "unlabelled:{more}"]'
    assert run(recipe, tmp_path / 'out', changes=[both]) == 1
    assert 'more has no labels' in capsys.readouterr().err
    assert run(recipe, tmp_path / 'teacher') == 0
    assert run(recipe, tmp_path / 'out', changes=[
        both, f'teacher={tmp_path}/teacher/{FINAL}', 'cache=true']) == 0
