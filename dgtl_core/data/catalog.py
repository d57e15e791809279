# SPDX-License-Identifier: Apache-2.0
"""
The data sets by name: the public ones, StreetWorld, and plain folders of one's own.

On a command line and in a recipe a data set is ``NAME``, ``NAME:FOLDER`` or
``NAME:FOLDER,key=value,...``. Without a folder it is looked for in $DGTL_DATA/NAME (in data/NAME
where DGTL_DATA is not set). Layouts and encodings are those of the published archives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

from dgtl_core.classes import CITYSCAPES, ClassSet, IGNORE_INDEX
from dgtl_core.data.datasets import (
    JoinedPictures,
    LabelledPicture,
    NO_SIZES,
    PicturePairs,
    Pictures,
    UnlabelledPictures,
)
from dgtl_core.data.labels import DataError, id_table, named, read_colors, read_ids, read_synthia
from dgtl_core.data.pairs import find_pairs, Pair, Pairs
from dgtl_core.picture_header import PictureError
from dgtl_core.pictures import find_pictures
from dgtl_core.strict import suggestion
import numpy as np

# stored id -> train id
_LABEL_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
              25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # Cityscapes' label ids
_SYNTHIA = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13,
            19: 15, 12: 17, 11: 18}  # 16 classes: no terrain, truck and train
_CAMVID = dict(enumerate((10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12)))
_WILDDASH = {**_LABEL_IDS, 34: 13, 35: 13, 38: 0}  # van, pickup; road marking
_MAPILLARY = {13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7,
              30: 8, 29: 9, 27: 10, 19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15,
              58: 16, 57: 17, 52: 18}
# What two groups of papers make of Mapillary's 66 ids; scores under the two must not be mixed.
MAPILLARY_MAPPINGS = {
    'robustnet': _MAPILLARY,  # RobustNet, HRDA, VLTSeg
    'rein': {  # Rein, DGTL: by name, so that more ids count
        **{key: value for key, value in _MAPILLARY.items() if key != 41},
        7: 0, 8: 0, 10: 0, 14: 0, 23: 0, 9: 1, 11: 1, 44: 5, 46: 7, 49: 7}}
# Sizes that the protocols of the literature fit pictures into (see training.evaluate).
_CITY = {'low': (512, 1024), 'high': (1024, 2048), 'vltseg': (512, 1024)}
_BDD = {'low': (720, 1280), 'high': (720, 1280), 'vltseg': (512, 1024)}
_FULL_HD = {'low': (540, 960), 'high': (540, 960), 'vltseg': (540, 960)}
# GTA5 was published with these pairs, of which the label maps have another size.
GTA5_UNEQUAL = range(20801, 20861)
ON_MISSING = ('error', 'skip')
TRAIN_ID_TABLE = id_table({i: i for i in range(len(CITYSCAPES))})
LABEL_ID_TABLE = id_table(_LABEL_IDS, [*range(35), IGNORE_INDEX])


class StreetWorldPictures:
    """Pictures of procedural streets, drawn when they are asked for."""

    def __init__(self, condition: str = 'clear', *, count: int = 100, seed: int = 1000,
                 severity: int = 3, height: int = 512, width: int = 1024,
                 variety: int = 0) -> None:
        """:param variety: 1: other cameras, materials and skies too, to learn from."""
        from dgtl_core.streetworld import CONDITIONS, StreetWorld

        if count < 1:
            raise DataError(f'count of streetworld must be at least 1, got {count}')
        if condition not in CONDITIONS:
            raise DataError(
                f'StreetWorld has no condition {condition!r}; take one of {list(CONDITIONS)}')
        self._world = StreetWorld(
            seed=seed, size=(height, width), condition=condition, severity=severity,
            variety=bool(variety))
        self._count = count
        self._about = (condition, count, seed, severity, height, width, variety)
        self.name = f'streetworld-{condition}'
        self.classes, self.protocol_sizes = CITYSCAPES, NO_SIZES

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> LabelledPicture:
        if not 0 <= index < self._count:
            raise IndexError(index)
        sample = self._world.picture(index)
        return LabelledPicture(
            sample.image, sample.labels, f'{self.name}/{index}', sample.depth)

    def fingerprint(self) -> str:
        """Return a text that changes with the options and with the source of the generator."""
        from dgtl_core import streetworld
        from dgtl_core.data import weather

        digest = hashlib.sha256(repr(self._about).encode())
        for file in sorted(Path(str(streetworld.__file__)).parent.glob('*.py')):
            digest.update(file.read_bytes())
        digest.update(Path(weather.__file__).read_bytes())
        return digest.hexdigest()


def gta5(folder: Path) -> PicturePairs:
    """GTA5: ``images/*.png``, ``labels/*.png`` (palette) with Cityscapes label ids."""
    pairs = find_pairs(folder, 'images', '*', 'labels', '.png', ['.png'])
    kept = [pair for pair in pairs.found if not _unequal(pair)]
    left = len(pairs.found) - len(kept)
    return PicturePairs('gta5', Pairs(kept, pairs.missing), LABEL_ID_TABLE, notes=[
        f'{left} pairs of {GTA5_UNEQUAL[0]}-{GTA5_UNEQUAL[-1]} are left out: GTA5 was published '
        'with label maps of another size for them'] * (left > 0))


def synthia(folder: Path) -> PicturePairs:
    """SYNTHIA-RAND-CITYSCAPES: ``RGB/*.png``, ``GT/LABELS/*.png`` (16 bit, id in red)."""
    pairs = find_pairs(folder, 'RGB', '*', 'GT/LABELS', '.png', ['.png'])
    return PicturePairs('synthia', pairs, id_table(_SYNTHIA, [*range(23), IGNORE_INDEX]),
                        read=read_synthia)


def urbansyn(folder: Path) -> PicturePairs:
    """UrbanSyn: ``rgb/rgb_0001.png``, ``ss/ss_0001.png`` with train ids; 19 is void."""
    pairs = find_pairs(folder, 'rgb', '*', 'ss', '.png', ['.png'],
                       rename=lambda name: name.replace('rgb_', 'ss_'))
    table = TRAIN_ID_TABLE.copy()
    table[19] = IGNORE_INDEX
    return PicturePairs('urbansyn', pairs, table)


def cityscapes(folder: Path, *, split: str = 'val') -> PicturePairs:
    """Cityscapes: ``leftImg8bit/<split>/<city>/*.png``, ``gtFine``; train ids, else label ids."""
    pairs = find_pairs(folder, f'leftImg8bit/{split}', '*/*', f'gtFine/{split}',
                       '_leftImg8bit.png', ['_gtFine_labelTrainIds.png', '_gtFine_labelIds.png'])
    return PicturePairs('cityscapes', pairs, _id_table_of(pairs), protocol_sizes=_CITY)


