# SPDX-License-Identifier: Apache-2.0
"""What a folded network gives: the predictions of its last layer, and what its encoder saw."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Prediction(NamedTuple):
    """
    Masks with their classes, and the patch features of the encoder at two depths.

    Without ``classes`` there is one mask per class, and a softmax over them is the distribution
    of a pixel.
    """

    classes: Tensor | None  # (B, Q, K + 1), the last class means "no object"
    masks: Tensor           # (B, Q, h, w), before the sigmoid; (B, K, h, w) without classes
    middle: Tensor          # (B, N, C), after the block at half depth, without prefix tokens
    last: Tensor            # (B, N', C'), after the last block
