# SPDX-License-Identifier: Apache-2.0
"""Score a model on labelled pictures."""

from __future__ import annotations

from collections.abc import Callable

from dgtl_core.data.datasets import Pictures
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.processing import place, to_input, to_source
import numpy as np
import torch
from torch import Tensor

Labeler = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB -> (H, W) uint8 labels


def score(label: Labeler, pictures: Pictures, limit: int = 0, first: int = 0,
          stride: int = 1) -> ConfusionMatrix:
    """Return the confusion matrix over every ``stride``-th of ``limit`` pictures (0: all)."""
    matrix = ConfusionMatrix(len(pictures.classes))
    for index in range(first, min(limit or len(pictures), len(pictures)), stride):
        picture = pictures[index]
        matrix.update(label(picture.image), picture.labels)
    return matrix


def labeler(model: Segmenter, device: torch.device, dtype: torch.dtype) -> Labeler:
    """Return a function that labels a picture, stretched to the model's input size."""
    config = model.config
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (config.mean, config.std))

    @torch.inference_mode()
    def label(image: np.ndarray) -> np.ndarray:
        placement = place(image.shape[:2], config.input_size, 'stretch')
        resized = torch.from_numpy(to_input(image, placement)).to(device).permute(2, 0, 1)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores: Tensor = model.scores(((resized - mean) / std)[None])
        return to_source(scores[0].argmax(0).to(torch.uint8).cpu().numpy(), placement)

    return label
