# SPDX-License-Identifier: Apache-2.0
"""What is said of a class to CLIP, and one embedding out of several of its texts."""

from __future__ import annotations

from dgtl_core.classes import ClassSet
from torch import Tensor
import torch.nn.functional as F

# Of CLIP's prompt templates those that fit a street scene.
TEMPLATES = (
    'a photo of a {}.', 'a photo of the {}.', 'a photo of a {} on the street.',
    'a photo of a {} in the city.', 'a blurry photo of a {}.', 'a dark photo of a {}.',
    'a bright photo of a {}.', 'a photo of a {} at night.', 'a photo of a {} in fog.',
    'a photo of a {} in the rain.', 'a photo of a {} in the snow.', 'a rendering of a {}.')


def texts_of(classes: ClassSet, ensemble: bool) -> list[list[str]]:
    """Return the texts of each class: its bare words, or each of them in each template."""
    words = [list(entry.prompts) or [entry.name] for entry in classes]
    if not ensemble:
        return words
    return [[template.format(word) for word in row for template in TEMPLATES] for row in words]


def pooled(embedded: Tensor, raw: bool = False) -> Tensor:
    """
    Return the mean of the unit embeddings of a class's texts, as a unit vector.

    Shape: (T, D) -> (D,).

    :param raw: the plain mean, nothing normalised.
    """
    if raw:
        return embedded.mean(dim=0)
    return F.normalize(F.normalize(embedded, dim=-1).mean(dim=0), dim=-1)
