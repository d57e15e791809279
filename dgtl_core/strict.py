# SPDX-License-Identifier: Apache-2.0
"""
What users write, read strictly: YAML files and the dataclasses that they fill.

An unknown key or a value of the wrong type is a :class:`ValueError` that says what is allowed.
So is every fault of a file: it is read within limits of size and depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
import difflib
import math
from pathlib import Path
import types
from typing import Any, get_args, get_origin, get_type_hints, Literal, TypeVar, Union

T = TypeVar('T')
MAX_BYTES = 1 << 18  # of a YAML file; a second of reading
MAX_DEPTH = 32       # of lists and mappings inside each other


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain mappings, lists, numbers and strings (JSON, YAML)."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
    return plain(asdict(config))


def from_dict(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """
    Build the dataclass ``cls`` from a mapping, nested ones included; what is left out is default.

    :raises ValueError: an unknown key (with a suggestion), a missing one, or a wrong type.
    """
    return _build(cls, mapping, '')


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return ``config`` with the differences ``changes`` (nested mappings) laid over it."""
    if not isinstance(changes, Mapping):
        raise ValueError(f'the changes must be a mapping, got {shown(changes)}')

    def merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(base)
        for key, value in extra.items():
            nested = isinstance(value, Mapping) and isinstance(base.get(key), dict)
            if nested and value.get('kind') in (None, base[key].get('kind')):
                merged[key] = merge(base[key], value)
            else:  # another kind shares nothing with the one before
                merged[key] = value
        return merged
    return from_dict(type(config), merge(to_dict(config), changes))


def load_yaml(cls: type[T], path: str | Path) -> T:
    """
    Read ``cls`` from a YAML file.

    :raises ValueError: what :func:`read_yaml` or :func:`from_dict` refuses.
    :raises OSError: it cannot be read.
    """
    data = read_yaml(path)
    try:
        return from_dict(cls, {} if data is None else data)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def read_yaml(path: str | Path) -> Any:
    """
    Read a YAML file of at most MAX_BYTES.

    :raises ValueError: it is longer, or what :func:`parse_yaml` refuses.
    :raises OSError: it cannot be read.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f'there is no file {path}') from None
    except IsADirectoryError:
        raise IsADirectoryError(f'{path} is a folder; name the YAML file in it') from None
    if len(content) > MAX_BYTES:
        raise ValueError(f'{path} is longer than {MAX_BYTES} bytes; a file like that is no YAML '
                         'of ours')
    try:
        return parse_yaml(content.decode('utf-8'))
    except ValueError as error:  # also that it is no UTF-8
        raise ValueError(f'{path} is not valid YAML: {error}') from None


def parse_yaml(text: str) -> Any:
    """
    Read YAML: plain lists, mappings, texts and numbers, each key once, nothing by reference.

    :raises ValueError: it is something else, or deeper than MAX_DEPTH.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                # Ten lines of them can mean a billion values.
                raise ValueError(f'references (*name) are not read; {self.get_event().start_mark}')
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise ValueError(f'lists and mappings lie more than {MAX_DEPTH} deep')
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            mapping = super().construct_mapping(node, deep)
            if isinstance(node, yaml.MappingNode) and len(mapping) < len(node.value):
                raise ValueError(f'a key stands twice in one mapping; {node.start_mark}')
            return mapping

    try:
        return yaml.load(text, Loader)  # noqa: S506 -- derived from SafeLoader
    except ValueError:
        raise
    except Exception as error:  # PyYAML leaks several kinds, KeyError and AttributeError too
        raise ValueError(' '.join(str(error).split()) or type(error).__name__) from None


def suggestion(name: object, allowed: Iterable[object]) -> str:
    """Return what ends a message about a wrong name: the name that is near, or all of them."""
    near = closest(name, allowed)
    return f'; did you mean {near}?' if near else (
        f'; allowed are {", ".join(sorted(str(key) for key in allowed))}')


def closest(name: object, allowed: Iterable[object], likeness: float = 0.6) -> str:
    """Return the allowed name that is most like another one (0..1); empty: none is so much."""
    words = [str(key) for key in allowed]
    found = difflib.get_close_matches(str(name)[:200], words, 1, likeness)
    return found[0] if found else ''


def shown(value: object) -> str:
    """Return a value for a message, short."""
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'


def _build(cls: type[T], mapping: Any, where: str) -> T:
    inside = f' (in {where})' if where else ''
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f'{where or cls.__name__} must be a mapping of keys to values, got {shown(mapping)}')
    hints = get_type_hints(cls)
    known = {item.name: hints[item.name] for item in fields(cls) if item.init}  # type: ignore
    values = {}
    for key, value in mapping.items():
        if key not in known:
            raise ValueError(f'unknown key {key!s:.80}{suggestion(key, known)}{inside}')
        values[key] = _value(known[key], value, f'{where}.{key}' if where else str(key))
    try:
        return cls(**values)
    except TypeError:
        missing = [name for name in known if name not in values]
        raise ValueError(f'missing keys: some of {missing} have no default{inside}') from None


def _of_kind(options: list[Any], value: Any, where: str) -> Any:
    """Choose the dataclass that the value's ``kind`` names; without one it is the first."""
    kinds = {option.kind: option for option in options}
    kind = next(iter(kinds))
    if isinstance(value, Mapping):
        kind = value.get('kind', kind)
    elif is_dataclass(value):
        kind = getattr(value, 'kind', kind)
    if kind not in kinds:
        raise ValueError(f'{where}.kind must be one of {list(kinds)}, got {shown(kind)}')
    return kinds[kind]


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check ``value`` against a type hint and bring it into the dataclass's form."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        if all(is_dataclass(option) for option in options):
            return _value(_of_kind(options, value, where), value, where)
        for option in options[:-1]:
            try:
                return _value(option, value, where)
            except ValueError:
                continue
        return _value(options[-1], value, where)
    if origin is Literal:
        if value is False and 'off' in args:  # YAML 1.1 reads a bare off as false
            value = 'off'
        if value not in args:
            raise ValueError(f'{where} must be one of {list(args)}, got {shown(value)}')
        return value
    if is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where)  # type: ignore
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (
                args[-1] is not Ellipsis and len(value) != len(args)):
            count = '' if args[-1] is Ellipsis else f'{len(args)} '
            raise ValueError(f'{where} must be a list of {count}values, got {shown(value)}')
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_value(kind, item, f'{where}[{i}]')
                     for i, (kind, item) in enumerate(zip(kinds, value)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f'{where} must be a mapping, got {shown(value)}')
        return {_value(args[0], key, where): _value(args[1], item, f'{where}.{key}')
                for key, item in value.items()}
    if hint is float and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-4 as a string
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            raise ValueError(f'{where} must be float, got {shown(value)}') from None
        if not math.isfinite(number):
            raise ValueError(f'{where} must be a finite number, got {shown(value)}')
        return number
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f'{where} must be {hint.__name__}, got {shown(value)}')
