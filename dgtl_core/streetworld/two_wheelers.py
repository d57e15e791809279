# SPDX-License-Identifier: Apache-2.0
"""Bicycles and motorcycles, ridden or parked."""

from __future__ import annotations

from functools import lru_cache
import math
import random

from dgtl_core.streetworld.meshes import Mesh, MeshBuilder
from dgtl_core.streetworld.people import (
    BAG,
    FRAME,
    HAIR,
    LAMP,
    LEGS,
    LEGS_BACK,
    METAL,
    NUM_PHASES,
    SHOES,
    SKIN,
    SLEEVE,
    SPOKES,
    TOP,
    WHEEL,
)
from dgtl_core.streetworld.scene import BICYCLE, MOTORCYCLE, RIDER


def _wheel(b: MeshBuilder, z: float, r: float, wide: float, inside: int = SPOKES) -> None:
    b.disc((0, r, z), r, 'x', WHEEL, None, 16)
    b.disc((0.003, r, z), r * 0.9, 'x', inside, (-1, r, z), 16)
    b.disc((-0.003, r, z), r * 0.9, 'x', inside, (1, r, z), 16)
    if inside != SPOKES:  # a cast wheel
        for x in (-0.01, 0.01):
            b.disc((x, r, z), r * 0.5, 'x', METAL, (-x, r, z), 10)
    b.box((-wide, wide), (0, 2 * r), (z - r * 0.35, z + r * 0.35), (WHEEL, WHEEL, -1, -1, WHEEL))


def _bar(b: MeshBuilder, p: tuple[float, float], q: tuple[float, float], thick: float, slot: int,
         wide: float = 0.02) -> None:
    """A tube in the plane x = 0 with a little width, from (y, z) to (y, z)."""
    (ya, za), (yb, zb) = p, q
    length = math.hypot(yb - ya, zb - za) or 1
    ny, nz = (zb - za) / length * thick, -(yb - ya) / length * thick
    for x in (-wide, wide):
        b.quad([(x, ya - ny, za - nz), (x, ya + ny, za + nz), (x, yb + ny, zb + nz),
                (x, yb - ny, zb - nz)], slot)
    b.quad([(-wide, ya, za), (wide, ya, za), (wide, yb, zb), (-wide, yb, zb)], slot)


def _rider(b: MeshBuilder, seat: tuple[float, float], hands: tuple[float, float], feet: float,
           phase: int, helmet: bool) -> None:
    """A person on a seat; points are (y, z)."""
    b.label = RIDER
    sy, sz = seat
    hy, hz = hands
    shoulder = (sy + 0.5, sz + (hz - sz) * 0.42)
    for side in (-1, 1):
        turn = math.tau * phase / NUM_PHASES + (math.pi if side > 0 else 0)
        foot = (feet + 0.15 + 0.15 * math.sin(turn), sz + 0.22 + 0.15 * math.cos(turn))
        knee = ((sy + foot[0]) / 2 + 0.1, (sz + foot[1]) / 2 + 0.28)
        slot = LEGS if side > 0 else LEGS_BACK
        for p, q, t in ((seat, knee, 0.085), (knee, foot, 0.065)):
            x = side * 0.13
            b.hexa((x - t, x + t, q[1] - t, q[1] + t), (x - t, x + t, p[1] - t, p[1] + t),
                   (q[0], p[0]), (slot,))
        b.box((side * 0.13 - 0.05, side * 0.13 + 0.05), (foot[0] - 0.08, foot[0]),
              (foot[1] - 0.08, foot[1] + 0.16), (SHOES,))
    b.hexa((-0.17, 0.17, sz - 0.13, sz + 0.13),
           (-0.22, 0.22, shoulder[1] - 0.11, shoulder[1] + 0.11), (sy - 0.06, shoulder[0]),
           (TOP, TOP, SLEEVE, TOP, TOP))
    for side in (-1, 1):
        x0, x1 = side * 0.24, side * 0.26
        b.hexa((x1 - 0.05, x1 + 0.05, hz - 0.06, hz + 0.06),
               (x0 - 0.05, x0 + 0.05, shoulder[1] - 0.06, shoulder[1] + 0.06), (hy, shoulder[0]),
               (SLEEVE,))
    head = (shoulder[0] + 0.2, shoulder[1] + 0.06)
    slot = HAIR if helmet else SKIN
    for y0, y1, a, c in ((-0.14, -0.04, 0.06, 0.1), (-0.04, 0.06, 0.1, 0.1),
                         (0.06, 0.13, 0.1, 0.05)):
        b.hexa((-a, a, head[1] - a, head[1] + a), (-c, c, head[1] - c, head[1] + c),
               (head[0] + y0, head[0] + y1), (SKIN if y0 < 0.05 and not helmet else slot, HAIR,
                                              slot, slot, HAIR))


