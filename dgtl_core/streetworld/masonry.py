# SPDX-License-Identifier: Apache-2.0
"""What textures are made of: pictures with smaller copies, noise, bricks, windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import random

import cv2
from dgtl_core.data.weather import fractal
import numpy as np

PIXELS_PER_METRE = 32

WALL_COLORS = {'brick': ((142, 118, 92), (128, 86, 68), (150, 130, 105), (112, 78, 66),
                         (158, 140, 112), (120, 108, 96)),
               'stucco': ((205, 200, 188), (188, 178, 156), (170, 164, 152), (214, 206, 184),
                          (176, 150, 118), (150, 152, 150), (196, 172, 140), (134, 122, 112)),
               'stone': ((150, 142, 126), (132, 126, 116), (164, 156, 140), (118, 112, 104)),
               'panel': ((142, 144, 146), (120, 124, 128), (168, 168, 164), (104, 106, 110)),
               'glass': ((92, 104, 114), (76, 88, 98), (108, 118, 122)),}


@dataclass(frozen=True)
class Texture:
    """
    A picture of a flat thing, with smaller copies for the distance.

    ``levels``: RGB uint8 (H, W, 3), each half the size of the one before. ``windows``: the same
    sizes (H, W) uint8, 0 where there is no window, else a number that is constant per window.
    """

    width: float  # metres
    height: float  # metres
    levels: tuple[np.ndarray, ...]
    windows: tuple[np.ndarray, ...] = ()


def pyramid(picture: np.ndarray, smallest: int = 8) -> tuple[np.ndarray, ...]:
    """Halve a picture until one side is ``smallest``."""
    levels = [picture]
    while min(levels[-1].shape[:2]) >= 2 * smallest:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def pyramid_nearest(numbers: np.ndarray, smallest: int = 8) -> tuple[np.ndarray, ...]:
    """Halve a picture of numbers, so that no new number appears."""
    levels = [numbers]
    while min(levels[-1].shape[:2]) >= 2 * smallest:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_NEAREST))
    return tuple(levels)


@lru_cache(maxsize=32)
def noise(kind: int, size: int, exponent: float) -> np.ndarray:
    """Tileable noise, kept: see :func:`dgtl_core.data.weather.fractal`."""
    return fractal((11, kind, size), size, exponent)


def patch(rng: random.Random, kind: int, exponent: float, h: int, w: int) -> np.ndarray:
    """A piece of tileable noise from a random place, (h, w)."""
    field = noise(kind, 512, exponent)
    field = np.roll(field, (rng.randrange(512), rng.randrange(512)), (0, 1))
    return np.tile(field, (-(-h // 512), -(-w // 512)))[:h, :w]


def shifted(rng: random.Random, color: tuple[float, ...], amount: float) -> tuple[float, ...]:
    """A colour with a random gain and a little random hue."""
    gain = 1 + rng.uniform(-amount, amount)
    return tuple(min(250.0, c * gain * (1 + rng.uniform(-amount, amount) * 0.3)) for c in color)


def bricks(rng: random.Random, h: int, w: int, strength: float) -> np.ndarray:
    """Gain of a brick wall: each brick its own, joints lighter or darker."""
    bh, bw = 4, 9
    rows, columns = -(-h // bh), -(-w // bw) + 1
    cells = np.random.default_rng(rng.getrandbits(32)).normal(0, 1, (rows, columns))
    gain = np.repeat(np.repeat(cells, bh, 0), bw, 1)[:h].astype(np.float32)
    for row in range(1, rows, 2):
        gain[row * bh:(row + 1) * bh] = np.roll(gain[row * bh:(row + 1) * bh], bw // 2, 1)
    gain = gain[:, :w]
    gain[::bh] = rng.choice((-1.2, 1.0))
    return gain * strength


class Front:
    """One house front while it is drawn; metres in, pixels out."""

    def __init__(self, rng: random.Random, width: float, height: float) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.w, self.h = round(width * PIXELS_PER_METRE), round(height * PIXELS_PER_METRE)
        self.image = np.zeros((self.h, self.w, 3), np.float32)
        self.windows = np.zeros((self.h, self.w), np.uint8)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: tuple[float, ...],
            window: bool = False) -> None:
        """Fill a rectangle; y counts upwards from the street."""
        s = PIXELS_PER_METRE
        p = (round(x0 * s), round(self.h - y1 * s))
        q = (round(x1 * s) - 1, round(self.h - y0 * s) - 1)
        if q[0] < p[0] or q[1] < p[1]:
            return
        cv2.rectangle(self.image, p, q, color, -1)
        cv2.rectangle(self.windows, p, q, self.rng.randint(1, 255) if window else 0, -1)

    def pane(self, x0: float, y0: float, x1: float, y1: float, frame: tuple[float, ...],
             bars: int) -> None:
        """A window: frame, dark glass that mirrors a piece of sky, curtains, bars."""
        rng = self.rng
        self.box(x0 - 0.07, y0 - 0.07, x1 + 0.07, y1 + 0.07, frame)
        dark = rng.uniform(18, 70)
        glass = (dark, dark * rng.uniform(1.0, 1.12), dark * rng.uniform(1.0, 1.25))
        self.box(x0, y0, x1, y1, glass, window=True)
        number = int(self.windows[min(self.h - 1,
                                      max(0, round(self.h - (y0 + y1) / 2 * PIXELS_PER_METRE))),
                                  min(self.w - 1, round((x0 + x1) / 2 * PIXELS_PER_METRE))])
        if rng.random() < 0.45:  # the sky in the upper part
            sky = dark + rng.uniform(30, 120)
            self.box(x0, y0 + (y1 - y0) * rng.uniform(0.3, 0.7), x1, y1,
                     (sky, sky * 1.02, sky * 1.05))
        if rng.random() < 0.35:  # curtains
            tone = rng.uniform(90, 170)
            part = (x1 - x0) * rng.uniform(0.15, 0.3)
            for a, b in ((x0, x0 + part), (x1 - part, x1)):
                self.box(a, y0, b, y1, (tone, tone * 0.97, tone * 0.9))
        s = PIXELS_PER_METRE
        p = (round(x0 * s), round(self.h - y1 * s))
        q = (round(x1 * s) - 1, round(self.h - y0 * s) - 1)
        cv2.rectangle(self.windows, p, q, number, -1)
        for i in range(1, bars + 1):
            x = x0 + (x1 - x0) * i / (bars + 1)
            self.box(x - 0.03, y0, x + 0.03, y1, frame)
        if bars:
            y = y0 + (y1 - y0) * 0.6
            self.box(x0, y - 0.03, x1, y + 0.03, frame)
