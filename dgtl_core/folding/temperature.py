# SPDX-License-Identifier: Apache-2.0
"""What makes the confidence of a network the share of pixels that are right."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Temperature(NamedTuple):
    """
    A temperature for each picture, between two, by how unsure the network is of the picture.

    The distribution of a pixel becomes softmax(log p / T), where p are the scores divided by their
    sum: ``p_k^(1/T) / sum_j p_j^(1/T)``. Of logits that is softmax(logits / T), the temperature of
    Guo et al. (On calibration of modern neural networks, 2017); the scores of a mask classifier
    are no logits, their logarithms are. The largest class stays the largest. T depends on the
    entropy e of the picture, 0..1, the first number of its signature:
    ``T = certain + (uncertain - certain) e``. Pictures of another domain have more of it, and
    their confidence is more exaggerated, so one T for all would be too small for them.
    """

    certain: float    # where the entropy is 0
    uncertain: float  # where it is 1, every class as likely everywhere

    def of(self, entropy: Tensor) -> Tensor:
        """Return the temperatures of pictures from their entropies, both of one shape."""
        return self.certain + (self.uncertain - self.certain) * entropy
