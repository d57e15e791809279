# SPDX-License-Identifier: Apache-2.0
"""Cut-out pictures of trees and bushes: brightness and mask, drawn once, coloured per plant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import math
import random

import cv2
from dgtl_core.streetworld.masonry import noise, pyramid, Texture
import numpy as np

NUM_LEAFY = 28
NUM_BARE = 16
NUM_BUSHES = 10
NUM_HEDGES = 6
SIZE = 384


@dataclass(frozen=True)
class Plant:
    """
    A cut-out, (H, W, 3) uint8 at several sizes.

    Channel 0: brightness, 1: mask (255 inside), 2: how much the sky shines through (bare trees).
    """

    aspect: float  # width / height
    levels: tuple[np.ndarray, ...]
    kind: str


def _rolled(rng: random.Random, kind: int, exponent: float) -> np.ndarray:
    field = np.roll(noise(kind, 512, exponent), (rng.randrange(512), rng.randrange(512)), (0, 1))
    return field[:SIZE, :SIZE]


def _finish(brightness: np.ndarray, mask: np.ndarray, through: np.ndarray, kind: str,
            aspect: float) -> Plant:
    picture = np.dstack([np.clip(brightness, 0, 255), mask, through]).astype(np.uint8)
    return Plant(aspect, pyramid(picture, 6), kind)


def _crown(rng: random.Random, centre: tuple[float, float], radius: tuple[float, float],
           blobs: int) -> np.ndarray:
    """Height field of a crown: the union of balls, (SIZE, SIZE), 0 outside."""
    field = np.zeros((SIZE, SIZE), np.float32)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    for _ in range(blobs):
        angle, reach = rng.uniform(0, math.tau), math.sqrt(rng.random()) * 0.72
        u = centre[0] + radius[0] * reach * math.cos(angle)
        v = centre[1] + radius[1] * reach * math.sin(angle)
        r = rng.uniform(0.28, 0.5) * min(radius)
        ball = 1 - ((x - u) ** 2 + (y - v) ** 2) / (r * r)
        np.maximum(field, np.sqrt(np.maximum(ball, 0)) * (0.75 + 0.4 * (1 - reach)), out=field)
    return field


def _leaves(rng: random.Random, field: np.ndarray, rough: float) -> tuple[np.ndarray, np.ndarray]:
    leaf = _rolled(rng, 30, 0.35)
    clump = _rolled(rng, 31, 1.1)
    solid = (field + rough * (0.1 * leaf + 0.14 * clump)) > 0.24
    solid &= field > 0.02
    light = cv2.GaussianBlur(field, (0, 0), 9)
    slope = light - np.roll(light, -10, 0)  # lit from above
    brightness = 112 + 200 * slope + 34 * clump + 36 * leaf
    return brightness, solid


@lru_cache(maxsize=NUM_LEAFY)
def leafy(index: int) -> Plant:
    """A tree in leaf; round, tall or a conifer."""
    rng = random.Random(f'leafy {index}')
    shape = rng.choice(('round', 'round', 'tall', 'wide', 'conifer'))
    top, base = SIZE * 0.03, SIZE * rng.uniform(0.66, 0.82)
    if shape == 'conifer':
        y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
        width = np.maximum((y - top) / (SIZE * 0.9 - top), 0) * SIZE * 0.4
        width = width * (0.8 + 0.25 * np.sin(y / rng.uniform(9, 16)))
        field = np.where(y < SIZE * 0.9,
                         np.maximum(1 - np.abs(x - SIZE / 2) / np.maximum(width, 1), 0), 0)
        field = np.sqrt(field).astype(np.float32)
    else:
        middle = ((top + base) / 2, (base - top) / 2)
        wide = {'round': 0.42, 'tall': 0.36, 'wide': 0.48}[shape]
        field = _crown(rng, (SIZE / 2, middle[0]), (SIZE * wide, middle[1]), rng.randint(16, 30))
    brightness, solid = _leaves(rng, field, rng.uniform(0.8, 1.6))
    trunk = np.zeros((SIZE, SIZE), np.uint8)
    thick = rng.randint(9, 18)
    cv2.fillConvexPoly(trunk,
                       np.array([[SIZE // 2 - thick // 3, int(base * 0.6)],
                                 [SIZE // 2 + thick // 3, int(base * 0.6)],
                                 [SIZE // 2 + thick // 2 + 2, SIZE - 1],
                                 [SIZE // 2 - thick // 2 - 2, SIZE - 1]]), 255)
    only_trunk = (trunk > 0) & ~solid
    brightness = np.where(only_trunk, 36 + 8 * _rolled(rng, 32, 0.6), brightness)
    mask = np.where(solid | only_trunk, 255, 0)
    aspect = {'round': 0.95, 'tall': 0.6, 'wide': 1.15, 'conifer': 0.55}[shape]
    return _finish(brightness, mask, np.zeros((SIZE, SIZE)), 'leafy',
                   aspect * rng.uniform(0.9, 1.1))


def _branch(rng: random.Random, canvas: np.ndarray, x: float, y: float, angle: float,
            length: float, thick: float, depth: int) -> None:
    if depth == 0 or length < 4:
        return
    u, v = x + length * math.sin(angle), y - length * math.cos(angle)
    cv2.line(canvas, (round(x * 16), round(y * 16)), (round(u * 16), round(v * 16)), 255,
             max(1, round(thick)), cv2.LINE_AA, 4)
    for _ in range(rng.choice((2, 3, 3))):
        _branch(rng, canvas, u, v, angle + rng.gauss(0, 0.42), length * rng.uniform(0.62, 0.86),
                thick * 0.62, depth - 1)
    if depth > 3:
        along = rng.uniform(0.4, 0.8)
        _branch(rng, canvas, x + (u - x) * along, y + (v - y) * along, angle + rng.choice((-1, 1))
                * rng.uniform(0.5, 0.9), length * 0.6, thick * 0.5, depth - 2)


@lru_cache(maxsize=NUM_BARE)
def bare(index: int) -> Plant:
    """A tree in winter: twigs, and between the finest ones the sky shines through."""
    rng = random.Random(f'bare {index}')
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    _branch(rng, canvas, SIZE / 2, SIZE - 1, rng.gauss(0, 0.04), SIZE * rng.uniform(0.2, 0.27),
            rng.uniform(9, 17), 8)
    closed = cv2.morphologyEx(canvas, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    near = cv2.dilate((closed > 70).astype(np.uint8), np.ones((3, 3), np.uint8))
    mask = near * 255
    density = np.clip(canvas.astype(np.float32) * 1.25, 0, 255)
    brightness = 60 + 18 * _rolled(rng, 33, 0.6) - 0.1 * density
    return _finish(brightness, mask, (255 - density) * 0.5 * near, 'bare', rng.uniform(0.85, 1.1))


@lru_cache(maxsize=NUM_BUSHES)
def bush(index: int) -> Plant:
    """A bush that stands on the ground."""
    rng = random.Random(f'bush {index}')
    field = _crown(rng, (SIZE / 2, SIZE * 0.56), (SIZE * 0.46, SIZE * 0.5), rng.randint(14, 24))
    brightness, solid = _leaves(rng, field, rng.uniform(0.7, 1.3))
    return _finish(brightness, np.where(solid, 255, 0), np.zeros((SIZE, SIZE)), 'leafy',
                   rng.uniform(0.9, 1.8))


@lru_cache(maxsize=NUM_HEDGES)
def hedge(index: int) -> Texture:
    """A hedge, 8 m wide."""
    rng = random.Random(f'hedge {index}')
    h, w = 96, 256
    leaf, clump = noise(34, 512, 0.3), noise(35, 512, 1.0)
    oy, ox = rng.randrange(200), rng.randrange(200)
    gain = 1 + 0.26 * leaf[oy:oy + h, ox:ox + w] + 0.2 * clump[oy:oy + h, ox:ox + w]
    slope = np.linspace(1.35, 0.6, h, dtype=np.float32)[:, None]
    tone = np.array(rng.choice(((62, 76, 42), (74, 84, 50), (50, 66, 40), (84, 80, 52))),
                    np.float32)
    image = np.clip(tone * (gain * slope)[..., None], 0, 255).astype(np.uint8)
    return Texture(8, rng.uniform(1.0, 2.4), pyramid(image))


def foliage_color(rng: random.Random) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Colour of the darkest and of the brightest leaf, RGB."""
    hue = rng.choices(('green', 'olive', 'dull', 'autumn'), (48, 26, 18, 8))[0]
    bright = {'green': (98, 124, 58), 'olive': (124, 126, 72), 'dull': (112, 112, 88),
              'autumn': (164, 118, 60)}[hue]
    gain = rng.uniform(0.75, 1.25)
    return tuple(c * 0.1 * gain for c in bright), tuple(c * 1.85 * gain for c in bright)


def draw_all() -> None:
    """Draw every plant now (about half a second), so that none has to be drawn later."""
    for function, count in ((leafy, NUM_LEAFY), (bare, NUM_BARE), (bush, NUM_BUSHES),
                            (hedge, NUM_HEDGES)):
        for index in range(count):
            function(index)
