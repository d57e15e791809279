# SPDX-License-Identifier: Apache-2.0
"""The pictures of a recipe, checked, and cached where it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.data.catalog import join, open_named
from dgtl_core.data.checks import check
from dgtl_core.data.datasets import Pictures
from dgtl_core.learning.batches import cached
from dgtl_core.learning.recipe import Recipe

Say = Callable[[str], object]  # called with a line for whoever should look at the data


def sources(recipe: Recipe) -> tuple[str, ...]:
    """
    Return what the recipe learns from.

    :raises ValueError: that is nothing.
    """
    if not recipe.data:
        raise ValueError(f'recipe {recipe.name} names no data; give some with --set data=[NAME]')
    return recipe.data


def to_learn_from(recipe: Recipe, cache: Path, say: Say) -> Pictures:
    """
    Return the pictures of all sources, mixed.

    :param cache: the folder where decoded pictures are kept.
    :raises ValueError: there are none, or they cannot be learned from.
    """
    return _ready(join(sources(recipe)), recipe, cache, say, unlabelled=bool(recipe.teacher))


def to_test_on(recipe: Recipe, classes: ClassSet, cache: Path, say: Say) -> dict[str, Pictures]:
    """
    Return the data sets that are measured while training, by name.

    :raises ValueError: one has other classes than those that are learned, or cannot be read.
    """
    settings = recipe.evaluation
    tests = open_named(settings.data)
    for name, pictures in tests.items():
        if pictures.classes.names != classes.names:
            raise ValueError(
                f'{name} has other classes than the training data: '
                f'{", ".join(pictures.classes.names)} instead of {", ".join(classes.names)}')
    return {name: _ready(pictures, recipe, cache, say, limit=settings.limit)
            for name, pictures in tests.items()}


def _ready(pictures: Pictures, recipe: Recipe, cache: Path, say: Say, *, limit: int = 0,
           unlabelled: bool = False) -> Pictures:
    for line in check(pictures, limit, unlabelled=unlabelled):
        say(line)
    return cached(pictures, cache, recipe.workers) if recipe.cache else pictures
