# SPDX-License-Identifier: Apache-2.0
"""
A user's own classes: groups of a model's classes, and a least confidence for each class.

A file of groups is YAML, ``name: [class, ...]``, or with a colour of its own
``name: {classes: [class, ...], color: [r, g, b]}``; without one a group has the colour of its
first class. Ids follow the order of the file. A class that is in no group becomes 255, unlabelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from dgtl_core.classes import ClassSet, IGNORE_INDEX, SegmentationClass
from dgtl_core.strict import read_yaml, shown, suggestion
import numpy as np


@dataclass(frozen=True)
class ClassGroups:
    """
    Groups of a model's classes.

    The confidence of a pixel stays that of its winning class, a lower bound of its group's: the
    probabilities of the others are gone by the time there are labels. A model file that is
    exported with groups sums them.
    """

    classes: ClassSet  # the groups
    group_of: np.ndarray  # (256,) uint8: the group of each label

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Return the groups of labels. Shape: (H, W) uint8 -> (H, W) uint8."""
        return cv2.LUT(labels, self.group_of)

    @classmethod
    def from_mapping(cls, name: str, groups: object, of: ClassSet) -> ClassGroups:
        """
        Read groups of the classes ``of`` a model; ``name`` says whose they are in messages.

        :raises ValueError: a class is unknown or in two groups, or a value is none of the two
            that the module describes.
        """
        if not isinstance(groups, Mapping) or not groups:
            raise ValueError(f'{name} must hold groups, "name: [class, ...]", got {groups!r:.80}')
        table = np.full(256, IGNORE_INDEX, np.uint8)
        entries: list[SegmentationClass] = []
        for number, (group, value) in enumerate(groups.items()):
            where = f'group {group!r} of {name}'
            members, color = (value, None) if not isinstance(value, Mapping) else (
                value.get('classes'), value.get('color'))
            if isinstance(value, Mapping) and value.keys() - {'classes', 'color'}:
                raise ValueError(f'{where} knows the keys classes and color, got {list(value)}')
            if not isinstance(members, Sequence) or isinstance(members, str) or not members:
                raise ValueError(f'{where} must list classes, [class, ...], got {members!r:.80}')
            ids = [class_id(member, of, where) for member in members]
            for member, index in zip(members, ids):
                if table[index] != IGNORE_INDEX:
                    raise ValueError(
                        f'{where}: {member!r} is in {entries[table[index]].name!r} already; a '
                        'class belongs to one group')
                table[index] = number
            entries.append(SegmentationClass(
                id=number, name=group, color=of[ids[0]].color if color is None else color))
        return cls(ClassSet(Path(name).stem, tuple(entries)), table)

    @classmethod
    def from_yaml(cls, path: str | Path, of: ClassSet) -> ClassGroups:
        """
        Read groups of the classes ``of`` a model from a file, as the module describes.

        :raises OSError: it cannot be read.
        :raises ValueError: it does not hold groups of these classes.
        """
        return cls.from_mapping(str(path), read_yaml(path), of)


def least_confidence(default: float, single: Mapping[str, float], classes: ClassSet) -> np.ndarray:
    """
    Return the confidence below which a label is taken away, for each label value.

    Shape: (256,) uint8.

    :param default: a probability in 0..1, of the classes that are not in ``single``.
    :raises ValueError: a class is unknown, or a number is not in 0..1.
    """
    least = np.full(256, _confidence(default, 'every class'), np.uint8)
    for name, value in single.items():
        least[class_id(name, classes, 'threshold')] = _confidence(value, name)
    return least


def confident(labels: np.ndarray, confidence: np.ndarray, least: np.ndarray,
              unlabeled: int = IGNORE_INDEX) -> np.ndarray:
    """
    Take the label from pixels whose confidence is below that of their class.

    Shape: labels, confidence (H, W) uint8, least (256,) uint8 -> (H, W) uint8; the arguments stay
    as they are.
    """
    if not least.any():
        return labels
    return np.where(confidence < cv2.LUT(labels, least), np.uint8(unlabeled), labels)


def class_id(name: object, classes: ClassSet, where: str) -> int:
    """
    Return the id of a class by its name.

    :raises ValueError: there is none; the message has ``where`` and the nearest name.
    """
    if name in classes.names:
        return classes.names.index(str(name))
    raise ValueError(
        f'{where}: there is no class {shown(name)}{suggestion(name, classes.names)}')


def recolored(classes: ClassSet, colors: object, name: str) -> ClassSet:
    """
    Return classes in other colours: ``colors`` maps names of classes to [r, g, b].

    :raises ValueError: a class is unknown, or a colour is none; ``name`` says whose.
    """
    if not isinstance(colors, Mapping):
        raise ValueError(f'{name} must hold colours, "class: [r, g, b]", got {colors!r:.80}')
    own = {class_id(key, classes, name): color for key, color in colors.items()}
    return ClassSet(classes.name, tuple(
        SegmentationClass(id=e.id, name=e.name, color=own.get(e.id, e.color), prompts=e.prompts)
        for e in classes))


def _confidence(probability: float, of: str) -> int:
    if not 0 <= probability <= 1:
        raise ValueError(f'threshold of {of}: must be in 0..1, got {probability}')
    return int(np.ceil(probability * 255))
