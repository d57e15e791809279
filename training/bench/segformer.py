# SPDX-License-Identifier: Apache-2.0
"""SegFormer-B0 (Xie et al., NeurIPS 2021) with random weights, to be timed beside our models."""

from __future__ import annotations

import time

from dgtl_core.config import SegmenterConfig
from dgtl_core.model.normalization import Normalization
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from training.bench.contenders import Contender, Size, TorchCall

NAME = 'SegFormer-B0'


class SegFormer(nn.Module):
    """From uint8 pictures to labels, as our networks: normalised, scored, resized, labelled."""

    def __init__(self) -> None:
        """
        Make the network of transformers, whose default configuration is B0.

        :raises ImportError: transformers is not installed.
        """
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        torch.manual_seed(0)
        about = SegmenterConfig()
        self.network = SegformerForSemanticSegmentation(
            SegformerConfig.from_dict({'num_labels': about.num_classes}))
        self.normalize = Normalization(about)

    def forward(self, pictures: Tensor) -> Tensor:
        """Shape: (B, H, W, 3) uint8 -> (B, H, W) uint8."""
        images = self.normalize(pictures.permute(0, 3, 1, 2))
        logits = self.network(pixel_values=images).logits  # 1/4 of the picture
        large = F.interpolate(logits, images.shape[2:], mode='bilinear', align_corners=False)
        return large.argmax(dim=1).to(torch.uint8)


def segformer(size: Size, dtype: torch.dtype = torch.float32) -> Contender:
    """
    Return it as a contender on the CPU.

    :param dtype: what it multiplies in; of 16 bits by autocast.
    :raises ImportError: as above.
    """
    start = time.perf_counter()
    network = SegFormer().eval().requires_grad_(False)
    device = torch.device('cpu')
    autocast = None if dtype == torch.float32 else dtype
    return Contender(NAME, TorchCall(network, device, autocast), size, 16,
                     time.perf_counter() - start, network=network, device=device)
