# SPDX-License-Identifier: Apache-2.0
"""The road itself: surface, markings, rails and crossings."""

from __future__ import annotations

import math
import random

from dgtl_core.streetworld import objects
from dgtl_core.streetworld.plan import Street
from dgtl_core.streetworld.scene import (
    ASPHALT,
    Chunk,
    CYCLE_LANE,
    HOUSE,
    Patch,
    RAIL,
    rectangle,
    REPAIR,
    ROADWAY,
    WALK,
    WHITE_LINE,
    WORN_LINE,
    YARD,
    YELLOW_LINE,
)


def road(street: Street, out: Chunk, r: random.Random, z0: float, z1: float,
         cross: tuple[float, float] | None) -> None:
    """Surface, repaired places, rails, lines and arrows from z0 to z1."""
    left, right = street.edge(0), street.edge(1)
    out.patches.append(rectangle(left, right, z0, z1, street.surface))
    top = out.top_patches
    for _ in range(r.randrange(4)):  # repaired places
        x, z = r.uniform(left, right - 1), r.uniform(z0, z1 - 4)
        w, n = r.uniform(0.6, 3), r.uniform(1, 12)
        top.append(rectangle(x, min(right, x + w), z, min(z1, z + n),
                             r.choice((REPAIR, REPAIR, ASPHALT))))
    if street.tracks:
        m = street.median / 2
        if street.track_bed != ASPHALT:
            top.append(rectangle(-m, m, z0, z1, street.track_bed))
        for x in (-0.75, 0.7):
            top.append(rectangle(x, x + 0.07, z0, z1, RAIL))
    for side, s in enumerate((-1, 1)):
        if street.cycle_lane:
            x = street.lane_half + (2.1 if street.parking[side] else 0)
            top.append(rectangle(s * x, s * (x + 1.3), z0, z1, CYCLE_LANE))
            top.append(rectangle(s * x, s * (x + 0.12), z0, z1, WHITE_LINE))
        elif street.parking[side]:
            top.append(rectangle(s * street.lane_half, s * (street.lane_half + 0.1), z0, z1,
                                 WORN_LINE))
        elif street.edge_line:
            x = street.halves[side] - 0.3
            top.append(rectangle(s * x, s * (x + 0.1), z0, z1, street.edge_line))
            if street.edge_line == YELLOW_LINE:
                top.append(rectangle(s * (x - 0.2), s * (x - 0.1), z0, z1, YELLOW_LINE))
    on, off = street.dash
    xs = [] if street.tracks else [0.0]
    for lane in range(1, street.lanes):
        xs += [street.median / 2 + lane * street.lane, -street.median / 2 - lane * street.lane]
    if street.tracks:
        xs += [street.median / 2, -street.median / 2]
    for x in xs:
        if on > 100:
            top.append(rectangle(x - 0.06, x + 0.06, z0, z1, street.line_color))
            continue
        period = on + off
        k = math.ceil(z0 / period)
        while k * period < z1:
            top.append(rectangle(x - 0.06, x + 0.06, k * period, k * period + on,
                                 street.line_color))
            k += 1
    for _ in range(r.randrange(3)):  # manholes
        x, z = r.uniform(left + 0.6, right - 0.6), r.uniform(z0, z1)
        top.append(Patch(((x - 0.3, 0, z), (x, 0, z - 0.3), (x + 0.3, 0, z), (x, 0, z + 0.3)),
                         REPAIR))
    if r.random() < 0.25:  # an arrow in a lane
        x = street.hand * (street.median / 2 + street.lane / 2)
        z = r.uniform(z0 + 2, z1 - 6)
        top.append(rectangle(x - 0.08, x + 0.08, z, z + 2.4, WHITE_LINE))
        top.append(Patch(((x - 0.45, 0, z + 2.4), (x + 0.45, 0, z + 2.4), (x + 0.02, 0, z + 4.2),
                          (x - 0.02, 0, z + 4.2)), WHITE_LINE))


def crossing(street: Street, out: Chunk, r: random.Random, cross: tuple[float, float]) -> None:
    """A street across: its surface, zebra, signals, and what waits in it."""
    a, b = cross
    top = out.top_patches
    top.append(rectangle(-90, 90, a, b, street.surface))
    if r.random() < 0.7:  # zebra
        for z in (a - 3.6, b + 0.6):
            x = street.edge(0) + 0.3
            while x < street.edge(1) - 0.4:
                top.append(rectangle(x, x + 0.5, z, z + 3.0, WHITE_LINE))
                x += 1.0
    s = street.hand
    top.append(rectangle(s * street.median / 2, s * street.lane_half, a - 4.6, a - 4.2,
                         WHITE_LINE))
    if r.random() < 0.12:  # box junction
        left, right = street.edge(0), street.edge(1)
        n = 6
        for i in range(-n, n):
            x = left + (right - left) * i / n
            d = right - left
            top.append(Patch(((x, 0, a), (x + 0.15, 0, a), (x + d + 0.15, 0, b), (x + d, 0, b)),
                             YELLOW_LINE))
    mid = (a + b) / 2
    for side, s in enumerate((-1, 1)):
        corner = s * (street.halves[side] + 0.5)
        lights = r.random() < 0.6
        for z in (a - 0.8, b + 0.8):
            if lights:
                out.things.append(objects.light(r, corner, z, s))
            elif r.random() < 0.6:
                out.things.append(objects.sign(r, corner, z))
        for _ in range(r.choice((0, 0, 1, 1, 2))):  # cars that wait or cross
            x = street.halves[side] + r.uniform(2, 22)
            layer = HOUSE if x > street.origin(side) else WALK
            out.things.append(objects.vehicle(r, s * x, mid - s * street.hand * (b - a) * 0.22,
                                              (-s) * math.pi / 2, layer, ('car',) * 9
                                              + ('truck', 'bus')))
        far = s * r.uniform(45, 70)
        out.panels.append(objects.front(r, far, a - 6, b + 6, HOUSE))
        if r.random() < 0.6:
            out.plants.append(objects.tree(r, street.tree_bare, s * r.uniform(20, 40), b + 1.5,
                                           YARD))
    for _ in range(r.choice((0, 0, 1, 2, 3)) if street.people > 1 else 0):
        x = r.uniform(street.edge(0), street.edge(1))
        out.things.append(objects.person(r, x, a - r.uniform(1, 3), ROADWAY, True))
        step = (math.floor((abs(x) - street.median / 2) / street.lane)
                + 0.5) * street.lane + street.median / 2
        out.things[-1].lane = math.copysign(max(0.0, step),
                                            x) if abs(x) > street.median / 2 else 0.0
