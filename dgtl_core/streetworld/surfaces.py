# SPDX-License-Identifier: Apache-2.0
"""What has no faces of its own: the sky, and the texture of the ground."""

from __future__ import annotations

import cv2
from dgtl_core.streetworld import textures
from dgtl_core.streetworld.camera import Camera, Ground
from dgtl_core.streetworld.scene import Light, NUM_MATERIALS
import numpy as np


def sample(tile: np.ndarray, x: np.ndarray, z: np.ndarray,
           scale: tuple[float, float]) -> np.ndarray:
    """Look up a tile that repeats for ever at places in metres; ``scale`` in pixels per metre."""
    return cv2.remap(tile, _wrapped(x, scale[0]), _wrapped(z, scale[1]), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


def _wrapped(values: np.ndarray, scale: float) -> np.ndarray:
    """Coordinates inside the tile of 512 pixels; cv2.remap is slow outside of it."""
    values = values * np.float32(scale / 512)
    values -= np.floor(values)
    values *= 512
    return values


def draw_sky(camera: Camera, light: Light) -> np.ndarray:
    """The sky down to the horizon, (rows, W, 3) uint8."""
    rows, width = max(1, camera.horizon[1]), camera.size[1]
    dx, dy = light.cloud_shift
    # rows are compressed towards the horizon, as on a flat ceiling
    down = (rows - np.arange(rows, dtype=np.float32)) / camera.focal
    v = (light.cloud_size * 60 / (down + 0.12) + dy)[:, None]
    u = (np.arange(width, dtype=np.float32) - width / 2)[None] / camera.focal
    u = u * light.cloud_size * 160 / (down[:, None] + 0.3) + dx
    field = sample(textures.clouds(), u, np.broadcast_to(v, u.shape), (1, 1))
    alpha = np.clip((field + (light.cover * 4 - 2)) * 0.7, 0, 1)
    t = np.clip(down / 0.55, 0, 1)[:, None] ** 0.7
    relief = 1 + 0.05 * np.clip(field, -2, 2) * (0.3 + light.cover)
    planes = []
    for c in range(3):
        clear = light.horizon[c] + (light.zenith[c] - light.horizon[c]) * t
        planes.append(np.clip(clear + alpha * (light.cloud[c] * relief - clear), 0, 255))
    return cv2.merge(planes).astype(np.uint8)


def paint_texture(image: np.ndarray, faces: np.ndarray, ground: Ground, light: Light,
                  reaching: np.ndarray) -> None:
    """
    Give the ground grain, stains, slabs and shadows, and everything else a little unevenness.

    ``reaching`` (rows, W) is the share of the light that reaches the ground; ``image`` is changed.
    """
    first, x, z, depth = ground
    if first >= len(faces):
        return
    below = faces[first:]
    numbers = np.where(below < NUM_MATERIALS, below, 0)
    grain, stain, slab = (np.array([getattr(m, name) for m in light.materials], np.float32)
                          for name in ('grain', 'stains', 'slabs'))
    fade = np.minimum(1, 14 / depth)  # far away, fine grain is averaged out
    fine = sample(textures.grain(), x, z, (70, 36))
    coarse = sample(textures.stains(), x, z, (22, 5))
    gain = 1 + grain.take(numbers) * fine * fade + stain.take(numbers) * coarse
    paved = slab.take(numbers)
    rows = np.flatnonzero(paved.any(1))
    if len(rows):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        joints = sample(textures.paving(), x[part], z[part], (50, 50))
        gain[part] += paved[part] * joints * np.minimum(1, 9 / depth[part])
    gain *= reaching
    np.clip(gain * 128, 0, 255, out=gain)
    whole = textures.unevenness(faces.shape).copy()
    np.copyto(whole[first:], gain.astype(np.uint8), where=numbers > 0)
    cv2.multiply(image, cv2.merge([whole] * 3), image, 1 / 128)
