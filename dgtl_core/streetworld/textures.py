# SPDX-License-Identifier: Apache-2.0
"""Textures of walls, fences, roofs, ground and sky. Each is drawn once, then kept."""

from __future__ import annotations

from functools import lru_cache
import random

import cv2
from dgtl_core.streetworld.masonry import (
    bricks,
    Front,
    noise,
    patch,
    pyramid,
    shifted,
    Texture,
    WALL_COLORS,
)
import numpy as np

NUM_WALLS = 14
NUM_FENCES = 14
NUM_ROOFS = 8


@lru_cache(maxsize=NUM_WALLS)
def wall(index: int) -> Texture:
    """Garden, retaining or noise wall number ``index``, 4 m wide."""
    rng = random.Random(f'wall {index}')
    width, height = 4.0, rng.uniform(1.4, 3.0)
    front = Front(rng, width, height)
    style = rng.choice(('brick', 'brick', 'stone', 'panel', 'stucco'))
    tone = shifted(rng, rng.choice(WALL_COLORS[style]), 0.2)
    front.image[:] = tuple(c * 0.85 for c in tone)
    h, w = front.h, front.w
    gain = 0.07 * patch(rng, 4, 1.0, h, w) + 0.05 * patch(rng, 5, 0.3, h, w)
    if style in ('brick', 'stone'):
        cells = bricks(rng, h, w, rng.uniform(0.08, 0.15))
        if style == 'stone':
            cells = cv2.resize(cells[: h // 3 + 1, : w // 3 + 1], (w, h),
                               interpolation=cv2.INTER_NEAREST)
        gain = gain + cells
    if style == 'panel':
        gain[:: h // rng.randint(1, 4)] -= 0.35
        gain[:, :: w // rng.randint(1, 3)] -= 0.35
    front.image *= 1 + gain[..., None]
    if rng.random() < 0.2:  # graffiti
        for _ in range(rng.randint(2, 5)):
            points = np.array([[rng.randrange(w), h * 0.3 + rng.random() * h * 0.5]
                               for _ in range(5)])
            cv2.polylines(front.image, [points.astype(np.int32)], False,
                          [rng.uniform(20, 220) for _ in range(3)], rng.randint(2, 6), cv2.LINE_AA)
    front.box(0, height - 0.15, width, height, tuple(c * rng.uniform(0.8, 1.1) for c in tone))
    slope = np.linspace(1.05, 0.8, h, dtype=np.float32)[:, None, None]
    stain = 0.1 * patch(rng, 6, 1.5, h, w)[..., None]
    return Texture(width, height,
                   pyramid(np.clip(front.image * (slope + stain), 0, 255).astype(np.uint8)))


@lru_cache(maxsize=NUM_FENCES)
def fence(index: int) -> Texture:
    """Railing, picket, mesh or board fence number ``index``, 4 m wide, with what is behind."""
    rng = random.Random(f'fence {index}')
    kind = ('railing', 'picket', 'mesh', 'boards', 'rails')[index % 5]
    width, height = 4.0, rng.uniform(0.9, 1.3) if kind != 'mesh' else rng.uniform(1.4, 2.2)
    front = Front(rng, width, height)
    back = rng.choice(((72, 82, 52), (60, 62, 56), (86, 92, 62), (70, 68, 64), (48, 56, 42)))
    h, w = front.h, front.w
    front.image[:] = back
    front.image *= 1 + 0.25 * patch(rng, 7, 1.0, h, w)[..., None]
    metal = shifted(rng,
                    rng.choice(((30, 34, 34), (40, 40, 44), (150, 152, 152), (200, 198, 190),
                                (34, 52, 40), (120, 120, 118))), 0.15)
    wood = shifted(rng,
                   rng.choice(((120, 92, 66), (140, 122, 100), (200, 196, 186), (92, 76, 60))),
                   0.15)
    if kind == 'railing':
        for i in range(32):
            front.box(i * 0.125 + 0.04, 0, i * 0.125 + 0.075, height, metal)
        for y in (0.1, height - 0.12):
            front.box(0, y, width, y + 0.07, metal)
        front.box(0, 0, 0.12, height, metal)
    elif kind == 'picket':
        for i in range(20):
            front.box(i * 0.2 + 0.03, 0, i * 0.2 + 0.15, height - (i % 2) * 0.04, wood)
        for y in (0.2, height - 0.3):
            front.box(0, y, width, y + 0.1, tuple(c * 0.8 for c in wood))
    elif kind == 'mesh':
        for i in range(-h // 6, w // 6 + 1):
            for sign in (1, -1):
                start = (i * 6, 0) if sign > 0 else (i * 6 + h, 0)
                cv2.line(front.image, start, (start[0] + sign * h, h), metal, 1, cv2.LINE_AA)
        for x in (0.0, 2.0):
            front.box(x, 0, x + 0.1, height, metal)
        front.box(0, height - 0.06, width, height, metal)
    elif kind == 'boards':
        for i in range(16):
            gain = rng.uniform(0.8, 1.1)
            front.box(i * 0.25, 0, i * 0.25 + 0.235, height, tuple(c * gain for c in wood))
    else:
        for x in (0.0, 2.0):
            front.box(x, 0, x + 0.14, height, wood)
        for i in range(3):
            y = height * (0.25 + 0.3 * i)
            front.box(0, y, width, y + 0.13, wood)
    image = np.clip(front.image * (1 + 0.05 * patch(rng, 8, 0.5, h, w)[..., None]), 0, 255)
    return Texture(width, height, pyramid(image.astype(np.uint8)))


@lru_cache(maxsize=NUM_ROOFS)
def roof(index: int) -> Texture:
    """Tiles or slates, 4 m x 4 m."""
    rng = random.Random(f'roof {index}')
    front = Front(rng, 4, 4)
    front.image[:] = shifted(rng,
                             rng.choice(((92, 92, 98), (70, 72, 78), (122, 74, 58), (104, 84, 70),
                                         (140, 90, 66), (84, 80, 78))), 0.15)
    gain = bricks(rng, front.h, front.w, 0.08) + 0.1 * patch(rng, 9, 1.2, front.h, front.w)
    return Texture(4, 4,
                   pyramid(np.clip(front.image * (1 + gain[..., None]), 0, 255).astype(np.uint8)))


def _tile(field: np.ndarray) -> np.ndarray:
    """Repeat the first row and column at the end, so that a tile can be interpolated."""
    return np.pad(field, ((0, 1), (0, 1)), mode='wrap').astype(np.float32)


@lru_cache(maxsize=1)
def grain() -> np.ndarray:
    """Fine grain of asphalt and soil, one tile, (513, 513) float32, mean 0."""
    return _tile(np.clip(0.75 * noise(20, 512, 0.15) + 0.5 * noise(21, 512, 0.8), -3, 3))


@lru_cache(maxsize=1)
def stains() -> np.ndarray:
    """Large patches, one tile, (513, 513) float32, mean 0."""
    return _tile(np.clip(noise(22, 512, 1.3), -2.5, 2.5))


@lru_cache(maxsize=1)
def paving() -> np.ndarray:
    """Slabs with joints, one tile of 16 x 16 slabs, (513, 513) float32, mean about 0."""
    rng = np.random.default_rng(23)
    tile = np.repeat(np.repeat(rng.normal(0, 0.7, (16, 16)), 32, 0), 32, 1).astype(np.float32)
    tile[::32] = tile[1::32] = -3
    for row in range(16):
        tile[row * 32:(row + 1) * 32, (row % 2) * 16::32] = -2.5
    return _tile(cv2.GaussianBlur(tile, (0, 0), 0.8))


@lru_cache(maxsize=1)
def clouds() -> np.ndarray:
    """Cloud density, one tile, (513, 513) float32, mean 0, deviation 1."""
    return _tile(noise(24, 512, 1.7))


@lru_cache(maxsize=8)
def unevenness(size: tuple[int, int]) -> np.ndarray:
    """Gain of every surface over a picture of this size, (H, W) uint8, 128 means one."""
    field = 0.6 * noise(25, 512, 0.9) + 0.5 * noise(26, 512, 0.2)
    tile = np.clip(128 + 7 * field, 0, 255).astype(np.uint8)
    return np.tile(tile, (-(-size[0] // 512), -(-size[1] // 512)))[:size[0], :size[1]]


def draw_all() -> None:
    """Draw every texture now (about half a second), so that none has to be drawn later."""
    for function, count in ((wall, NUM_WALLS), (fence, NUM_FENCES), (roof, NUM_ROOFS)):
        for index in range(count):
            function(index)
