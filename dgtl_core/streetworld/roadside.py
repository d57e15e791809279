# SPDX-License-Identifier: Apache-2.0
"""What stands beside the road: houses, gardens, walls, fences, trees, open ground, car parks."""

from __future__ import annotations

import math
import random

from dgtl_core.streetworld import facades, objects, textures
from dgtl_core.streetworld.furnish import furnish, parked_two_wheelers
from dgtl_core.streetworld.meshes import MeshBuilder
from dgtl_core.streetworld.plan import Street, TRACK_HALF
from dgtl_core.streetworld.scene import (
    ASPHALT,
    BOUNDARY,
    BUILDING,
    Chunk,
    GRASS,
    GRAVEL,
    HOUSE,
    KERB,
    Panel,
    Patch,
    PAVEMENT,
    PLAZA,
    RAIL,
    rectangle,
    SOIL,
    Thing,
    WALL,
    WHITE_LINE,
    YARD,
)

# how often houses, trees, a wall, a fence, open ground and a car park stand beside streets
_SHARES = {'city': (80, 4, 4, 4, 4, 4), 'town': (72, 7, 7, 7, 3, 4),
           'suburb': (60, 12, 10, 12, 3, 3), 'park': (8, 48, 14, 16, 12, 2),
           'open': (6, 20, 8, 14, 50, 2), 'mixed': (46, 14, 13, 13, 8, 6)}


def side(street: Street, out: Chunk, r: random.Random, side: int, z0: float, z1: float,
         cross: tuple[float, float] | None) -> None:
    """Sidewalk, kerb, ground and everything on it, on side 0 (left) or 1 (right)."""
    s = (-1, 1)[side]
    edge = street.halves[side]
    begin, end = street.walk_span(side)
    h = street.kerb if end else 0.0
    lot = {'city': PLAZA, 'town': PLAZA}.get(street.style, GRASS)
    out.patches.append(rectangle(s * (edge + end), s * 120, z0, z1, lot, 0.0))
    if side == street.side_track:
        x = street.track_x(side)
        out.patches.append(rectangle(x - TRACK_HALF, x + TRACK_HALF, z0, z1, street.side_bed))
        for rail in (-0.72, 0.68):
            out.top_patches.append(rectangle(x + rail, x + rail + 0.07, z0, z1, RAIL))
    spans = [(z0, z1)] if not cross else [(z0, cross[0]), (cross[1], z1)]
    for a, b in spans:
        if end:
            if begin:
                out.patches.append(rectangle(s * edge, s * (edge + begin), a, b, GRASS, h))
            out.patches.append(rectangle(s * (edge + begin), s * (edge + end), a, b, PAVEMENT, h))
            out.patches.append(Patch(((s * edge, 0, a), (s * edge, h, a), (s * edge, h, b),
                                      (s * edge, 0, b)), KERB))
            out.patches.append(rectangle(s * edge, s * (edge + 0.14), a, b, KERB, h))
        _blocks(street, out, r, side, a, b)
        furnish(street, out, r, side, a, b, h)
    if r.random() < 0.5 and street.walks[side]:
        parked_two_wheelers(street, out, r, side, r.uniform(z0, z1 - 6), h, cross)


