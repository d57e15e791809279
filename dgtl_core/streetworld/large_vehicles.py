# SPDX-License-Identifier: Apache-2.0
"""Trucks, buses and trams."""

from __future__ import annotations

from functools import lru_cache
import random

from dgtl_core.streetworld.cars import (
    EXTRA,
    GLASS,
    LAMP,
    LOWER,
    PAINT,
    PLATE,
    ROOF,
    SKY_GLASS,
    TAIL,
    TRIM,
    wheels,
)
from dgtl_core.streetworld.meshes import Mesh, MeshBuilder
from dgtl_core.streetworld.scene import BUS, TRAIN, TRUCK


@lru_cache(maxsize=32)
def truck(index: int) -> Mesh:
    """Box lorry, flat-bed, tipper or articulated lorry number ``index``."""
    rng = random.Random(f'truck {index}')
    kind = ('box', 'box', 'flat', 'tipper', 'tank', 'semi')[index % 6]
    w, cab = rng.uniform(1.05, 1.25), rng.uniform(1.6, 2.2)
    length = rng.uniform(5.5, 8.5) if kind != 'semi' else rng.uniform(11, 14)
    height, floor = rng.uniform(2.5, 3.0), rng.uniform(0.85, 1.1)
    f = length / 2
    b = MeshBuilder(TRUCK)
    b.group = 0
    front = f - cab
    if kind in ('box', 'semi'):
        high = rng.uniform(2.9, 3.7)
        b.box((-w, w), (floor, high), (-f, front - 0.2), (EXTRA,))
        for side in (-1, 1):  # a panel with lettering
            z0, z1 = -f * 0.7, front - 0.2 - f * 0.3
            x = side * (w + 0.01)
            b.quad([(x, floor + (high - floor) * 0.35, z0), (x, floor + (high - floor) * 0.35, z1),
                    (x, floor + (high - floor) * 0.7, z1), (x, floor + (high - floor) * 0.7, z0)],
                   PAINT, (0, 1, 0))
        b.quad([(-0.02, floor, -f - 0.01), (0.02, floor, -f - 0.01), (0.02, high, -f - 0.01),
                (-0.02, high, -f - 0.01)], TRIM, (0, 1, 0))
    elif kind == 'tank':
        for y0, y1, a, c in ((floor + 0.1, floor + 0.7, 0.6, 1.0),
                             (floor + 0.7, floor + 1.3, 1.0, 0.95),
                             (floor + 1.3, floor + 1.75, 0.95, 0.5)):
            b.hexa((-w * a, w * a, -f, front - 0.3), (-w * c, w * c, -f, front - 0.3), (y0, y1),
                   (EXTRA,))
    else:
        sides = rng.uniform(0.4, 1.1) if kind == 'flat' else rng.uniform(0.9, 1.4)
        b.box((-w, w), (floor, floor + sides), (-f, front - 0.2),
              (EXTRA, EXTRA, EXTRA, EXTRA, TRIM))
        if rng.random() < 0.6:
            b.box((-w * 0.8, w * 0.8),
                  (floor + sides * 0.9, floor + sides + rng.uniform(0.3, 0.9)),
                  (-f * 0.8, front - 0.8), (LOWER,))
    b.box((-w * 0.8, w * 0.8), (0.5, floor), (-f, front), (TRIM,))
    b.quad([(-w, 0.5, -f - 0.01), (w, 0.5, -f - 0.01), (w, 0.68, -f - 0.01),
            (-w, 0.68, -f - 0.01)], TRIM, (0, 1, 0))
    for side in (-1, 1):
        b.quad([(side * w * 0.6, 0.7, -f - 0.02), (side * w * 0.95, 0.7, -f - 0.02),
                (side * w * 0.95, 0.85, -f - 0.02), (side * w * 0.6, 0.85, -f - 0.02)], TAIL,
               (0, 1, 0), 2)
    axles = (-f + 0.8, -f + 1.9, front - 1.2) if kind == 'semi' else (-f + length * 0.2,)
    wheels(b, w, axles, 0.48)
    b.group = 1
    b.hexa((-w, w, front, f), (-w * 0.96, w * 0.96, front, f - 0.08), (0.45, 1.35),
           (LOWER, LOWER, PAINT, PAINT, -1))
    b.hexa((-w * 0.96, w * 0.96, front, f - 0.08), (-w * 0.9, w * 0.9, front, f - 0.4),
           (1.35, height), (PAINT, PAINT, PAINT, PAINT, ROOF))
    z0, z1 = f - 0.1, f - 0.34
    y0, y1 = 1.45, 1.35 + (height - 1.35) * 0.8
    b.quad([(-w * 0.88, y0, z0 + 0.02), (w * 0.88, y0, z0 + 0.02), (w * 0.84, y1, z1 + 0.02),
            (-w * 0.84, y1, z1 + 0.02)], GLASS, (0, 1, 0))
    b.quad([(-w * 0.86, (y0 + y1) / 2, (z0 + z1) / 2 + 0.03),
            (w * 0.3, (y0 + y1) / 2 + 0.2, (z0 + z1) / 2 + 0.01), (w * 0.5, y1, z1 + 0.03),
            (-w * 0.84, y1, z1 + 0.03)], SKY_GLASS, (0, 1, 0))
    b.quad([(-w * 0.7, 0.8, f + 0.01), (w * 0.7, 0.8, f + 0.01), (w * 0.7, 1.3, f - 0.05),
            (-w * 0.7, 1.3, f - 0.05)], TRIM, (0, 1, 0))
    for side in (-1, 1):
        x = side * (w * 0.965)
        b.quad([(x, 1.5, front + 0.3), (x, 1.5, f - 0.25), (x * 0.97, 1.95, f - 0.38),
                (x * 0.97, 2.15, front + 0.3)], GLASS, (0, 1, front + 0.5))
        b.quad([(side * w * 0.6, 0.6, f + 0.02), (side * w * 0.96, 0.6, f + 0.02),
                (side * w * 0.96, 0.82, f + 0.02), (side * w * 0.6, 0.82, f + 0.02)], LAMP,
               (0, 1, 0), 1)
        b.box((side * (w + 0.14) - 0.07, side * (w + 0.14) + 0.07), (1.6, 2.1),
              (f - 0.25, f - 0.15), (TRIM,))
    b.quad([(-0.26, 0.5, f + 0.02), (0.26, 0.5, f + 0.02), (0.26, 0.62, f + 0.02),
            (-0.26, 0.62, f + 0.02)], PLATE, (0, 1, 0))
    wheels(b, w, (f - 0.85,), 0.48)
    return b.build()


