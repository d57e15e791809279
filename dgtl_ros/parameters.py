# SPDX-License-Identifier: Apache-2.0
"""
Every parameter of the segmentation node, in one table: name, default, range, meaning.

A parameter is one field of a frozen dataclass, so a reader always sees a consistent set of values,
and a change replaces the whole set or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from dataclasses import dataclass, Field, field
import difflib
from typing import Any, TYPE_CHECKING, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

S = TypeVar('S')
_TYPES = {str: 'a string', bool: 'true or false', int: 'an integer', float: 'a double'}


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of ``segment_node``; see the text of each."""

    model_path: str = option(
        '', 'Model file (.onnx, .engine or .safetensors); empty: the embedded demonstration model')
    backend: str = option(
        'auto', 'What runs the model', choices=('auto', 'tensorrt', 'torch', 'onnxruntime'))
    device: str = option('auto', 'Where the model runs: auto, cpu, cuda or cuda:N')
    threads: int = option(0, 'CPU threads for one inference; 0: all cores', low=0, high=256)
    resize_mode: str = option(
        'stretch', 'How a picture is brought to the size of the network',
        choices=('stretch', 'letterbox', 'crop'))
    warmup_iterations: int = option(
        3, 'Inferences on an empty picture before the node is ready', low=0, high=100)
    autostart: bool = option(
        True, 'Configure and activate without being told; false: wait for a lifecycle manager')
    image_transport: str = option(
        'raw', 'raw: subscribe to image; compressed: subscribe to image/compressed',
        choices=('raw', 'compressed'))
    image_reliability: str = option(
        'auto', 'Reliability asked of the camera; auto: whatever the camera offers',
        choices=('auto', 'reliable', 'best_effort'), name='qos.image.reliability')
    image_depth: int = option(
        1, 'Pictures that the middleware keeps; more than 1 makes the labels older',
        low=1, high=10, name='qos.image.depth')
    output_reliability: str = option(
        'reliable', 'Reliability offered for the labels', choices=('reliable', 'best_effort'),
        name='qos.output.reliability')
    output_depth: int = option(
        5, 'Label pictures kept for a slow subscriber', low=1, high=20, name='qos.output.depth')
    output_size: str = option(
        'input', "Labels have the camera's size (input) or the network's (network)",
        choices=('input', 'network'))
    confidence_threshold: float = option(
        0.0, 'Pixels below this probability become unlabeled_id', low=0.0, high=1.0, dynamic=True)
    unlabeled_id: int = option(
        255, 'Label of pixels without a class', low=0, high=255, dynamic=True)
    overlay_alpha: float = option(
        0.5, 'Weight of the colours in the overlay', low=0.0, high=1.0, dynamic=True)
    overlay_max_rate: float = option(
        10.0, 'Most overlays per second; 0: no limit', low=0.0, high=60.0, dynamic=True)
    jpeg_quality: int = option(
        80, 'Quality of segmentation/overlay/compressed', low=1, high=100, dynamic=True)
    publish_debug: bool = option(
        True, 'Publish ~/debug/* for whoever subscribes', dynamic=True)
    enabled: bool = option(True, 'Infer; false: drop every picture', dynamic=True)
    max_rate: float = option(
        0.0, 'Most inferences per second; 0: no limit', low=0.0, high=240.0, dynamic=True)
    max_image_age: float = option(
        0.5, 'Seconds by the ROS clock after which a picture is stale; 0: never', low=0.0,
        high=10.0, dynamic=True)
    on_stale: str = option(
        'drop', 'What happens to a stale picture', choices=('drop', 'process'), dynamic=True)
    input_timeout: float = option(
        2.0, 'Seconds without a picture after which the diagnostics report an error', low=0.1,
        high=60.0, dynamic=True)
    latency_warn_ms: float = option(
        100.0, 'Time for one picture above which the diagnostics warn', low=1.0, high=5000.0,
        dynamic=True)
    on_inference_error: str = option(
        'continue', 'What happens after max_consecutive_errors',
        choices=('continue', 'deactivate'))
    max_consecutive_errors: int = option(
        10, 'Failed inferences in a row after which on_inference_error applies', low=1, high=1000)
    snapshot_dir: str = option(
        '~/.ros/dgtl_ros', 'Where ~/snapshot writes picture, labels and statistics', dynamic=True)
    domain_enabled: bool = option(
        True, 'Watch whether the pictures still look like something the model can judge',
        dynamic=True, name='domain.enabled')
    domain_min_mean_confidence: float = option(
        0.6, 'Mean confidence below which the domain counts as shifted', low=0.0, high=1.0,
        dynamic=True, name='domain.min_mean_confidence')
    domain_max_entropy: float = option(
        0.5, 'Estimated normalised entropy above which the domain counts as shifted', low=0.0,
        high=1.0, dynamic=True, name='domain.max_entropy')
    domain_dark_luma: float = option(
        25.0, 'Mean brightness below which a picture counts as dark', low=0.0, high=255.0,
        dynamic=True, name='domain.dark_luma')
    domain_bright_luma: float = option(
        230.0, 'Mean brightness above which a picture counts as overexposed', low=0.0, high=255.0,
        dynamic=True, name='domain.bright_luma')
    domain_blur_laplacian: float = option(
        20.0, 'Variance of the Laplacian below which a picture counts as blurred', low=0.0,
        high=10000.0, dynamic=True, name='domain.blur_laplacian')
    domain_window: int = option(
        30, 'Pictures over which the domain is judged', low=1, high=600, dynamic=True,
        name='domain.window')

    def __post_init__(self) -> None:
        if self.output_size == 'network' and self.resize_mode != 'stretch':
            raise ParameterError(
                f'output_size network shows the whole picture, which resize_mode '
                f'{self.resize_mode} does not: use resize_mode stretch or output_size input')


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
            value = node.declare_parameter(name, entry.default, _descriptor(entry)).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ParameterError(
                f'{error}; {name} must be {_allowed(entry)}, such as {entry.default!r}') from None
        values[entry.name] = _checked(name, entry, value)
    return kind(**values)


def unknown_parameters(node: Node, names: Iterable[str]) -> list[str]:
    """Return a line for each name that the node does not have, with the nearest one it has."""
    lines = []
    for name in sorted(names):
        if node.has_parameter(name) or name.startswith(('qos_overrides.', 'use_sim_time')):
            continue
        close = difflib.get_close_matches(name, node.get_parameters_by_prefix(''), 1)
        lines.append(f'unknown parameter {name} has no effect' +
                     (f'; did you mean {close[0]}?' if close else ''))
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


def _checked(name: str, entry: Field[Any], value: Any) -> Any:
    kind, meta = type(entry.default), entry.metadata
    fits = type(value) is kind and (not meta['choices'] or value in meta['choices'])
    if fits and kind in (int, float):  # nan fits in no range
        fits = meta['low'] <= value <= meta['high']
    if not fits:
        raise ParameterError(f'parameter {name} must be {_allowed(entry)}, got {value!r}')
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
