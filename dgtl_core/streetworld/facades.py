# SPDX-License-Identifier: Apache-2.0
"""House fronts: windows, doors, shops, balconies. Each is drawn once, then kept."""

from __future__ import annotations

from functools import lru_cache
import random

from dgtl_core.streetworld.masonry import (
    bricks,
    Front,
    patch,
    PIXELS_PER_METRE,
    pyramid,
    pyramid_nearest,
    shifted,
    Texture,
    WALL_COLORS,
)
import numpy as np

NUM_FACADES = 72


def _shop(front: Front, height: float) -> None:
    rng = front.rng
    x = 0.0
    while x < front.width - 0.5:
        end = min(front.width, x + rng.uniform(4, 8))
        if front.width - end < 2.5:
            end = front.width
        tone = rng.choice(((30, 34, 40), (60, 20, 22), (24, 40, 70), (26, 58, 40), (150, 148, 140),
                           (90, 74, 58), (40, 40, 40), (170, 40, 36), (36, 70, 130),
                           (190, 150, 50)))
        fascia = shifted(rng, tone, 0.25)
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
                front.box(u, v, min(b - 0.06, u + rng.uniform(0.15, 0.5)),
                          v + rng.uniform(0.15, 0.6), tuple(tone_))
        front.box(x, top, end, height, fascia)
        if rng.random() < 0.85:  # letters
            letter = rng.choice(((230, 230, 225), (235, 205, 90), (20, 20, 20), (225, 225, 225)))
            u = x + (end - x) * rng.uniform(0.1, 0.3)
            while u < x + (end - x) * rng.uniform(0.7, 0.95):
                step = rng.uniform(0.12, 0.3)
                low = top + (height - top) * rng.uniform(0.2, 0.3)
                front.box(u, low, u + step * 0.7, top + (height - top) * rng.uniform(0.6, 0.8),
                          letter)
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
    front = Front(rng, width, height)
    wall = shifted(rng, rng.choice(WALL_COLORS[style]), 0.18)
    front.image[:] = wall
    h, w = front.h, front.w
    gain = 0.045 * patch(rng, 1, 1.0, h, w) + 0.03 * patch(rng, 2, 0.2, h, w)
    if style in ('brick', 'stone'):
        gain = gain + bricks(rng, h, w, rng.uniform(0.05, 0.11))
    if style == 'panel':
        gain[:: round(storey * PIXELS_PER_METRE)] -= 0.3
        gain[:, :: round(pitch * PIXELS_PER_METRE)] -= 0.2
    front.image *= 1 + gain[..., None]

    frame = shifted(rng,
                    rng.choice(((225, 225, 220), (222, 220, 212), (60, 52, 46), (40, 42, 46),
                                (150, 148, 140))), 0.1)
    trim = shifted(rng,
                   rng.choice(((190, 186, 174), (160, 152, 136),
                               tuple(float(int(c * 0.8)) for c in wall))), 0.1)
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
                tone = rng.choice(((40, 50, 70), (70, 30, 28), (30, 50, 40), (60, 48, 38),
                                   (190, 190, 186)))
                front.box(centre - 0.62, 0, centre + 0.62, 2.5, frame)
                front.box(centre - 0.5, 0, centre + 0.5, 2.1, shifted(rng, tone, 0.2))
                front.pane(centre - 0.5, 2.15, centre + 0.5, 2.45, frame, 0)
                continue
            if rng.random() < 0.03:
                continue
            if not ribbon:
                front.box(centre - ww / 2 - 0.15, base + sill + wh, centre + ww / 2 + 0.15,
                          base + sill + wh + 0.25, trim)
            front.pane(centre - ww / 2, base + sill, centre + ww / 2, base + sill + wh, frame,
                       bars)
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
    grime = 0.05 * patch(rng, 3, 1.4, h, w)[..., None]
    slope = np.linspace(1.04, 0.9, h, dtype=np.float32)[:, None, None]
    image = np.clip(front.image * (slope + grime), 0, 255).astype(np.uint8)
    return Texture(width, height, pyramid(image), pyramid_nearest(front.windows))


def facade_tone(texture: Texture) -> tuple[float, ...]:
    """The mean colour of a texture."""
    return tuple(float(c) for c in texture.levels[-1].reshape(-1, 3).mean(0))


def draw_all() -> None:
    """Draw every house front now (about half a second), so that none has to be drawn later."""
    for index in range(NUM_FACADES):
        facade(index)
