# SPDX-License-Identifier: Apache-2.0
"""Class sets: names, ids, colours and prompts of the classes a model knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgtl_core.label_mapping import LabelMapping
from dgtl_core.strict import closest, read_yaml, shown

IGNORE_INDEX = 255  # a label that means "no label"; never a class


@dataclass(frozen=True, kw_only=True)
class SegmentationClass:
    """One class: its id in label pictures, its name, its colour and the words that describe it."""

    id: int
    name: str
    color: tuple[int, int, int]  # RGB, 0..255
    prompts: tuple[str, ...] = ()  # words for the text encoder; the name where there are none

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 0 <= self.id < IGNORE_INDEX:  # YAML's yes is a bool
            raise ValueError(f'class id must be an integer in 0..254, got {shown(self.id)}')
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f'class {self.id} needs a name, got {shown(self.name)}')
        color = tuple(self.color) if isinstance(self.color, Sequence) else ()
        if len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
            raise ValueError(
                f'color of class {self.name!r} must be [r, g, b], each 0..255, got '
                f'{shown(self.color)}')
        words = self.prompts
        if isinstance(words, str) or not isinstance(words, Sequence) or not all(
                isinstance(word, str) and word.strip() for word in words):
            raise ValueError(
                f'prompts of class {self.name!r} must be a list of words, got {shown(words)}')
        object.__setattr__(self, 'color', color)
        object.__setattr__(self, 'prompts', tuple(self.prompts))


@dataclass(frozen=True)
class ClassSet:
    """
    An ordered set of classes whose ids are 0..K-1.

    Iterates over its :class:`SegmentationClass` entries in id order.
    """

    name: str
    entries: tuple[SegmentationClass, ...]
    mapping: LabelMapping = LabelMapping()  # of label pictures; a model always gives ids

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.entries]
        if not ids or ids != list(range(len(ids))):
            raise ValueError(
                f'class ids of {self.name!r} must be 0, 1, 2, ... without a gap, got '
                f'{shown(ids)}')
        if len(set(self.names)) != len(ids):
            raise ValueError(f'class names of {self.name!r} must differ, got '
                             f'{shown(list(self.names))}')

    def __iter__(self) -> Iterator[SegmentationClass]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> SegmentationClass:
        return self.entries[index]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in id order."""
        return tuple(entry.name for entry in self.entries)

    def palette(self) -> list[tuple[int, int, int]]:
        """Return 256 RGB colours, one for each label value; black where there is no class."""
        colors = [entry.color for entry in self.entries]
        return colors + [(0, 0, 0)] * (256 - len(colors))

    def to_list(self) -> list[dict[str, object]]:
        """Return the entries as the model file's metadata holds them (id, name, color)."""
        return [{'id': e.id, 'name': e.name, 'color': list(e.color)} for e in self.entries]

    @classmethod
    def from_list(cls, name: str, entries: Sequence[Mapping[str, object]],
                  mapping: Mapping[str, object] | None = None) -> ClassSet:
        """
        Read classes from plain mappings with the keys id, name, color and prompts (optional).

        :param mapping: ``ids`` or ``colors`` of label pictures, see :class:`LabelMapping`.

        :raises ValueError: a key is missing or unknown, or a value is out of its range.
        """
        allowed = {'id', 'name', 'color', 'prompts'}
        result = []
        for position, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise ValueError(f'class {position} of {name!r} must be a mapping, got '
                                 f'{shown(entry)}')
            unknown, missing = set(entry) - allowed, {'id', 'name', 'color'} - set(entry)
            if unknown or missing:
                raise ValueError(
                    f'class {position} of {name!r}: {_unlike(unknown, allowed)}missing keys '
                    f'{sorted(missing)}; allowed are {sorted(allowed)}')
            result.append(SegmentationClass(**entry))  # type: ignore[arg-type]
        known = tuple(sorted(result, key=lambda e: e.id))
        return cls(name, known, LabelMapping.from_dict(mapping or {}, [e.name for e in known]))

    @classmethod
    def from_yaml(cls, path: str | Path) -> ClassSet:
        """
        Read a class set from a YAML file: ``name: ...`` and ``classes: [{id, name, color}]``.

        Where label pictures hold something else than ids, ``ids: {value: name}`` or ``colors:
        {name: [r, g, b]}`` say what means what.

        :raises ValueError: the file does not hold a class set; the message says what is wrong.
        """
        data = read_yaml(path)
        allowed = ('name', 'classes', 'ids', 'colors')
        unknown = data.keys() - set(allowed) if isinstance(data, dict) else ()
        if unknown:
            raise ValueError(f'{path}: {_unlike(unknown, allowed)}allowed are {list(allowed)}')
        if not isinstance(data, dict) or not isinstance(data.get('classes'), list):
            raise ValueError(
                f'{path} must hold "name: ..." and "classes: [{{id, name, color}}, ...]"')
        try:
            return cls.from_list(str(data.get('name', Path(path).stem)), data['classes'], {
                key: data[key] for key in ('ids', 'colors') if data.get(key) is not None})
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None


def _unlike(unknown: Iterable[object], allowed: Iterable[str]) -> str:
    """Name unknown keys, each with the nearest one that is allowed."""
    text = ''
    for key in sorted(map(str, unknown)):
        near = closest(key, allowed)
        text += f'unknown key {key:.80}' + (f' (did you mean {near}?)' if near else '') + ', '
    return text


def _cityscapes() -> ClassSet:
    table = (
        ('road', (128, 64, 128)), ('sidewalk', (244, 35, 232)), ('building', (70, 70, 70)),
        ('wall', (102, 102, 156)), ('fence', (190, 153, 153)), ('pole', (153, 153, 153)),
        ('traffic light', (250, 170, 30)), ('traffic sign', (220, 220, 0)),
        ('vegetation', (107, 142, 35)), ('terrain', (152, 251, 152)), ('sky', (70, 130, 180)),
        ('person', (220, 20, 60)), ('rider', (255, 0, 0)), ('car', (0, 0, 142)),
        ('truck', (0, 0, 70)), ('bus', (0, 60, 100)), ('train', (0, 80, 100)),
        ('motorcycle', (0, 0, 230)), ('bicycle', (119, 11, 32)))
    return ClassSet('cityscapes', tuple(
        SegmentationClass(id=i, name=n, color=c) for i, (n, c) in enumerate(table)))


CITYSCAPES = _cityscapes()  # the 19 evaluation classes, train-id order, official colours