def bdd100k(folder: Path, *, split: str = 'val') -> PicturePairs:
    """BDD100K: ``images/10k/<split>/*.jpg``, ``labels/sem_seg/masks/<split>/*.png``."""
    pairs = find_pairs(folder, f'images/10k/{split}', '*', f'labels/sem_seg/masks/{split}',
                       '.jpg', ['.png'])
    return PicturePairs('bdd100k', pairs, TRAIN_ID_TABLE, protocol_sizes=_BDD)


def mapillary(folder: Path, *, split: str = 'validation', mapping: str = 'robustnet',
              shrink: int = 1) -> PicturePairs:
    """Mapillary Vistas 1.2; ``mapping`` robustnet or rein (Rein also has ``shrink`` 2)."""
    if mapping not in MAPILLARY_MAPPINGS:
        raise DataError(f'mapillary has the mappings {list(MAPILLARY_MAPPINGS)}, got {mapping!r}')
    labels = 'v1.2/labels' if (folder / split / 'v1.2').is_dir() else 'labels'
    pairs = find_pairs(folder, f'{split}/images', '*', f'{split}/{labels}', '.jpg', ['.png'])
    return PicturePairs(
        f'mapillary-{mapping}', pairs, id_table(MAPILLARY_MAPPINGS[mapping], [*range(66)]),
        shrink=shrink, protocol_sizes=_CITY)


def acdc(folder: Path, *, condition: str = '*', split: str = 'val') -> PicturePairs:
    """ACDC: ``rgb_anon/<fog|night|rain|snow>/<split>/...``; all conditions, or one."""
    pairs = find_pairs(folder, 'rgb_anon', f'{condition}/{split}/*/*', 'gt', '_rgb_anon.png',
                       ['_gt_labelTrainIds.png'])
    return PicturePairs(
        _with('acdc', condition), pairs, TRAIN_ID_TABLE, protocol_sizes=_FULL_HD)


def dark_zurich(folder: Path, *, split: str = 'val') -> PicturePairs:
    """Dark Zurich: ``rgb_anon/<split>/night/...``, ``gt/<split>/night/...``."""
    pairs = find_pairs(folder, f'rgb_anon/{split}/night', '**/*', f'gt/{split}/night',
                       '_rgb_anon.png', ['_gt_labelTrainIds.png'])
    return PicturePairs('dark-zurich', pairs, TRAIN_ID_TABLE, protocol_sizes=_FULL_HD)


