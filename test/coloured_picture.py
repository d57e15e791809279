# SPDX-License-Identifier: Apache-2.0
"""A picture of a few colours, and what is remarked while it is read."""

from dgtl_ros.image_codec import to_rgb
import numpy as np

COLORS = np.array([(200, 30, 60), (20, 180, 90), (40, 70, 220), (128, 128, 128)], np.uint8)


def quarters():
    """Four flat quarters of 8 x 12 pixels in known colours."""
    image = np.empty((16, 24, 3), np.uint8)
    for i, color in enumerate(COLORS):
        image[i // 2 * 8:][:8, i % 2 * 12:][:, :12] = color
    return image


def remarks(msg):
    """Return the picture of a message and what was said about it."""
    said = []
    return to_rgb(msg, remark=lambda *remark: said.append(remark)), said
