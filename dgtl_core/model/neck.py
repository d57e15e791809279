# SPDX-License-Identifier: Apache-2.0
"""Four scales from the one scale of a vision transformer."""

from __future__ import annotations

from torch import nn, Tensor

# What the plain pyramid multiplies the patch grid by; the pixel decoder resizes by itself, after
# its projections, where it is cheap.
INTERPOLATE = (4.0, 2.0, 1.0, 0.5)


class BeitNeck(nn.Module):
    """
    The pyramid of BEiT: transposed convolutions up, max-pooling down (facts V8, V9 and V10).

    In eval mode the batch norm uses its running statistics.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2), nn.BatchNorm2d(dim), nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, stride=2))
        self.up2 = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.down2 = nn.MaxPool2d(2)  # an odd grid loses its last row or column

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Shape: four of (B, C, h, w) -> 4, 2, 1 and 1/2 times h x w."""
        return [self.up4(features[0]), self.up2(features[1]), features[2],
                self.down2(features[3])]
