# SPDX-License-Identifier: Apache-2.0
"""A recipe: all that a training run depends on. A recipe file holds only differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any, Literal

from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.data.transforms import TransformConfig
from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.optim import OptimConfig
from dgtl_core.model.checkpoint import read_header
from dgtl_core.strict import from_dict, override, parse_yaml, read_yaml, shown, to_dict

_FREE = ('cache', 'evaluation', 'save_every', 'steps', 'workers')  # to change at a resume


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured while training."""

    data: tuple[str, ...] = ()  # as on the command line of training.evaluate
    every: int = 2000  # steps; also after the last one
    limit: int = 0  # pictures of each; 0: all
    protocol: Literal['whole', 'slide', 'low', 'high', 'vltseg'] = 'whole'  # see training.evaluate

    def __post_init__(self) -> None:
        if self.every < 1 or self.limit < 0:
            raise ValueError(
                'evaluation.every must be positive and evaluation.limit not negative, got '
                f'{self.every} and {self.limit}')


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; with the same recipe, machine and process count it repeats exactly."""

    name: str
    preset: str  # of the model; see dgtl_core.config.PRESETS
    model: dict[str, Any] = field(default_factory=dict)  # differences to the preset
    init: str = ''  # a checkpoint to start from, as far as its tensors fit
    thin: bool = False  # init is a wider model, of which each layer takes evenly spread channels
    # A checkpoint that sees the pictures clean and says what is in them, also where all labels
    # are 255; the student sees them as ``transforms`` distorts them.
    teacher: str = ''
    data: tuple[str, ...] = ()  # sources, mixed by their number of pictures
    cache: bool = False  # keep decoded pictures in the output folder (each data set of one size)
    workers: int = 4  # processes that load pictures, for each training process
    steps: int = 40000
    batch: int = 4  # pictures of a step over all processes; must divide by them
    accumulate: int = 1  # parts into which a process splits its share of a batch
    seed: int = 0
    precision: Literal['auto', 'bf16', 'fp32'] = 'auto'
    transforms: TransformConfig = field(default_factory=TransformConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    average: float = 0.0  # decay of a moving average of the weights; 0: none
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    save_every: int = 1000

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.accumulate, self.save_every) < 1:
            raise ValueError(
                'steps, batch, accumulate and save_every must be positive, got '
                f'{self.steps}, {self.batch}, {self.accumulate}, {self.save_every}')
        if min(self.seed, self.workers) < 0:
            raise ValueError(
                f'seed and workers must not be negative, got {self.seed} and {self.workers}')
        for spec in (*self.data, *self.evaluation.data):
            if '=' in spec.partition(':')[0]:  # YAML has split it off at the comma
                raise ValueError(
                    f'{spec!r} is no data set; an option stands with its own, and the two in '
                    'quotes: data=["NAME:FOLDER,key=value"]')
        if not 0 <= self.average < 1:
            raise ValueError(f'average must be in [0, 1), got {self.average}')

    def segmenter(self) -> SegmenterConfig:
        """Return the model's configuration: the preset with the recipe's differences."""
        return override(preset(self.preset), self.model)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """
    Read a recipe file, the file that its key ``base`` names first, and ``key=value`` changes.

    :raises ValueError: a key or a value that a recipe does not have; the message says which.
    """
    merged: dict[str, Any] = {}
    content = _read(path)
    base = content.pop('base', None)
    if base is not None:
        parent = _read(path.parent / str(base))
        if 'base' in parent:
            raise ValueError(f'{path}: its base {base} must not have a base of its own')
        merged = parent
    _merge(merged, content)
    for change in changes:
        key, separator, value = change.partition('=')
        if not separator:
            raise ValueError(f'a change must be key=value, like optim.lr=1e-4; got {change!r}')
        try:
            nested: Any = parse_yaml(value) if value else ''
        except ValueError as error:
            raise ValueError(f'the value of {change!r} is not YAML: {error}') from None
        for part in reversed(key.strip().split('.')):
            nested = {part: nested}
        _merge(merged, nested)
    merged.setdefault('name', path.stem)
    try:
        recipe = from_dict(Recipe, merged)
        recipe.segmenter()
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    return recipe


def changes(before: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return what a run began with, by its header, and does not go on with; a line for each."""
    return _differences(before, json.loads(json.dumps(to_dict(recipe))), '')


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[str]:
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if where + key in _FREE:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f'{where}{key}.')
        elif old != new:
            lines.append(f'{where}{key} {old!r}, now it is {new!r}')
    return lines


def check_files(recipe: Recipe) -> None:
    """
    Find out before pictures are drawn or decoded whether the files to start from can be used.

    :raises ValueError: one is missing or of another kind; the message says what makes it.
    """
    config = recipe.segmenter()
    weights = config.backbone.weights
    for path, key, maker in (
            (recipe.init, 'init', 'training.train'),
            (recipe.teacher, 'teacher', 'training.train'),
            ('' if weights == 'timm' or recipe.init else weights,  # init has them, mostly
             'model.backbone.weights', 'training.pretrain'),
            ('' if config.adapter.text_link == 'off' else config.text.file, 'model.text.file',
             'training.embed_classes')):
        if path and not Path(path).exists():
            raise ValueError(
                f'there is no file {path}, which {key} names; python -m {maker} makes one '
                '(docs/train.md)')
    for path, key in ((recipe.init, 'init'), (recipe.teacher, 'teacher')):
        if path:
            try:
                read_header(Path(path))
            except ValueError as error:
                raise ValueError(f'{key}: {error}') from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f'there is no recipe {path}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be a mapping of keys to values, got '
                         f'{shown(content)}')
    return content


def _merge(into: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        inside = into.get(key)
        if isinstance(value, Mapping) and isinstance(inside, dict) \
                and value.get('kind') in (None, inside.get('kind')):
            _merge(inside, value)
        else:  # another kind of head shares nothing with the one before
            into[key] = value