def _blocks(street: Street, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
    z = a
    while z < b - 3:
        build = r.choices((_block_house, _block_trees, _block_wall, _block_fence, _block_open,
                           _block_lot), _SHARES[street.style])[0]
        length = min(b - z, r.uniform(10, 26))
        if b - z - length < 5:
            length = b - z
        build(street, out, r, side, z, z + length)
        z += length


def _block_house(street: Street, out: Chunk, r: random.Random, side: int, a: float,
                 b: float) -> None:
    s = (-1, 1)[side]
    base = street.origin(side)
    back = street.setback[side] * r.uniform(0.8, 1.2)
    if back > 1.5:
        ground = r.choice((GRASS, GRASS, PLAZA, GRAVEL, SOIL))
        out.patches.append(rectangle(s * base, s * (base + back), a, b, ground))
        roll = r.random()
        if roll < 0.3:
            out.panels.append(objects.strip(r, s * base, a, b, 'fence'))
        elif roll < 0.5:
            out.panels.append(objects.strip(r, s * base, a, b, 'wall', r.uniform(0.5, 1.2)))
        elif roll < 0.68:
            out.panels.append(objects.strip(r, s * base, a, b, 'hedge'))
        if r.random() < 0.5:
            out.plants.append(objects.tree(r, street.tree_bare, s * (base + back * 0.5),
                                           r.uniform(a, b), YARD, 0.7))
        if r.random() < 0.6:
            out.plants.append(objects.bush(r, s * (base + back * 0.6), r.uniform(a, b)))
    z = a
    while z < b - 2.5:
        length = min(b - z, r.uniform(6, 18))
        if b - z - length < 4:
            length = b - z
        _house(street, out, r, side, base + back, z, z + length)
        z += length


def _house(street: Street, out: Chunk, r: random.Random, side: int, offset: float, a: float,
           b: float) -> None:
    s = (-1, 1)[side]
    x = s * offset
    texture = facades.facade(r.randrange(facades.NUM_FACADES))
    gain = r.uniform(0.68, 1.32)
    tint = tuple(gain * r.uniform(0.94, 1.06) for _ in range(3))
    high = texture.height * r.uniform(0.95, 1.05)
    deep = r.uniform(8, 16)
    n = max(1, round((b - a) / texture.width * r.uniform(0.9, 1.1)))
    other = texture if r.random() < 0.4 else facades.facade(r.randrange(facades.NUM_FACADES))
    m = max(1, round(deep / other.width))
    side_tint = tuple(t * r.uniform(0.8, 1.0) for t in tint)
    out.panels.append(Panel((x + s * deep, 0.0, a) if s < 0 else (x, 0.0, a), (deep, 0, 0),
                            (0, high, 0), other, (m, high / other.height), BUILDING, HOUSE,
                            side_tint))
    z0, z1 = (a, b)
    if r.random() < (0.7 if texture.height < 12 else 0.15):  # a pitched roof
        rise = min(deep * 0.5 * r.uniform(0.5, 1.0), 5)
        tone = tuple(c * g for c, g in zip(facades.facade_tone(other), side_tint, strict=True))
        roof = textures.roof(r.randrange(textures.NUM_ROOFS))
        g = MeshBuilder(BUILDING)
        ridge = s * deep * 0.5
        g.quad([(0, high, 0), (2 * ridge, high, 0), (ridge * 1.04, high + rise, 0),
                (ridge * 0.96, high + rise, 0)], 0)
        if r.random() < 0.6:
            c = r.uniform(0.1, 0.8) * (b - a)
            g.box((ridge - 0.4, ridge + 0.4), (high + rise - 1, high + rise + r.uniform(0.6, 1.4)),
                  (c, c + r.uniform(0.6, 1.4)), (0,))
        out.things.append(Thing(g.build(), x, a, 0, [tone], HOUSE))
        up = (s * (deep / 2 + 0.3), rise + 0.15, 0.0)
        out.panels.append(Panel((x - s * 0.3, high - 0.15, z0), (0, 0, z1 - z0), up, roof,
                                ((b - a) / 4, math.hypot(deep / 2, rise) / 4), BUILDING, HOUSE,
                                (gain, gain, gain), one_sided=True))
    out.panels.append(Panel((x, 0.0, z0), (0.0, 0.0, z1 - z0), (0, high, 0), texture,
                            (n, high / texture.height), BUILDING, HOUSE, tint))
    out.shades.append((min(x, x + s * deep), max(x, x + s * deep), a, b, high))


def _block_trees(street: Street, out: Chunk, r: random.Random, side: int, a: float,
                 b: float) -> None:
    s, base = (-1, 1)[side], street.origin(side)
    out.patches.append(rectangle(s * base, s * (base + 40), a, b,
                                 r.choice((GRASS, GRASS, GRASS, SOIL))))
    for _ in range(r.randint(2, 5)):
        out.plants.append(objects.tree(r, street.tree_bare, s * (base + r.uniform(1.5, 14)),
                                       r.uniform(a, b), YARD))
    for _ in range(r.randrange(4)):
        out.plants.append(objects.bush(r, s * (base + r.uniform(1, 12)), r.uniform(a, b)))
    if r.random() < 0.35:
        out.panels.append(objects.strip(r, s * (base + 0.2), a, b,
                                        r.choice(('fence', 'fence', 'hedge'))))


def _block_wall(street: Street, out: Chunk, r: random.Random, side: int, a: float,
                b: float) -> None:
    s, base = (-1, 1)[side], street.origin(side)
    x = s * (base + r.choice((0.1, 0.1, 1.5)))
    out.patches.append(rectangle(s * base, x, a, b, r.choice((GRASS, PLAZA, SOIL))))
    panel = objects.strip(r, x, a, b, 'wall')
    out.panels.append(panel)
    near = Panel((min(x, x + s * 0.35), 0, a), (0.35, 0, 0), panel.up, panel.texture,
                 (0.1, panel.repeat[1]), WALL, BOUNDARY, panel.tint)
    out.panels.append(near)
    out.shades.append((min(x, x + s * 0.3), max(x, x + s * 0.3), a, b, panel.up[1]))
    for _ in range(r.randint(1, 4)):
        out.plants.append(objects.tree(r, street.tree_bare, x + s * r.uniform(2, 9),
                                       r.uniform(a, b), YARD))
    if r.random() < 0.45:
        _house(street, out, r, side, abs(x) + r.uniform(6, 14), a + 1, b - 1)


def _block_fence(street: Street, out: Chunk, r: random.Random, side: int, a: float,
                 b: float) -> None:
    s, base = (-1, 1)[side], street.origin(side)
    x = s * (base + r.choice((0.1, 0.1, 1.2)))
    out.patches.append(rectangle(s * base, s * (base + 30), a, b,
                                 r.choice((GRASS, GRASS, GRAVEL, SOIL, PLAZA))))
    out.panels.append(objects.strip(r, x, a, b, 'fence'))
    roll = r.random()
    if roll < 0.5:
        _house(street, out, r, side, abs(x) + r.uniform(5, 14), a + 0.5, b - 0.5)
    for _ in range(r.randint(0, 3) if roll < 0.5 else r.randint(2, 4)):
        out.plants.append(objects.tree(r, street.tree_bare, x + s * r.uniform(1.5, 10),
                                       r.uniform(a, b), YARD))
    for _ in range(r.randrange(3)):
        out.plants.append(objects.bush(r, x + s * r.uniform(0.6, 3), r.uniform(a, b)))


def _block_open(street: Street, out: Chunk, r: random.Random, side: int, a: float,
                b: float) -> None:
    s, base = (-1, 1)[side], street.origin(side)
    out.patches.append(rectangle(s * base, s * 120, a, b,
                                 r.choice((GRASS, GRASS, GRASS, SOIL, GRAVEL))))
    for _ in range(r.choice((0, 0, 1, 2))):
        out.plants.append(objects.tree(r, street.tree_bare, s * (base + r.uniform(6, 40)),
                                       r.uniform(a, b), YARD))
    for _ in range(r.randrange(3)):
        out.plants.append(objects.bush(r, s * (base + r.uniform(2, 30)), r.uniform(a, b)))


def _block_lot(street: Street, out: Chunk, r: random.Random, side: int, a: float,
               b: float) -> None:
    s, base = (-1, 1)[side], street.origin(side)
    out.patches.append(rectangle(s * base, s * (base + 24), a, b, ASPHALT))
    z = a + 1.4
    while z < b - 1.2:
        if r.random() < 0.75:
            out.things.append(objects.vehicle(r, s * (base + r.uniform(3.2, 3.8)), z,
                                              r.choice((-1, 1)) * math.pi / 2, YARD, ('car',) * 9
                                              + ('truck',)))
        z += 2.7
    for z in (a, b):
        out.patches.append(rectangle(s * (base + 1), s * (base + 5.5), z - 0.05, z + 0.05,
                                     WHITE_LINE))
    if r.random() < 0.7:
        _house(street, out, r, side, base + r.uniform(14, 24), a, b)
    else:
        for _ in range(4):
            out.plants.append(objects.tree(r, street.tree_bare, s * (base + r.uniform(14, 24)),
                                           r.uniform(a, b), HOUSE))
