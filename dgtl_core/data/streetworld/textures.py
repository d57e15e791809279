# SPDX-License-Identifier: Apache-2.0
"""Procedural textures of StreetWorld: noise, house fronts, walls, fences. Drawn once, then kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import random

import cv2
import numpy as np

from dgtl_core.data.weather import fractal

PIXELS_PER_METRE = 32
NUM_FACADES = 72
NUM_WALLS = 14
NUM_FENCES = 14
NUM_ROOFS = 8


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


@lru_cache(maxsize=32)
def noise(kind: int, size: int, exponent: float) -> np.ndarray:
    """Tileable noise with amplitudes 1 / f ** exponent, mean 0, deviation 1, (size, size) float32."""
    return fractal((11, kind, size), size, exponent)


def _patch(rng: random.Random, kind: int, exponent: float, h: int, w: int) -> np.ndarray:
    field = noise(kind, 512, exponent)
    field = np.roll(field, (rng.randrange(512), rng.randrange(512)), (0, 1))
    return np.tile(field, (-(-h // 512), -(-w // 512)))[:h, :w]


def _shift(rng: random.Random, color: tuple[int, int, int], amount: float) -> tuple[float, ...]:
    gain = 1 + rng.uniform(-amount, amount)
    return tuple(min(250.0, c * gain * (1 + rng.uniform(-amount, amount) * 0.3)) for c in color)


_WALL_COLORS = {
    'brick': ((142, 118, 92), (128, 86, 68), (150, 130, 105), (112, 78, 66), (158, 140, 112),
              (120, 108, 96)),
    'stucco': ((205, 200, 188), (188, 178, 156), (170, 164, 152), (214, 206, 184), (176, 150, 118),
               (150, 152, 150), (196, 172, 140), (134, 122, 112)),
    'stone': ((150, 142, 126), (132, 126, 116), (164, 156, 140), (118, 112, 104)),
    'panel': ((142, 144, 146), (120, 124, 128), (168, 168, 164), (104, 106, 110)),
    'glass': ((92, 104, 114), (76, 88, 98), (108, 118, 122)),
}


def _bricks(rng: random.Random, h: int, w: int, strength: float) -> np.ndarray:
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


class _Front:
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
        p, q = (round(x0 * s), round(self.h - y1 * s)), (round(x1 * s) - 1, round(self.h - y0 * s) - 1)
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
        number = int(self.windows[min(self.h - 1, max(0, round(self.h - (y0 + y1) / 2 * PIXELS_PER_METRE))),
                                  min(self.w - 1, round((x0 + x1) / 2 * PIXELS_PER_METRE))])
        if rng.random() < 0.45:  # the sky in the upper part
            sky = dark + rng.uniform(30, 120)
            self.box(x0, y0 + (y1 - y0) * rng.uniform(0.3, 0.7), x1, y1, (sky, sky * 1.02, sky * 1.05))
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


def _shop(front: _Front, height: float) -> None:
    rng = front.rng
    x = 0.0
    while x < front.width - 0.5:
        end = min(front.width, x + rng.uniform(4, 8))
        if front.width - end < 2.5:
            end = front.width
        tone = rng.choice(((30, 34, 40), (60, 20, 22), (24, 40, 70), (26, 58, 40), (150, 148, 140),
                           (90, 74, 58), (40, 40, 40), (170, 40, 36), (36, 70, 130), (190, 150, 50)))
        fascia = _shift(rng, tone, 0.25)
        front.box(x, 0, end, height, tuple(c * 0.8 for c in fascia))
        top = height - rng.uniform(0.5, 0.9)
        n = max(1, round((end - x) / rng.uniform(1.4, 2.6)))
        door = rng.randrange(n)
        for i in range(n):
            a, b = x + 0.15 + (end - x - 0.3) * i / n, x + 0.15 + (end - x - 0.3) * (i + 1) / n
            front.pane(a + 0.06, 0.1 if i == door else rng.uniform(0.4, 0.7), b - 0.06, top - 0.1,
                       tuple(c * 0.9 for c in fascia), 0)
            for _ in range(rng.randrange(5)):  # goods and posters behind the glass
                u, v = rng.uniform(a + 0.1, max(a + 0.11, b - 0.5)), rng.uniform(0.5, top - 0.7)
                tone_ = [rng.uniform(40, 200) for _ in range(3)]
                front.box(u, v, min(b - 0.06, u + rng.uniform(0.15, 0.5)), v + rng.uniform(0.15, 0.6),
                          tuple(tone_))
        front.box(x, top, end, height, fascia)
        if rng.random() < 0.85:  # letters
            letter = rng.choice(((230, 230, 225), (235, 205, 90), (20, 20, 20), (225, 225, 225)))
            u = x + (end - x) * rng.uniform(0.1, 0.3)
            while u < x + (end - x) * rng.uniform(0.7, 0.95):
                step = rng.uniform(0.12, 0.3)
                low = top + (height - top) * rng.uniform(0.2, 0.3)
                front.box(u, low, u + step * 0.7, top + (height - top) * rng.uniform(0.6, 0.8), letter)
                u += step
        if rng.random() < 0.2:  # awning
            stripes = rng.randint(6, 12)
            other = rng.choice(((225, 222, 214), fascia))
            for i in range(stripes):
                a, b = x + (end - x) * i / stripes, x + (end - x) * (i + 1) / stripes
                front.box(a, top - 0.7, b, top, fascia if i % 2 else other)
        x = end


@lru_cache(maxsize=NUM_FACADES)
def facade(index: int) -> Texture:
    """House front number ``index``; repeats without a seam to the left and right."""
    rng = random.Random(f'facade {index}')
    style = rng.choices(('brick', 'stucco', 'stone', 'panel', 'glass'), (36, 30, 12, 14, 8))[0]
    storey = rng.uniform(2.7, 3.5)
    storeys = rng.choices((1, 2, 3, 4, 5, 7), (4, 32, 28, 20, 12, 4))[0]
    ground = rng.uniform(3.0, 4.2)
    pitch = rng.uniform(1.9, 3.6)
    columns = rng.randint(2, 5)
    width, height = pitch * columns, ground + storey * (storeys - 1) + rng.uniform(0.4, 1.2)
    front = _Front(rng, width, height)
    wall = _shift(rng, rng.choice(_WALL_COLORS[style]), 0.18)
    front.image[:] = wall
    h, w = front.h, front.w
    gain = 0.045 * _patch(rng, 1, 1.0, h, w) + 0.03 * _patch(rng, 2, 0.2, h, w)
    if style in ('brick', 'stone'):
        gain = gain + _bricks(rng, h, w, rng.uniform(0.05, 0.11))
    if style == 'panel':
        gain[:: round(storey * PIXELS_PER_METRE)] -= 0.3
        gain[:, :: round(pitch * PIXELS_PER_METRE)] -= 0.2
    front.image *= 1 + gain[..., None]

    frame = _shift(rng, rng.choice(((225, 225, 220), (222, 220, 212), (60, 52, 46), (40, 42, 46),
                                    (150, 148, 140))), 0.1)
    trim = _shift(rng, rng.choice(((190, 186, 174), (160, 152, 136), tuple(int(c * 0.8) for c in wall))),
                  0.1)
    ribbon = style == 'glass' or (style == 'panel' and rng.random() < 0.5)
    ww, wh = min(pitch - 0.5, rng.uniform(0.9, 1.6)), rng.uniform(1.3, min(2.1, storey - 0.8))
    sill, bars = rng.uniform(0.6, 1.0), rng.choice((0, 1, 1, 2))
    if ribbon:
        ww, bars = pitch - rng.uniform(0.06, 0.3), 1
    if style == 'glass':
        wh, sill = storey - rng.uniform(0.2, 0.8), 0.1
    shop = rng.random() < 0.42
    balconies = rng.random() < 0.15
    for level in range(storeys):
        base = 0.0 if level == 0 else ground + (level - 1) * storey
        if level == 0 and shop:
            continue
        door = rng.randrange(columns) if level == 0 else -1
        for column in range(columns):
            centre = (column + 0.5) * pitch
            if column == door:
                tone = rng.choice(((40, 50, 70), (70, 30, 28), (30, 50, 40), (60, 48, 38), (190, 190, 186)))
                front.box(centre - 0.62, 0, centre + 0.62, 2.5, frame)
                front.box(centre - 0.5, 0, centre + 0.5, 2.1, _shift(rng, tone, 0.2))
                front.pane(centre - 0.5, 2.15, centre + 0.5, 2.45, frame, 0)
                continue
            if rng.random() < 0.03:
                continue
            if not ribbon:
                front.box(centre - ww / 2 - 0.15, base + sill + wh, centre + ww / 2 + 0.15,
                          base + sill + wh + 0.25, trim)
            front.pane(centre - ww / 2, base + sill, centre + ww / 2, base + sill + wh, frame, bars)
            if not ribbon:
                front.box(centre - ww / 2 - 0.15, base + sill - 0.14, centre + ww / 2 + 0.15,
                          base + sill - 0.02, tuple(c * 1.05 for c in trim))
            if balconies and level:
                front.box(centre - ww / 2 - 0.4, base + 0.1, centre + ww / 2 + 0.4, base + 1.0,
                          tuple(c * rng.uniform(0.6, 0.8) for c in wall))
        if level and rng.random() < 0.3:
            front.box(0, base - 0.12, width, base + 0.08, trim)
    if shop:
        _shop(front, ground - 0.2)
    front.box(0, height - rng.uniform(0.2, 0.5), width, height, trim)
    if rng.random() < 0.5:  # rain pipe
        x = rng.uniform(0, 0.2)
        front.box(x, 0, x + 0.1, height - 0.4, tuple(c * 0.5 for c in wall))
    grime = 0.05 * _patch(rng, 3, 1.4, h, w)[..., None]
    slope = np.linspace(1.04, 0.9, h, dtype=np.float32)[:, None, None]
    image = np.clip(front.image * (slope + grime), 0, 255).astype(np.uint8)
    return Texture(width, height, pyramid(image), pyramid_nearest(front.windows))


def pyramid_nearest(numbers: np.ndarray, smallest: int = 8) -> tuple[np.ndarray, ...]:
    """Halve a picture of numbers, so that no new number appears."""
    levels = [numbers]
    while min(levels[-1].shape[:2]) >= 2 * smallest:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_NEAREST))
    return tuple(levels)


def facade_tone(texture: Texture) -> tuple[float, ...]:
    """The mean colour of a texture."""
    return tuple(float(c) for c in texture.levels[-1].reshape(-1, 3).mean(0))


@lru_cache(maxsize=NUM_WALLS)
def wall(index: int) -> Texture:
    """Garden, retaining or noise wall number ``index``, 4 m wide."""
    rng = random.Random(f'wall {index}')
    width, height = 4.0, rng.uniform(1.4, 3.0)
    front = _Front(rng, width, height)
    style = rng.choice(('brick', 'brick', 'stone', 'panel', 'stucco'))
    tone = _shift(rng, rng.choice(_WALL_COLORS[style]), 0.2)
    front.image[:] = tuple(c * 0.85 for c in tone)
    h, w = front.h, front.w
    gain = 0.07 * _patch(rng, 4, 1.0, h, w) + 0.05 * _patch(rng, 5, 0.3, h, w)
    if style in ('brick', 'stone'):
        cells = _bricks(rng, h, w, rng.uniform(0.08, 0.15))
        if style == 'stone':
            cells = cv2.resize(cells[: h // 3 + 1, : w // 3 + 1], (w, h), interpolation=cv2.INTER_NEAREST)
        gain = gain + cells
    if style == 'panel':
        gain[:: h // rng.randint(1, 4)] -= 0.35
        gain[:, :: w // rng.randint(1, 3)] -= 0.35
    front.image *= 1 + gain[..., None]
    if rng.random() < 0.2:  # graffiti
        for _ in range(rng.randint(2, 5)):
            points = np.array([[rng.randrange(w), h * 0.3 + rng.random() * h * 0.5] for _ in range(5)])
            cv2.polylines(front.image, [points.astype(np.int32)], False,
                          [rng.uniform(20, 220) for _ in range(3)], rng.randint(2, 6), cv2.LINE_AA)
    front.box(0, height - 0.15, width, height, tuple(c * rng.uniform(0.8, 1.1) for c in tone))
    slope = np.linspace(1.05, 0.8, h, dtype=np.float32)[:, None, None]
    stain = 0.1 * _patch(rng, 6, 1.5, h, w)[..., None]
    return Texture(width, height, pyramid(np.clip(front.image * (slope + stain), 0, 255).astype(np.uint8)))


@lru_cache(maxsize=NUM_FENCES)
def fence(index: int) -> Texture:
    """Railing, picket, mesh or board fence number ``index``, 4 m wide; the gaps show what grows behind."""
    rng = random.Random(f'fence {index}')
    kind = ('railing', 'picket', 'mesh', 'boards', 'rails')[index % 5]
    width, height = 4.0, rng.uniform(0.9, 1.3) if kind != 'mesh' else rng.uniform(1.4, 2.2)
    front = _Front(rng, width, height)
    back = rng.choice(((72, 82, 52), (60, 62, 56), (86, 92, 62), (70, 68, 64), (48, 56, 42)))
    h, w = front.h, front.w
    front.image[:] = back
    front.image *= 1 + 0.25 * _patch(rng, 7, 1.0, h, w)[..., None]
    metal = _shift(rng, rng.choice(((30, 34, 34), (40, 40, 44), (150, 152, 152), (200, 198, 190),
                                    (34, 52, 40), (120, 120, 118))), 0.15)
    wood = _shift(rng, rng.choice(((120, 92, 66), (140, 122, 100), (200, 196, 186), (92, 76, 60))), 0.15)
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
    image = np.clip(front.image * (1 + 0.05 * _patch(rng, 8, 0.5, h, w)[..., None]), 0, 255)
    return Texture(width, height, pyramid(image.astype(np.uint8)))


@lru_cache(maxsize=NUM_ROOFS)
def roof(index: int) -> Texture:
    """Tiles or slates, 4 m x 4 m."""
    rng = random.Random(f'roof {index}')
    front = _Front(rng, 4, 4)
    front.image[:] = _shift(rng, rng.choice(((92, 92, 98), (70, 72, 78), (122, 74, 58), (104, 84, 70),
                                             (140, 90, 66), (84, 80, 78))), 0.15)
    gain = _bricks(rng, front.h, front.w, 0.08) + 0.1 * _patch(rng, 9, 1.2, front.h, front.w)
    return Texture(4, 4, pyramid(np.clip(front.image * (1 + gain[..., None]), 0, 255).astype(np.uint8)))


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


@lru_cache(maxsize=1)
def unevenness() -> np.ndarray:
    """Gain of every surface over the picture, (512, 512) uint8, 128 means one."""
    field = 0.6 * noise(25, 512, 0.9) + 0.5 * noise(26, 512, 0.2)
    return np.clip(128 + 7 * field, 0, 255).astype(np.uint8)


def draw_all() -> None:
    """Draw every texture now (about half a second), so that none has to be drawn later."""
    for function, count in ((facade, NUM_FACADES), (wall, NUM_WALLS), (fence, NUM_FENCES), (roof, NUM_ROOFS)):
        for index in range(count):
            function(index)
