# SPDX-License-Identifier: Apache-2.0
"""The picture cache of the training, and data sets that are joined."""

import multiprocessing
import os
from pathlib import Path
import subprocess
import sys

import cv2
from dgtl_core import files
from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.catalog import (
    open_pictures,
)
from dgtl_core.data.datasets import (
    CachedPictures,
    JoinedPictures,
    LabelledPicture,
    NO_SIZES,
)
from dgtl_core.data.labels import DataError, read_ids
from dgtl_core.data.transforms import TransformConfig
from dgtl_core.learning import batches as batches_module
from dgtl_core.learning.batches import batches, cached
import numpy as np
from PIL import Image
from published_layouts import make, write_ids, write_picture
import pytest


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
    with pytest.raises(DataError, match='different classes: only gta5 has road, sidewalk, .*, '
                                        r'\.\.\.; only own has grass'):
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
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(children(tmp_path)) == 1


def test_cache_on_a_full_disk_is_an_error_and_no_crash(tmp_path):
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(tmp_path)],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'a small file system needs root: {mounted.stderr.strip()}')
    try:
        done = subprocess.run(  # else the bus error would end the tests
            [sys.executable, '-c',
             f'from test_picture_cache import draw, Path; draw(Path("{tmp_path}"))'],
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
