# SPDX-License-Identifier: Apache-2.0
"""What stands in label pictures for a class: another number than its id, or a colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dgtl_core.strict import shown, suggestion

MAX_VALUE = 65535  # of a pixel in a 16-bit label picture
HOW_TO_MAP = (
    'say in the class file which value means which class, for example "ids: {0: background, '
    '255: object}"; every other value then means "no label" (docs/train.md)')


@dataclass(frozen=True, kw_only=True)
class LabelMapping:
    """
    Label values, or colours, that mean a class; every other one means "no label".

    Empty, as it is by default: a label value is the id of its class, and 255 means "no label".
    """

    ids: tuple[tuple[int, int], ...] = ()  # (label value, class id)
    colors: tuple[tuple[int, int, int, int], ...] = ()  # (red, green, blue, class id)

    def __post_init__(self) -> None:
        if self.ids and self.colors:
            raise ValueError('label pictures have ids or colors, not both: give one of the two')
        for value, _ in self.ids:
            if type(value) is not int or not 0 <= value <= MAX_VALUE:  # YAML's yes is a bool
                raise ValueError(f'a label value must be in 0..{MAX_VALUE}, got {shown(value)}')
        known = [color[:3] for color in self.colors]
        for color in known:
            if known.count(color) > 1:
                raise ValueError(f'the colour {list(color)} means two classes')

    def __bool__(self) -> bool:
        return bool(self.ids or self.colors)

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return what :meth:`from_dict` reads."""
        if self.ids:
            return {'ids': {value: names[index] for value, index in self.ids}}
        colors: dict[str, list[list[int]]] = {}
        for *color, index in self.colors:
            colors.setdefault(names[index], []).append(color)
        return {'colors': colors} if colors else {}

    @classmethod
    def from_dict(cls, data: Mapping[str, object], names: Sequence[str]) -> LabelMapping:
        """
        Read ``ids: {value: name}`` or ``colors: {name: [r, g, b] or a list of such}``.

        :raises ValueError: a class that is not among ``names``, no number, or no colour.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f'a label mapping must have ids or colors, got {data!r}')
        ids, colors = data.get('ids', {}), data.get('colors', {})
        if not isinstance(ids, Mapping) or not isinstance(colors, Mapping):
            raise ValueError(
                'ids must be a mapping {label value: class name}, colors a mapping {class name: '
                '[r, g, b]}')
        pairs = []
        for value, name in ids.items():
            if isinstance(value, str) and value.isdecimal() and len(value) < 9:  # JSON's keys
                value = int(value)
            pairs.append((value, _index(name, names)))
        painted = []
        for name, listed in colors.items():
            many = isinstance(listed, Sequence) and all(
                isinstance(part, Sequence) and not isinstance(part, str) for part in listed)
            for color in listed if many else [listed]:
                if not isinstance(color, Sequence) or len(color) != 3 or not all(
                        type(part) is int and 0 <= part <= 255 for part in color):
                    raise ValueError(
                        f'colors of {name!r} must be [r, g, b], each 0..255, got '
                        f'{shown(color)}')
                painted.append((*color, _index(name, names)))
        return cls(ids=tuple(pairs), colors=tuple(painted))


def _index(name: object, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(f'{shown(name)} is no class{suggestion(name, names)}')
    return list(names).index(str(name))