def _long_vehicle(b: MeshBuilder, rng: random.Random, w: float, length: float, low: float,
                  high: float, decks: int, doors: bool) -> None:
    f = length / 2
    step = (high - low) / decks
    b.box((-w, w), (low, low + step * 0.34), (-f, f), (LOWER, LOWER, LOWER, LOWER, -1))
    b.hexa((-w, w, -f, f), (-w * 0.97, w * 0.97, -f + 0.05, f - 0.12), (low + step * 0.34, high),
           (PAINT, PAINT, PAINT, PAINT, ROOF))
    pitch = rng.uniform(1.1, 1.7)
    for deck in range(decks):
        y0, y1 = low + step * (deck + 0.42), low + step * (deck + 0.8)
        n = max(3, int((length - 0.6) / pitch))
        for side in (-1, 1):
            x0, x1 = (side * (w * (1 - 0.03 * ((y - low) / (high - low) - 0.1)) + 0.008)
                      for y in (y0, y1))
            for i in range(n):
                z0 = -f + 0.3 + (length - 0.6) * i / n
                z1 = z0 + (length - 0.6) / n - rng.choice((0.08, 0.08, 0.14))
                door = doors and deck == 0 and i in (n - 1, n // 2)
                ya = low + 0.1 if door else y0
                b.quad([(x0, ya, z0), (x0, ya, z1), (x1, y1, z1), (x1, y1, z0)], GLASS, (0, y0, 0),
                       3)
                if rng.random() < 0.6:
                    b.quad([(x0 * 1.002, (y0 + y1) / 2, z0),
                            (x0 * 1.002, (y0 + y1) / 2 + 0.15, z1), (x1 * 1.002, y1, z1),
                            (x1 * 1.002, y1, z0)], SKY_GLASS, (0, y0, 0))
        for sign in (1, -1):
            z = sign * (f + 0.01) - sign * 0.05
            ya = low + step * (0.36 if sign > 0 else 0.5) + step * deck
            yb = low + step * (deck + 0.84)
            b.quad([(-w * 0.9, ya, z), (w * 0.9, ya, z), (w * 0.88, yb, z - sign * 0.06),
                    (-w * 0.88, yb, z - sign * 0.06)], GLASS, (0, ya, 0), 3)
            b.quad([(-w * 0.88, (ya + yb) / 2, z + sign * 0.01),
                    (w * 0.2, (ya + yb) / 2 + 0.25, z + sign * 0.01),
                    (w * 0.4, yb, z - sign * 0.05), (-w * 0.86, yb, z - sign * 0.05)], SKY_GLASS,
                   (0, ya, 0))
    for sign in (1, -1):  # destination
        z = sign * (f - 0.02)
        b.quad([(-w * 0.6, high - 0.36, z), (w * 0.6, high - 0.36, z), (w * 0.6, high - 0.12, z),
                (-w * 0.6, high - 0.12, z)], TRIM, (0, high, 0), 4)


def _lamps(b: MeshBuilder, w: float, f: float, y: float) -> None:
    for side in (-1, 1):
        for z, slot, glow in ((f + 0.02, LAMP, 1), (-f - 0.02, TAIL, 2)):
            b.quad([(side * w * 0.62, y, z), (side * w * 0.95, y, z),
                    (side * w * 0.95, y + 0.22, z), (side * w * 0.62, y + 0.22, z)], slot,
                   (0, 1, 0), glow)


@lru_cache(maxsize=24)
def bus(index: int) -> Mesh:
    """City bus, coach or double-decker number ``index``."""
    rng = random.Random(f'bus {index}')
    decks = 2 if index % 4 == 3 else 1
    w, length = rng.uniform(1.2, 1.27), rng.uniform(9, 12.5)
    high = rng.uniform(4.1, 4.4) if decks == 2 else rng.uniform(2.9, 3.3)
    b = MeshBuilder(BUS)
    f = length / 2
    _long_vehicle(b, rng, w, length, 0.32, high, decks, True)
    if rng.random() < 0.6:  # an advertisement or a stripe
        for side in (-1, 1):
            x = side * (w + 0.01)
            y = 0.4 if decks == 1 else 0.32 + (high - 0.32) * 0.42
            b.quad([(x, y, -f * 0.7), (x, y, f * 0.5), (x, y + 0.35, f * 0.5),
                    (x, y + 0.35, -f * 0.7)], EXTRA, (0, 1, 0))
    _lamps(b, w, f, 0.62)
    b.quad([(-0.26, 0.42, f + 0.02), (0.26, 0.42, f + 0.02), (0.26, 0.54, f + 0.02),
            (-0.26, 0.54, f + 0.02)], PLATE, (0, 1, 0))
    for side in (-1, 1):
        b.box((side * (w + 0.16) - 0.08, side * (w + 0.16) + 0.08),
              (high * 0.6, high * 0.6 + 0.45), (f - 0.1, f), (TRIM,))
    wheels(b, w, (f - 2.3, -f + 2.8), 0.47)
    return b.build()


@lru_cache(maxsize=24)
def train(index: int) -> Mesh:
    """A tram of two or three cars, or a local train."""
    rng = random.Random(f'train {index}')
    w, cars = rng.uniform(1.18, 1.35), rng.choice((2, 2, 3))
    length, high = rng.uniform(7.5, 11), rng.uniform(3.2, 3.7)
    b = MeshBuilder(TRAIN)
    for i in range(cars):
        b.group = i
        part = MeshBuilder(TRAIN)
        _long_vehicle(part, rng, w, length, 0.14, high, 1, True)
        f = length / 2
        for side in (-1, 1):  # the coloured stripe that trams have
            x = side * (w + 0.012)
            part.quad([(x, 0.55, -f), (x, 0.55, f), (x, 0.95, f), (x, 0.95, -f)], EXTRA, (0, 1, 0))
        part.box((-w * 0.5, w * 0.5), (high, high + 0.28), (-f * 0.6, f * 0.3), (TRIM,))
        if i == 0:  # pantograph
            part.quad([(-0.03, high + 0.2, 0), (0.03, high + 0.2, 0), (0.03, high + 1.1, 0.8),
                       (-0.03, high + 1.1, 0.8)], TRIM)
            part.quad([(-0.8, high + 1.08, 0.8), (0.8, high + 1.08, 0.8), (0.8, high + 1.16, 0.8),
                       (-0.8, high + 1.16, 0.8)], TRIM)
        if i in (0, cars - 1):
            _lamps(part, w, f, 0.7)
        offset = (i - (cars - 1) / 2) * (length + 0.35)
        piece = part.build()
        for face, slot, flat, glow in zip(piece.faces, piece.slots, piece.flat, piece.glow,
                                          strict=True):
            points = [tuple(piece.vertices[v] + (0, 0, offset)) for v in face]
            b.quad(points, int(slot), None if flat else _behind(points), int(glow))
        if i < cars - 1:
            b.box((-w * 0.85, w * 0.85), (0.2, high - 0.1),
                  (offset + length / 2, offset + length / 2 + 0.35), (TRIM,))
    return b.build()


def _behind(points: list[tuple[float, ...]]) -> tuple[float, float, float]:
    """A point behind a face whose corners are already in the right order."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[0], points[1], points[2]
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    return (ax - (uy * vz - uz * vy), ay - (uz * vx - ux * vz), az - (ux * vy - uy * vx))
