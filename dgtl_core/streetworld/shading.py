# SPDX-License-Identifier: Apache-2.0
"""How bright things are: sun, sky, haze, and the shadows on the ground."""

from __future__ import annotations

import math

import cv2
from dgtl_core.streetworld.camera import Camera
from dgtl_core.streetworld.canvas import Outlines
from dgtl_core.streetworld.scene import Chunk, Foliage, Light, Thing
import numpy as np


def lit(light: Light, albedo: np.ndarray, normal: np.ndarray, distance: np.ndarray,
        flat: np.ndarray | None = None) -> np.ndarray:
    """
    Shade colours by sun, sky and haze.

    Shape: albedo, normal (N, 3), distance (N,) metres, flat (N,) bool -> (N, 3).
    """
    direct = np.maximum(normal @ np.array(light.sun), 0)
    if flat is not None:
        direct = np.where(flat, 0.35, direct)
    sky = light.ambient * (0.72 + 0.28 * normal[:, 1])
    shade = sky[:, None] + (light.sun_strength * direct)[:, None] * np.array(light.warm)
    haze = np.exp(-light.haze * distance)[:, None]
    return albedo * shade * haze + np.array(light.horizon) * (1 - haze)


def ground_light(camera: Camera, light: Light, chunks: list[Chunk], things: list[Thing],
                 plants: list[Foliage], first: int) -> np.ndarray:
    """Share of the light that reaches the ground, from row ``first`` on, (rows, W) float32."""
    strength = light.sun_strength
    dark = int(255 / (1 + 1.25 * strength))
    placed = np.array([(t.x, t.z, *t.shadow, t.tall, math.cos(t.yaw), math.sin(t.yaw))
                       for t in things if t.shadow[0]]).reshape(-1, 7)
    quads, values = [], []
    if strength > 0.05:
        shift = np.array([-light.sun[0] / light.sun[1], -light.sun[2] / light.sun[1]])
        for quad, value in (_house_shadows(chunks, shift, dark),
                            _tree_shadows(plants, shift, dark),
                            _thing_shadows(placed, shift, dark)):
            quads.append(quad)
            values.append(value)
    # under vehicles it is dark in any light
    under = placed[placed[:, 2] > 0.15]
    quads.append(np.stack([_footprints(under, g) for g in (1.12, 0.96)], 1).reshape(-1, 4, 2))
    tone = np.tile([150, 62], len(under))
    slim = np.repeat(under[:, 2] <= 0.4, 2)
    values.append(np.where(slim, (tone + 255) // 2, tone))
    flat = np.concatenate(quads)
    corners = np.zeros((len(flat), 4, 3))
    corners[..., 0], corners[..., 2] = flat[..., 0], flat[..., 1]
    canvas = np.zeros(camera.size, np.uint8)
    outlines = Outlines(camera.to_camera(corners), camera)
    which = np.flatnonzero(outlines.visible)
    outlines.fill(canvas, which.tolist(), np.concatenate(values)[which].tolist())
    shade = canvas[first:]
    mask = cv2.blur(np.where(shade > 0, shade, 255).astype(np.uint8), (5, 3))
    return mask.astype(np.float32) * (1 / 255)


def _house_shadows(chunks: list[Chunk], shift: np.ndarray,
                   dark: int) -> tuple[np.ndarray, np.ndarray]:
    """Four swept walls and the roof of each footprint, (N, 4, 2) on the ground."""
    rows = np.array([s for chunk in chunks for s in chunk.shades], np.float64).reshape(-1, 5)
    x0, x1, z0, z1, high = rows.T
    move = high[:, None] * shift
    quads = []
    for xa, za, xb, zb in ((x0, z0, x0, z1), (x1, z0, x1, z1), (x0, z0, x1, z0), (x0, z1, x1, z1)):
        a, b = np.stack([xa, za], 1), np.stack([xb, zb], 1)
        quads.append(np.stack([a, b, b + move, a + move], 1))
    roof = [np.stack([x, z], 1) + move for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))]
    quads.append(np.stack(roof, 1))
    out = np.stack(quads, 1).reshape(-1, 4, 2)
    return out, np.full(len(out), dark)


def _tree_shadows(plants: list[Foliage], shift: np.ndarray,
                  dark: int) -> tuple[np.ndarray, np.ndarray]:
    """Each crown as an octagon of three quads, (N, 4, 2) on the ground."""
    trees = [p for p in plants if p.height > 3 and p.layer > 0 and abs(p.x) < 30]
    rows = np.array([(p.x, p.z, p.width * 0.36, p.height * 0.62) for p in trees], np.float64)
    rows = rows.reshape(-1, 4)
    a = np.arange(8) * math.pi / 4
    w = rows[:, 2:3]
    cx, cz = rows[:, 0] + shift[0] * rows[:, 3], rows[:, 1] + shift[1] * rows[:, 3]
    ring = np.stack([cx[:, None] + w * np.cos(a) + shift[0] * w * 0.5 * np.cos(a - 0.6),
                     cz[:, None] + w * np.sin(a) + shift[1] * w * 0.5 * np.sin(a)], 2)
    quads = np.stack([ring[:, [k, k + 1, 6 - k, (7 - k) % 8]] for k in range(3)], 1)
    thin = np.repeat([p.plant.kind == 'bare' for p in trees], 3).astype(bool)
    return quads.reshape(-1, 4, 2), np.where(thin, (255 + dark * 2) // 3, dark)


def _thing_shadows(rows: np.ndarray, shift: np.ndarray,
                   dark: int) -> tuple[np.ndarray, np.ndarray]:
    """The cast shadow of boxes: their four swept sides and the top, (N, 4, 2) on the ground."""
    rows = rows[rows[:, 4] != 0]
    base = _footprints(rows, 1.0)
    top = base + (rows[:, 4:5] * shift)[:, None]
    quads = [np.stack([base[:, i - 1], base[:, i], top[:, i], top[:, i - 1]], 1) for i in range(4)]
    out = np.stack([*quads, top], 1).reshape(-1, 4, 2)
    return out, np.full(len(out), dark)


def _footprints(rows: np.ndarray, grow: float) -> np.ndarray:
    """Corners (N, 4, 2); rows: x, z, half width, half length, height, cos and sin of the yaw."""
    x, z, w, n, _, c, s = (column[:, None] for column in rows.T)
    u = w * grow * np.array([-1, 1, 1, -1])
    v = n * grow * np.array([-1, -1, 1, 1])
    return np.stack([x + c * u + s * v, z - s * u + c * v], 2)