def muses(folder: Path, *, split: str = 'val', weather: str = '*',
          time: str = '*') -> PicturePairs:
    """MUSES: ``frame_camera/<split>/<weather>/<time>/``, ``gt_semantic/...``."""
    pairs = find_pairs(folder, f'frame_camera/{split}', f'{weather}/{time}/*',
                       f'gt_semantic/{split}', '_frame_camera.png', ['_gt_labelTrainIds.png'])
    return PicturePairs(
        _with('muses', weather, time), pairs, TRAIN_ID_TABLE, protocol_sizes=_FULL_HD)


def nightcity(folder: Path, *, split: str = 'val') -> PicturePairs:
    """NightCity(-fine): ``<split>/img/*.png``, ``<split>/lbl/*_trainIds.png`` or ``_labelIds``."""
    pairs = find_pairs(folder, f'{split}/img', '*', f'{split}/lbl', '.png',
                       ['_trainIds.png', '_labelIds.png'])
    return PicturePairs('nightcity', pairs, _id_table_of(pairs), protocol_sizes=_CITY)


def wilddash2(folder: Path) -> PicturePairs:
    """WildDash 2: ``images/*.jpg``, ``labels/*.png`` with Cityscapes label ids and five more."""
    pairs = find_pairs(folder, 'images', '*', 'labels', '.jpg', ['.png'])
    return PicturePairs('wilddash2', pairs, id_table(_WILDDASH, [*range(39), IGNORE_INDEX]),
                        protocol_sizes=_FULL_HD)


def camvid(folder: Path, *, split: str = '') -> PicturePairs:
    """CamVid, 11 classes: ``<split>``, ``<split>annot`` or ``[<split>/]images``, ``labels``."""
    if split and (folder / f'{split}annot').is_dir():
        pairs = find_pairs(folder, split, '*', f'{split}annot', '', ['.png'])
    else:
        pairs = find_pairs(folder / split, 'images', '*', 'labels', '', ['.png'])
    return PicturePairs(
        _with('camvid', split or '*'), pairs, id_table(_CAMVID, [11, IGNORE_INDEX]))


def own_folder(folder: Path, *, classes: str = '') -> PicturePairs:
    """A folder of yours: ``images/*``, ``labels/*.png`` of the same names, ``classes.yaml``."""
    pairs = find_pairs(folder, 'images', '*', 'labels', '', ['.png'])
    if not pairs.found:
        there = named(sorted(os.listdir(folder / 'labels')))
        raise DataError(
            f'no picture in {folder}/images has a label file: the one of {pairs.missing[0].name} '
            f'must be {folder}/labels/{pairs.missing[0].stem}.png, and in that folder there is '
            + (there or 'nothing'))
    file = Path(classes) if classes else folder / 'classes.yaml'
    if not file.is_file():
        raise DataError(
            f'{folder} needs a class file {file} ("name: ...", "classes: [{{id, name, color}}]"; '
            'config/classes holds examples); name another with folder:FOLDER,classes=FILE')
    known = ClassSet.from_yaml(file)
    own = id_table({entry.id: entry.id for entry in known})
    colors, ids = known.mapping.colors, known.mapping.ids
    unused = pairs.unused()
    return PicturePairs(
        folder.resolve().name, pairs, id_table(dict(ids), (), rest=IGNORE_INDEX) if ids else own,
        classes=known, read=partial(read_colors, colors=colors) if colors else read_ids,
        own_ids=not known.mapping, notes=[
            f'label files without a picture of their name are not used ({len(unused)}): '
            f'{named(unused)}'] * bool(unused))


def unlabelled(folder: Path, *, classes: str = '') -> UnlabelledPictures:
    """A folder of yours without labels, for a teacher: all pictures below it."""
    try:
        files = find_pictures([folder])
    except PictureError as error:
        raise DataError(str(error)) from None
    known = ClassSet.from_yaml(Path(classes)) if classes else CITYSCAPES
    return UnlabelledPictures(folder.resolve().name, files, known)


DATASETS: dict[str, Callable[..., Pictures]] = {
    'acdc': acdc, 'bdd100k': bdd100k, 'camvid': camvid, 'cityscapes': cityscapes,
    'dark-zurich': dark_zurich, 'folder': own_folder, 'gta5': gta5, 'mapillary': mapillary,
    'muses': muses, 'nightcity': nightcity, 'streetworld': StreetWorldPictures,
    'synthia': synthia, 'unlabelled': unlabelled, 'urbansyn': urbansyn, 'wilddash2': wilddash2}


