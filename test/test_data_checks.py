# SPDX-License-Identifier: Apache-2.0
"""Faults of data sets that people have met, said before a run begins; labels of other kinds."""

from dataclasses import replace
import json
import os

import cv2
from dgtl_core.classes import ClassSet
from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.checks import check
from dgtl_core.data.labels import DataError, read_colors, read_ids
from dgtl_core.label_mapping import LabelMapping
from dgtl_core.learning.batches import cached
from dgtl_core.model_file import ModelError, ModelMetadata
import numpy as np
from PIL import Image
import pytest
from test_pictures import png_of
import yaml

SIZE = (12, 20)
TWO = ('name: two\nclasses:\n- {id: 0, name: grass, color: [1, 200, 1]}\n'
       '- {id: 1, name: stone, color: [90, 90, 90]}\n')


def picture(file, size=SIZE, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(file, **options)


def labels(file, values, size=SIZE):
    """Write one value for each column; the last one goes on to the right."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = np.empty(size, np.array(values).dtype)
    rows[:] = values[-1]
    rows[:, :len(values)] = values
    Image.fromarray(rows).save(file)


def own(folder, values=(0, 1, 255), count=3, classes=TWO):
    for number in range(count):
        picture(folder / 'images' / f'{number}.png')
        labels(folder / 'labels' / f'{number}.png', np.array(values, np.uint8))
    (folder / 'classes.yaml').write_text(classes)
    return f'folder:{folder}'


def test_good_data_say_nothing(tmp_path):
    spec = own(tmp_path)
    (tmp_path / 'images' / 'folder.png').mkdir()
    assert check(open_pictures(spec)) == []


def test_unequal_sizes_are_named_with_all_their_like(tmp_path):
    spec = own(tmp_path, count=9)
    for number in range(2, 9):
        labels(tmp_path / 'labels' / f'{number}.png', np.uint8([0]), (SIZE[0] - 6, SIZE[1]))
    with pytest.raises(DataError, match=r'^7 of 9 pictures have labels of another size') as caught:
        check(open_pictures(spec))
    said = str(caught.value)
    assert '2.png (6, 20)' in said and '6.png' in said and '7.png' not in said
    assert check(open_pictures(spec), limit=2) == []


def test_pairs_of_gta5_that_were_published_unequal_are_left_out_and_counted(tmp_path):
    for number in (1, 20800, 20801, 20860, 20861):
        picture(tmp_path / 'images' / f'{number:05}.png')
        labels(tmp_path / 'labels' / f'{number:05}.png', np.uint8([7]))
    pictures = open_pictures(f'gta5:{tmp_path}')
    assert [pictures[i].name for i in range(len(pictures))] == [
        'gta5/00001.png', 'gta5/20800.png', 'gta5/20861.png']
    assert check(pictures) == [
        'gta5: 2 pairs of 20801-20860 are left out: GTA5 was published with label maps of '
        'another size for them']


def test_missing_labels_are_named_together_or_left_out(tmp_path):
    for number in range(8):
        picture(tmp_path / 'images/10k/val' / f'{number}.jpg')
    (tmp_path / 'labels/sem_seg/masks/val').mkdir(parents=True)
    with pytest.raises(DataError, match='8 of 8 pictures have no labels'):
        open_pictures(f'bdd100k:{tmp_path},on_missing=skip')
    labels(tmp_path / 'labels/sem_seg/masks/val/3.png', np.uint8([0]))
    with pytest.raises(DataError, match='7 of 8 pictures have no labels.*/0.jpg.*/5.jpg, ...'):
        open_pictures(f'bdd100k:{tmp_path}')
    pictures = open_pictures(f'bdd100k:{tmp_path},on_missing=skip')
    assert len(pictures) == 1 and pictures[0].name == 'bdd100k/3.jpg'
    assert check(pictures) == ['bdd100k: pictures without labels are left out (7)']
    with pytest.raises(DataError, match="on_missing of bdd100k must be .*got 'ignore'"):
        open_pictures(f'bdd100k:{tmp_path},on_missing=ignore')


def test_hidden_files_are_passed_over_and_suffixes_have_no_case(tmp_path):
    spec = own(tmp_path, count=1)
    picture(tmp_path / 'images' / 'b.PNG', format='PNG')
    labels(tmp_path / 'labels' / 'b.png', np.uint8([0, 1]))
    (tmp_path / 'labels' / 'b.png').rename(tmp_path / 'labels' / 'b.PNG')
    for name in ('.DS_Store', 'Thumbs.db', '._0.png', 'notes.txt'):
        (tmp_path / 'images' / name).write_bytes(b'\0\5\x16\7')
    pictures = open_pictures(spec)
    assert [pictures[i].name.split('/')[1] for i in range(len(pictures))] == ['0.png', 'b.PNG']


def test_broken_files_are_named_before_the_run(tmp_path):
    spec = own(tmp_path)
    (tmp_path / 'images' / '1.png').write_bytes(b'')
    (tmp_path / 'labels' / '2.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match='2 of 3 pictures cannot be read: .*1.png.*2.png'):
        check(open_pictures(spec))


def test_a_picture_that_is_cut_short_is_found_before_the_run(tmp_path):
    spec = own(tmp_path)
    for kind in ('JPEG', 'PNG'):
        file = tmp_path / 'images' / '1.png'
        picture(file, (64, 64), format=kind)
        labels(tmp_path / 'labels' / '1.png', np.uint8([0, 1]), (64, 64))
        assert check(open_pictures(spec)) == []
        whole = file.read_bytes()
        file.write_bytes(whole + bytes(4))
        assert check(open_pictures(spec)) == [], 'decoders pass over what follows the end'
        file.write_bytes(whole[:-20])
        with pytest.raises(DataError, match='1 of 3 pictures cannot be read: .*1.png.* cut short'):
            check(open_pictures(spec))


def test_label_files_of_no_picture_are_said(tmp_path):
    spec = own(tmp_path)
    for number in range(2):
        labels(tmp_path / 'labels' / f'a{number}.png', np.uint8([0, 1]))
    (tmp_path / 'labels' / '.hidden.png').write_bytes(b'')
    assert check(open_pictures(spec)) == [
        f'{tmp_path.name}: label files without a picture of their name are not used (2): '
        f'{tmp_path}/labels/a0.png, {tmp_path}/labels/a1.png']


def test_label_files_of_other_names_are_shown_beside_the_name_that_is_wanted(tmp_path):
    spec = own(tmp_path, count=2)
    for number in range(2):
        file = tmp_path / 'labels' / f'{number}.png'
        file.rename(file.with_name(f'{number}_mask.png'))
    for option in ('', ',on_missing=skip'):
        with pytest.raises(DataError, match='0.png must be .*labels/0.png, .* is 0_mask.png, 1_'):
            open_pictures(spec + option)


def test_labels_in_colours_are_refused_with_one_advice(tmp_path):
    spec = own(tmp_path)
    for number in range(3):
        picture(tmp_path / 'labels' / f'{number}.png')
        image = np.zeros((*SIZE, 3), np.uint8)
        image[..., 1] = 200
        Image.fromarray(image).save(tmp_path / 'labels' / f'{number}.png')
    with pytest.raises(DataError, match='is in colours.*"colors: ') as caught:
        check(open_pictures(spec))
    assert 'ids:' not in str(caught.value), 'numbers are not what these files hold'


@pytest.mark.parametrize(('spec', 'message'), [
    ('folder:{}/empty', 'there are no pictures in .*empty/images'),
    ('{}/empty', 'is a folder and not the name of a data set; write folder:.*/empty'),
    ('folder:{}/typo', 'unknown key clases .did you mean classes'),
    ('streetworld:clear,count=-1', "count of streetworld must be a whole number .*got '-1'"),
    ('streetworld:clear,height=99999999,width=99999999', 'size must .*99999999')])
def test_wrong_names_and_folders_are_refused_with_the_next_step(spec, message, tmp_path):
    own(tmp_path / 'typo', classes=TWO.replace('classes', 'clases'))
    own(tmp_path / 'empty', count=1)
    (tmp_path / 'empty' / 'images' / '0.png').unlink()
    with pytest.raises(ValueError, match=message):
        open_pictures(spec.format(tmp_path))


def test_masks_of_0_and_255_are_refused_with_the_way_to_map_them(tmp_path):
    spec = own(tmp_path, (0, 0, 255))
    with pytest.raises(DataError, match='nothing but 0 and 255.*"ids: {0: background') as caught:
        check(open_pictures(spec))
    assert '"ids: {0: grass}"' in str(caught.value)
    (tmp_path / 'classes.yaml').write_text(TWO + 'ids: {0: grass, 255: stone}\n')
    pictures = open_pictures(spec)
    assert check(pictures) == [] and set(pictures[0].labels.ravel()) == {0, 1}
    (tmp_path / 'classes.yaml').write_text(TWO + 'ids: {0: grass}\n')
    assert check(open_pictures(spec)) == [], 'the user says that 255 is no label'


def test_labels_that_label_nothing_are_refused_and_some_are_counted(tmp_path):
    spec = own(tmp_path, (255,))
    with pytest.raises(DataError, match='no pixel has a class in the 3 label files'):
        check(open_pictures(spec))
    labels(tmp_path / 'labels' / '0.png', np.uint8([0, 1]))
    assert check(open_pictures(spec))[0].startswith(
        f'{tmp_path.name}: 2 of 3 label files that were looked at have no class')


def test_values_out_of_range_are_named_with_the_way_to_map_them(tmp_path):
    spec = own(tmp_path, (0, 7, 8))
    with pytest.raises(DataError, match=r'holds the ids \[7, 8\].* has 0-1, 255; so it is with 3 '
                                        'of 3.*say in the class file which value'):
        check(open_pictures(spec))


@pytest.mark.parametrize('values', [np.uint8([0, 1, 2, 3]), np.uint16([0, 1, 2, 60000])])
def test_other_values_mean_classes(values, tmp_path):
    spec = own(tmp_path, classes=TWO + f'ids: {{1: grass, {values[3]}: stone}}\n')
    labels(tmp_path / 'labels' / '0.png', values)  # as ADE20K's reduce_zero_label has it
    assert open_pictures(spec)[0].labels[0, :4].tolist() == [255, 0, 255, 1]


def test_colours_mean_classes(tmp_path):
    spec = own(tmp_path, classes=TWO + 'colors:\n  grass: [128, 64, 128]\n'
               '  stone: [[244, 35, 232], [70, 70, 70]]\n')
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[:, :4] = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (128, 64, 129)]
    for name, image in (('0', Image.fromarray(rgb)), ('1', Image.fromarray(rgb).convert('RGBA')),
                        ('2', Image.fromarray(rgb).quantize())):
        image.save(tmp_path / 'labels' / f'{name}.png')
    pictures = open_pictures(spec)
    for i in range(3):
        assert pictures[i].labels[0, :5].tolist() == [0, 1, 1, 255, 255]
    (tmp_path / 'classes.yaml').write_text(TWO)
    with pytest.raises(DataError, match='is in colours.*"colors: {road: '):
        open_pictures(spec)[0]


@pytest.mark.parametrize(('text', 'message'), [
    ('ids: {7: gras}', "'gras' is no class; did you mean grass"),
    ('ids: {70000: grass}', 'a label value must be in 0..65535, got 70000'),
    ('ids: {yes: grass}', 'got True'), ('ids: [7]', 'ids must be a mapping'),
    ('colors: {grass: [1, 2]}', 'must be .r, g, b., each 0..255'),
    ('colors: {grass: [1, 2, 3], stone: [1, 2, 3]}', 'means two classes'),
    ('ids: {7: grass}\ncolors: {grass: [1, 2, 3]}', 'ids or colors, not both'),
    ('id: {7: grass}', 'did you mean ids')])
def test_wrong_mappings_are_refused_in_words(text, message, tmp_path):
    (tmp_path / 'classes.yaml').write_text(TWO + text + '\n')
    with pytest.raises(ValueError, match=f'classes.yaml: .*{message}'):
        ClassSet.from_yaml(tmp_path / 'classes.yaml')


def test_grey_labels_of_any_depth_and_shape_are_numbers(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[:, :3] = [1, 0, 200]
    file = tmp_path / 'x.png'
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.uint16)),
                  Image.fromarray(values.repeat(3).reshape(*SIZE, 3)),
                  Image.fromarray(np.stack([values, values * 0 + 9], -1), mode='LA'),
                  Image.fromarray(np.dstack([values] * 3 + [values * 0]))):
        image.save(file)
        assert np.array_equal(read_ids(file), values), image.mode
    Image.fromarray(values > 0).save(file)  # one bit
    assert set(read_ids(file).ravel()) == {0, 1}


@pytest.mark.parametrize('size', [20000, 13000])
def test_huge_labels_are_refused_before_they_are_decoded(size, tmp_path, monkeypatch):
    (tmp_path / 'x.png').write_bytes(png_of(size, size))
    monkeypatch.setattr(Image, 'open', None)  # it is not called
    for read in (read_ids, lambda file: read_colors(file, [(0, 0, 0, 0)])):
        with pytest.raises(DataError, match=f'{size}x{size} is refused'):
            read(tmp_path / 'x.png')


@pytest.mark.parametrize('orientation', [3, 6])
def test_exif_orientation_turns_neither_picture_nor_labels_and_is_said(tmp_path, orientation):
    spec = own(tmp_path, count=1)
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:6] = 250
    tags = Image.Exif()
    tags[0x0112] = orientation
    (tmp_path / 'images' / '0.png').unlink()
    Image.fromarray(image).save(tmp_path / 'images' / '0.jpg', exif=tags)
    pictures = open_pictures(spec)
    assert pictures[0].image[:4].mean() > 240 and pictures[0].image[8:].mean() < 10
    assert f'1 pictures have orientation {orientation}' in check(pictures)[0]


def touch(file, write):
    before = file.stat()
    write()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def test_cache_follows_labels_pictures_and_the_class_file(tmp_path):
    spec = own(tmp_path / 'own')
    folder = tmp_path / 'own'

    def first():
        return cached(open_pictures(spec), tmp_path / 'cache', workers=0)[0]

    def places():
        return len(list((tmp_path / 'cache').iterdir()))

    assert first().labels[0, :3].tolist() == [0, 1, 255]
    first()
    assert places() == 1
    file = folder / 'labels' / '0.png'
    touch(file, lambda: labels(file, np.uint8([1, 1, 255])))  # of the same size in bytes
    assert first().labels[0, :3].tolist() == [1, 1, 255] and places() == 2
    file = folder / 'images' / '0.png'
    touch(file, lambda: picture(file))
    first()
    assert places() == 3
    (folder / 'classes.yaml').write_text(TWO + 'ids: {1: grass}\n')
    assert first().labels[0, :3].tolist() == [0, 0, 255] and places() == 4
    labels(folder / 'labels' / '1.png', np.uint8([9]))
    (folder / 'classes.yaml').write_text(TWO)
    with pytest.raises(DataError, match=r'holds the ids \[9\]'):
        first()


def test_cache_follows_the_generator(monkeypatch, tmp_path):
    from dgtl_core import streetworld
    world = open_pictures('streetworld:clear,count=1,height=64,width=128')
    before = world.fingerprint()
    assert before != open_pictures('streetworld:fog,count=1,height=64,width=128').fingerprint()
    assert before == open_pictures('streetworld:clear,count=1,height=64,width=128').fingerprint()
    (tmp_path / '__init__.py').write_text('# another generator')
    monkeypatch.setattr(streetworld, '__file__', str(tmp_path / '__init__.py'))
    assert world.fingerprint() != before


def test_labels_of_a_picture_that_was_cut_are_not_learned(tmp_path):
    spec = own(tmp_path, count=1)
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'images' / '0.jpg'), noise)
    (tmp_path / 'images' / '0.png').unlink()
    file = tmp_path / 'images' / '0.jpg'
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DataError, match='0.jpg cannot be read: it is cut short'):
        open_pictures(spec)[0]


@pytest.mark.parametrize('text', [
    'ids: {7: stone, 255: grass}', 'colors: {grass: [[1, 2, 3], [4, 5, 6]], stone: [[7, 8, 9]]}'])
def test_model_file_tells_what_its_labels_were(text, tmp_path):
    (tmp_path / 'classes.yaml').write_text(TWO + text)
    classes = ClassSet.from_yaml(tmp_path / 'classes.yaml')
    made = ModelMetadata(name='m', classes=classes, input_size=(8, 8), method='rein', backbone='x')
    told = json.loads(made.to_json())['label_mapping']
    assert told == json.loads(json.dumps(yaml.safe_load(text)))
    assert ModelMetadata.from_json(made.to_json(), 'm').classes.mapping == classes.mapping
    plain = replace(classes, mapping=LabelMapping())
    assert 'label_mapping' not in replace(made, classes=plain).to_json()
    wrong = json.dumps({**json.loads(made.to_json()), 'label_mapping': [1]})
    with pytest.raises(ModelError, match='a label mapping must have'):
        ModelMetadata.from_json(wrong, 'm')
