# SPDX-License-Identifier: Apache-2.0
"""Street furniture: lamps, bollards, traffic lights, traffic signs."""

from __future__ import annotations

from functools import lru_cache
import random

from dgtl_core.streetworld.meshes import Color, Mesh, MeshBuilder
from dgtl_core.streetworld.scene import LIGHT, POLE, SIGN

# colours of street furniture, by slot
GREY, DARK, RED, WHITE, BLUE, YELLOW, GREEN, BLACK, OFF, AMBER = range(10)


def furniture_colors(rng: random.Random) -> list[Color]:
    """Colours of a pole with what hangs on it, by slot; the metal varies."""
    tone = rng.choice((48, 62, 84, 110, 130, 150)) * rng.uniform(0.9, 1.1)
    return [(tone, tone * 1.01, tone * 1.0), (tone * 0.8, tone * 0.8, tone * 0.8), (176, 30, 34),
            (216, 216, 212), (30, 74, 150), (214, 176, 40), (36, 110, 66), (22, 24, 24),
            (34, 34, 36), (226, 140, 30)]


def _post(b: MeshBuilder, x: float, height: float, thick: float, z: float = 0.0,
          slot: int = GREY) -> None:
    label, b.label = b.label, POLE
    b.hexa((x - thick, x + thick, z - thick, z + thick),
           (x - thick * 0.7, x + thick * 0.7, z - thick * 0.7, z + thick * 0.7), (0, height),
           (slot, slot, DARK, slot, slot))
    b.label = label


@lru_cache(maxsize=16)
def lamp(index: int) -> Mesh:
    """A street lamp whose arm reaches to +x, a plain mast or a bollard."""
    rng = random.Random(f'lamp {index}')
    b = MeshBuilder(POLE)
    if index % 8 == 7:
        _post(b, 0, rng.uniform(0.8, 1.1), 0.07)
        return b.build()
    height = rng.uniform(5, 10)
    _post(b, 0, height, rng.uniform(0.06, 0.11))
    if index % 8 == 6:
        return b.build()
    reach = rng.uniform(0.6, 2.2) if index % 4 else 0.2
    b.quad([(0, height - 0.12, 0), (0, height, 0), (reach, height + 0.28, 0),
            (reach, height + 0.2, 0)], GREY)
    b.box((reach - 0.1, reach + 0.55), (height + 0.12, height + 0.28), (-0.12, 0.12),
          (DARK, DARK, DARK, DARK, GREY))
    b.quad([(reach, height + 0.11, -0.1), (reach + 0.5, height + 0.11, -0.1),
            (reach + 0.5, height + 0.11, 0.1), (reach, height + 0.11, 0.1)], WHITE, None, 1)
    return b.build()


@lru_cache(maxsize=32)
def traffic_light(index: int, state: int) -> Mesh:
    """A signal that faces -z; ``state`` 0 red, 1 amber, 2 green; some hang over the road."""
    rng = random.Random(f'light {index}')
    b = MeshBuilder(LIGHT)
    height = rng.uniform(2.6, 3.6)
    heads = [(0.0, height)]
    if index % 3 == 2:
        reach, high = rng.uniform(2.2, 4.2), rng.uniform(5.0, 5.8)
        _post(b, 0, high, 0.09)
        b.label = POLE
        b.box((0, reach), (high - 0.1, high), (-0.05, 0.05), (GREY,))
        b.label = LIGHT
        heads.append((reach, high + 0.25))
    else:
        _post(b, 0, height, 0.06)
    for x, top in heads:
        half, tall = 0.17, 0.92
        b.box((x - half, x + half), (top - tall, top), (-0.3, -0.08), (BLACK,))
        if index % 2:
            b.quad([(x - half - 0.1, top - tall - 0.1, -0.08),
                    (x + half + 0.1, top - tall - 0.1, -0.08), (x + half + 0.1, top + 0.1, -0.08),
                    (x - half - 0.1, top + 0.1, -0.08)], BLACK)
            b.box((x - half, x + half), (top - tall, top), (-0.3, -0.09), (BLACK,))
        for i, slot in enumerate((RED, AMBER, GREEN)):
            lit = state == i
            b.disc((x, top - 0.17 - 0.29 * i, -0.31), 0.115, 'z', slot if lit else OFF,
                   (x, top, 1), 10, 4 if lit else 0)
    return b.build()