def open_pictures(spec: str) -> Pictures:
    """
    Open a data set by its command-line name, for example ``streetworld:fog,count=50``.

    :raises DataError: there is no such data set or option, or its folder is not right.
    """
    name, _, rest = spec.partition(':')
    if name not in DATASETS and Path(spec).is_dir():
        raise DataError(
            f'{spec} is a folder and not the name of a data set; write folder:{spec} for pictures '
            f'of your own, or NAME:{spec} with one of {", ".join(DATASETS)}')
    if name not in DATASETS:
        raise DataError(f'unknown data set {name!r}{suggestion(name, DATASETS)}')
    function = DATASETS[name]
    place, *words = rest.split(',')
    if function is StreetWorldPictures:
        return function(place or 'clear', **_options(name, words))
    options = _options(name, words, on_missing='error')
    on_missing = options.pop('on_missing', 'error')
    if on_missing not in ON_MISSING:
        raise DataError(f'on_missing of {name} must be one of {ON_MISSING}, got {on_missing!r}')
    folder = Path(place) if place else Path(os.environ.get('DGTL_DATA', 'data')) / name
    try:
        pictures = function(folder, **options)
        if isinstance(pictures, PicturePairs):
            _without_labels(pictures, on_missing)
    except DataError as error:
        expected = str(inspect.getdoc(function)).replace('``', '')  # not in a terminal
        raise DataError(
            f'{name}: {error}. Expected: {expected}' + ('' if place else (
                f' Name the folder with {name}:FOLDER, or put it at $DGTL_DATA/{name}'))
        ) from None
    return pictures


def _options(name: str, words: Sequence[str], **more: str) -> dict[str, Any]:
    """Read ``key=value`` words as the keyword-only arguments of a data set, or as ``more``."""
    signature = inspect.signature(DATASETS[name]).parameters
    allowed = {**more, **{key: parameter.default for key, parameter in signature.items()
                          if parameter.kind is inspect.Parameter.KEYWORD_ONLY}}
    options: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition('=')
        if key not in allowed:
            raise DataError(f'{name} has no option {key!r}{suggestion(key, allowed)}')
        number = isinstance(allowed[key], int)
        if number and not value.isdigit():
            raise DataError(
                f'option {key} of {name} must be a whole number of at least 0, got {value!r}')
        options[key] = int(value) if number else value
    return options


def _without_labels(pictures: PicturePairs, on_missing: str) -> None:
    """Refuse pictures without labels, or note that they are left out."""
    missing = pictures.missing
    if missing and (on_missing == 'error' or not pictures.pairs):
        raise DataError(
            f'{len(missing)} of {len(missing) + len(pictures)} pictures have no labels: '
            f'{named(missing)}; add the label files, or leave these pictures out with '
            f'the option on_missing=skip')
    if missing:
        pictures.notes += (f'pictures without labels are left out ({len(missing)})',)


def open_named(specs: Sequence[str]) -> dict[str, Pictures]:
    """Open data sets by name; where two have the same one, as two splits do, by the whole spec."""
    opened = {spec: open_pictures(spec) for spec in specs}
    names = [pictures.name for pictures in opened.values()]
    return {pictures.name if names.count(pictures.name) == 1 else spec: pictures
            for spec, pictures in opened.items()}


def join(specs: Sequence[str]) -> Pictures:
    """
    Open one or several data sets of the same classes as one.

    Pictures without labels take the classes of those that have some.

    :raises DataError: there is none, they differ in their classes, or one is not as it should be.
    """
    if not specs:
        raise DataError('there must be at least one data set, got none')
    parts = [open_pictures(spec) for spec in specs]
    labelled = [part for part in parts if not isinstance(part, UnlabelledPictures)]
    for part in parts:
        if isinstance(part, UnlabelledPictures) and labelled:
            part.classes = labelled[0].classes
    return JoinedPictures(parts)


def _unequal(pair: Pair) -> bool:
    stem = pair[0].stem
    return stem.isdecimal() and int(stem) in GTA5_UNEQUAL


def _id_table_of(pairs: Pairs) -> np.ndarray:
    """Return the table for label files that are named after their ids, all in the same way."""
    kinds = {'rainIds' in label.name for _, label in pairs.found}
    if len(kinds) > 1:
        raise DataError(
            'some label files hold train ids and some label ids; make the missing ones')
    return TRAIN_ID_TABLE if kinds == {True} else LABEL_ID_TABLE


def _with(name: str, *parts: str) -> str:
    return '-'.join([name, *(part for part in parts if part != '*')])