@lru_cache(maxsize=4 * (NUM_PHASES + 1))
def bicycle(index: int, phase: int | None) -> Mesh:
    """A bicycle; with a rider whose legs are at ``phase``, or parked (None)."""
    rng = random.Random(f'bicycle {index}')
    r, base = rng.uniform(0.31, 0.36), rng.uniform(0.98, 1.1)
    b = MeshBuilder(BICYCLE)
    front, rear = base / 2, -base / 2
    _wheel(b, front, r, 0.028)
    _wheel(b, rear, r, 0.028)
    crank, seat, head = (r * 0.9, -0.05), (0.92, -0.22), (0.88, front - 0.14)
    for p, q in ((crank, seat), (crank, head), ((0.78, -0.18), head), (crank, (r, rear)),
                 ((0.75, -0.18), (r, rear)), (head, (r, front))):
        _bar(b, p, q, 0.025, FRAME)
    b.box((-0.07, 0.07), (0.92, 0.97), (-0.36, -0.1), (WHEEL,))
    b.box((-0.28, 0.28), (0.98, 1.03), (front - 0.22, front - 0.17), (METAL,))
    b.box((-0.05, 0.05), (0.8, 0.9), (front - 0.1, front - 0.04),
          (LAMP, METAL, METAL, METAL, METAL), 0)
    if index % 4 == 2:
        b.box((-0.15, 0.15), (0.72, 0.95), (front - 0.05, front + 0.25), (BAG,))
    if phase is not None:
        _rider(b, (0.98, -0.24), (1.03, front - 0.2), r * 0.5, phase, index % 2 == 1)
    return b.build()


@lru_cache(maxsize=16)
def motorcycle(index: int, ridden: bool) -> Mesh:
    """A motorcycle or scooter; with a rider or parked."""
    rng = random.Random(f'motorcycle {index}')
    r, base = rng.uniform(0.28, 0.34), rng.uniform(1.25, 1.5)
    front, rear = base / 2, -base / 2
    b = MeshBuilder(MOTORCYCLE)
    _wheel(b, rear, r, 0.08, WHEEL)
    b.hexa((-0.16, 0.16, rear + 0.15, front - 0.25), (-0.14, 0.14, rear + 0.25, front - 0.2),
           (0.26, 0.62), (METAL, METAL, FRAME if index % 2 else METAL, METAL, METAL))
    _bar(b, (r, front), (0.95, front - 0.3), 0.06, METAL, 0.09)
    _wheel(b, front, r, 0.06, WHEEL)
    b.hexa((-0.1, 0.1, front - 0.1, front + 0.22), (-0.1, 0.1, front - 0.16, front + 0.1),
           (r * 1.5, r * 2.2), (FRAME,))
    b.hexa((-0.17, 0.17, -0.12, front - 0.22), (-0.13, 0.13, -0.1, front - 0.3), (0.6, 0.9),
           (FRAME,))
    b.hexa((-0.15, 0.15, rear - 0.15, -0.1), (-0.13, 0.13, rear - 0.1, -0.12), (0.62, 0.78),
           (WHEEL,))
    b.box((-0.34, 0.34), (0.96, 1.02), (front - 0.36, front - 0.29), (WHEEL,))
    b.hexa((-0.17, 0.17, front - 0.3, front - 0.08), (-0.12, 0.12, front - 0.32, front - 0.2),
           (0.74, 1.12), (FRAME, WHEEL, FRAME, FRAME, FRAME))
    b.disc((0, 0.86, front - 0.06), 0.09, 'z', LAMP, (0, 0.86, 0), 10, 1)
    b.box((-0.08, 0.08), (0.66, 0.74), (rear - 0.2, rear - 0.15), (BAG,), 2)
    if index % 3 == 0:
        b.box((-0.2, 0.2), (0.8, 1.1), (rear - 0.25, rear + 0.1), (WHEEL,))
    if ridden:
        _rider(b, (0.84, -0.28), (0.98, front - 0.34), 0.22, 0, True)
    return b.build()
