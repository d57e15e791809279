# SPDX-License-Identifier: Apache-2.0
"""
A node's parameters as a frozen dataclass: name, default, range, meaning.

A parameter is one field, so a reader always sees a consistent set of values, and a change replaces
the whole set or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from dataclasses import Field, field
from pathlib import Path
from typing import Any, TYPE_CHECKING, TypeVar

from dgtl_core.strict import closest
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

S = TypeVar('S')
_TYPES = {str: 'a string', bool: 'true or false', int: 'an integer', float: 'a double',
          tuple: 'a list of strings'}


class ParameterError(ValueError):
    """A parameter that cannot have that value; the message says what was got and is allowed."""


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None,
           choices: tuple[str, ...] = (), dynamic: bool = False, name: str = '') -> Any:
    """
    Describe one parameter, as a dataclass field.

    :param low, high: the range of a number, both ends allowed.
    :param dynamic: whether it may change while the node is configured.
    :param name: the parameter's name, where it is not the field's.
    """
    return field(default=default, metadata={
        'text': text, 'low': low, 'high': high, 'choices': choices, 'dynamic': dynamic,
        'name': name})


def parameters_of(kind: type[Any]) -> dict[str, Field[Any]]:
    """Return the parameter names of a settings class and the fields that hold them."""
    return {f.metadata['name'] or f.name: f for f in dataclasses.fields(kind)}


def declare(node: Node, kind: type[S]) -> S:
    """
    Declare all parameters on a node and read what the user set.

    :raises ParameterError: a value has the wrong type or is out of range.
    """
    values = {}
    for name, entry in parameters_of(kind).items():
        try:
            value = node.declare_parameter(name, _ros(entry.default), _descriptor(entry)).value
        except (InvalidParameterTypeException, InvalidParameterValueException):
            given = getattr(node, '_parameter_overrides', {}).get(name)
            got = None if given is None else given.value
            raise ParameterError(
                f'parameter {name} must be {_allowed(entry)}, such as '
                f'{_yaml(_meant(got, entry))}, got {_yaml(got)}') from None
        if value is None and isinstance(entry.default, tuple):  # what ROS makes of []
            value = entry.default
        values[entry.name] = _checked(name, entry, value)
    return kind(**values)


def expanded(name: str, path: str) -> Path:
    """Return a path with ``~`` replaced; :raises ParameterError: there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ParameterError(
            f'parameter {name} is {path!r}, and there is no such home folder here') from None


def unknown_parameters(node: Node, names: Iterable[str]) -> list[str]:
    """Return a line for each name that the node does not have, with the nearest one it has."""
    lines = []
    for name in sorted(names):
        if node.has_parameter(name) or name.startswith(('qos_overrides.', 'use_sim_time')):
            continue
        near = closest(name, node.get_parameters_by_prefix(''))
        lines.append(f'unknown parameter {name} has no effect' +
                     (f'; did you mean {near}?' if near else ''))
    return lines


def updated(settings: S, changes: Iterable[Parameter], configured: bool) -> S:
    """
    Return the settings with all of the changes, or none.

    :param configured: whether the node is past configuration, so that only dynamic ones change.
    :raises ParameterError: one of the changes is not allowed; the message says which and why.
    """
    known, values = parameters_of(type(settings)), {}
    for change in changes:
        entry = known.get(change.name)
        if entry is None:  # use_sim_time and the like belong to rclpy
            continue
        value = _checked(change.name, entry, change.value)
        unchanged = value == getattr(settings, entry.name)
        if configured and not entry.metadata['dynamic'] and not unchanged:
            raise ParameterError(
                f'{change.name} is fixed once the node is configured; set it while unconfigured '
                '(lifecycle transitions deactivate and cleanup lead there)')
        values[entry.name] = value
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def _meant(given: Any, entry: Field[Any]) -> Any:
    """Return what a value of the wrong type was probably meant to be, else the default."""
    kind, meta = type(entry.default), entry.metadata
    if {kind, type(given)} == {int, float} and meta['low'] <= given <= meta['high']:
        return float(given) if kind is float else int(given)
    if kind is str and isinstance(given, list):
        return ' '.join(map(str, given))
    if kind is tuple and isinstance(given, str):
        return [word.strip() for word in given.split(',')]
    return entry.default


def _ros(value: Any) -> Any:
    """Return a value as ROS has it; a frozen dataclass has tuples for lists."""
    return list(value) if isinstance(value, tuple) else value


def _yaml(value: Any) -> str:
    """Return a value as it is written in a parameter file."""
    return str(value).lower() if isinstance(value, bool) else repr(_ros(value))


def _checked(name: str, entry: Field[Any], value: Any) -> Any:
    kind, meta = type(entry.default), entry.metadata
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    fits = type(value) is kind and (not meta['choices'] or value in meta['choices'])
    if fits and kind in (int, float):  # nan fits in no range
        fits = meta['low'] <= value <= meta['high']
    if not fits:
        raise ParameterError(
            f'parameter {name} must be {_allowed(entry)}, got {_yaml(value)}')
    return value


def _allowed(entry: Field[Any]) -> str:
    meta = entry.metadata
    if meta['choices']:
        return f'one of {list(meta["choices"])}'
    kind = _TYPES[type(entry.default)]
    return kind if meta['low'] is None else f'{kind} in {meta["low"]}..{meta["high"]}'


def _descriptor(entry: Field[Any]) -> ParameterDescriptor:
    meta = entry.metadata
    result = ParameterDescriptor(description=meta['text'])
    notes = [] if meta['dynamic'] else ['only while unconfigured']
    if meta['choices']:
        notes.append(f'one of {list(meta["choices"])}')
    result.additional_constraints = '; '.join(notes)
    if isinstance(entry.default, float):
        result.floating_point_range = [
            FloatingPointRange(from_value=meta['low'], to_value=meta['high'])]
    elif isinstance(entry.default, int) and not isinstance(entry.default, bool):
        result.integer_range = [
            IntegerRange(from_value=meta['low'], to_value=meta['high'], step=1)]
    return result