@lru_cache(maxsize=48)
def sign(index: int) -> Mesh:
    """A traffic sign that faces -z, on its post."""
    rng = random.Random(f'sign {index}')
    b = MeshBuilder(SIGN)
    kind = ('ban', 'ban', 'warn', 'order', 'priority', 'board', 'stop', 'park', 'board',
            'entry')[index % 10]
    low, r = rng.uniform(1.7, 2.4), rng.uniform(0.28, 0.4)
    y = low + r

    def plate(shape: str, size: float, slot: int, layer: int, dx: float = 0.0,
              dy: float = 0.0) -> None:
        z = -0.09 - 0.005 * layer
        if shape == 'disc':
            b.disc((dx, y + dy, z), size, 'z', slot, None, 16)
        elif shape == 'triangle':
            b.quad([(dx - size, y + dy - size * 0.7, z), (dx + size, y + dy - size * 0.7, z),
                    (dx + size * 0.06, y + dy + size, z), (dx - size * 0.06, y + dy + size, z)],
                   slot)
        elif shape == 'diamond':
            b.quad([(dx - size, y + dy, z), (dx, y + dy - size, z), (dx + size, y + dy, z),
                    (dx, y + dy + size, z)], slot)

    def bar(x0: float, y0: float, x1: float, y1: float, slot: int, layer: int) -> None:
        z = -0.09 - 0.005 * layer
        b.quad([(x0, y + y0, z), (x1, y + y0, z), (x1, y + y1, z), (x0, y + y1, z)], slot)

    if kind == 'board':
        wide, tall = rng.uniform(0.6, 1.6), rng.uniform(0.4, 0.9)
        _post(b, -wide * 0.35, y, 0.05)
        _post(b, wide * 0.35, y, 0.05)
        slot = rng.choice((BLUE, GREEN, WHITE, YELLOW, BLUE))
        text = BLACK if slot in (WHITE, YELLOW) else WHITE
        bar(-wide / 2, -tall / 2, wide / 2, tall / 2, text, 0)
        bar(-wide / 2 + 0.04, -tall / 2 + 0.04, wide / 2 - 0.04, tall / 2 - 0.04, slot, 1)
        for row in range(rng.randint(1, 3)):
            v = tall * (0.25 - 0.28 * row)
            bar(-wide * rng.uniform(0.2, 0.4), v - 0.05, wide * rng.uniform(0.05, 0.4), v + 0.05,
                text, 2)
        return b.build()
    _post(b, 0, y + r * 0.6, 0.04)
    if kind == 'ban':
        plate('disc', r, RED, 0)
        plate('disc', r * 0.74, WHITE, 1)
        bar(-r * 0.35, -r * 0.3, r * 0.35, r * 0.3, BLACK if index % 3 else WHITE, 2)
    elif kind == 'warn':
        plate('triangle', r * 1.15, RED, 0)
        plate('triangle', r * 0.72, WHITE, 1, dy=-0.04)
        bar(-0.03, -r * 0.4, 0.03, r * 0.25, BLACK, 2)
    elif kind == 'order':
        plate('disc', r, BLUE, 0)
        bar(-r * 0.14, -r * 0.6, r * 0.14, r * 0.5, WHITE, 1)
        plate('triangle', r * 0.35, WHITE, 1, dy=r * 0.35)
    elif kind == 'priority':
        plate('diamond', r, WHITE, 0)
        plate('diamond', r * 0.76, YELLOW, 1)
    elif kind == 'stop':
        b.disc((0, y, -0.09), r, 'z', RED, None, 8)
        bar(-r * 0.7, -r * 0.2, r * 0.7, r * 0.2, WHITE, 1)
    elif kind == 'park':
        bar(-r * 0.85, -r * 0.85, r * 0.85, r * 0.85, BLUE, 0)
        bar(-r * 0.3, -r * 0.6, -r * 0.08, r * 0.6, WHITE, 1)
        bar(-r * 0.3, -r * 0.05, r * 0.35, r * 0.6, WHITE, 1)
    else:
        plate('disc', r, RED, 0)
        bar(-r * 0.7, -r * 0.15, r * 0.7, r * 0.15, WHITE, 1)
    if index % 4 == 1:
        bar(-r * 0.8, -r * 1.75, r * 0.8, -r * 1.15, WHITE, 0)
        bar(-r * 0.5, -r * 1.5, r * 0.5, -r * 1.38, BLACK, 1)
    return b.build()
