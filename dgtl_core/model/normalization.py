# SPDX-License-Identifier: Apache-2.0
"""Pixel values as a network takes them."""

from __future__ import annotations

from dgtl_core.config import SegmenterConfig
import torch
from torch import nn, Tensor


class Normalization(nn.Module):
    """Less the mean, divided by the deviation, of each channel; no part of a checkpoint."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        for name, values in (('mean', config.mean), ('std', config.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        """Shape: (..., 3, H, W), RGB 0..255 -> the same, float32."""
        return (pictures - self.mean) / self.std
