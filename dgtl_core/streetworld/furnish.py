# SPDX-License-Identifier: Apache-2.0
"""What stands on the sidewalk and at the kerb: lamps, signs, trees, people, parked vehicles."""

from __future__ import annotations

import math
import random

from dgtl_core.streetworld import furniture, objects, people, two_wheelers
from dgtl_core.streetworld.plan import CHUNK, Street
from dgtl_core.streetworld.scene import Chunk, ROADWAY, Thing, WALK


def furnish(street: Street, out: Chunk, r: random.Random, side: int, a: float, b: float,
            h: float) -> None:
    """Everything that stands between the kerb and the yards, from a to b."""
    s, edge = (-1, 1)[side], street.halves[side]
    begin, end = street.walk_span(side)
    phase = r.uniform(0, 4)
    gap = street.lamp_gap
    k = math.ceil((a + 1) / gap)
    while k * gap < b - 1:
        if (k + side) % 2 == 0 or street.style == 'city':
            mesh = furniture.lamp(street.lamp)
            out.things.append(Thing(mesh, s * (edge + 0.5), k * gap, 0.0 if s < 0 else math.pi,
                                    street.metal, WALK, y=h, shadow=(0.1, 0.1), tall=6, lamp=True))
        k += 1
    if street.tree_gap[side]:
        x = edge + (begin / 2 if begin else min(0.9, max(0.5, end * 0.3)))
        z = a + phase
        while z < b - 1:
            if r.random() < 0.85:
                out.plants.append(objects.tree(r, street.tree_bare, s * x, z, WALK, 0.85, h))
            z += street.tree_gap[side] * r.uniform(0.85, 1.15)
    for _ in range(r.choice((0, 0, 1, 1, 2))):
        out.things.append(objects.sign(r, s * (edge + 0.45), r.uniform(a, b), h))
    if r.random() < 0.16:
        out.things.append(objects.light(r, s * (edge + 0.45), r.uniform(a, b), s, h))
    if r.random() < 0.12:  # bollards
        z = r.uniform(a, b)
        for i in range(r.randint(3, 8)):
            out.things.append(Thing(furniture.lamp(7), s * (edge + 0.4), z + 1.6 * i, 0,
                                    street.metal, WALK, y=h))
    if r.random() < 0.1:  # a railing along the kerb
        z = r.uniform(a, b)
        panel = objects.strip(r, s * (edge + 0.25), z, min(b, z + r.uniform(5, 14)), 'fence')
        panel.layer = WALK
        out.panels.append(panel)
    if street.walks[side]:
        count = street.people * (b - a) / CHUNK * r.uniform(0.3, 1.6)
        count = int(count) + (r.random() < count % 1)
        while count > 0:
            x = s * (edge + r.uniform(begin + 0.4, max(begin + 0.5, end - 0.3)))
            z = r.uniform(a, b)
            for _ in range(min(count, r.choice((1, 1, 1, 2, 2, 3)))):
                out.things.append(objects.person(r, x, z, WALK, r.random() < 0.2, h))
                x, z, count = x + r.uniform(-0.7, 0.7), z + r.uniform(-0.6, 0.6), count - 1
    if street.parking[side]:
        x = s * (street.lane_half + 1.08)
        z = a + r.uniform(0, 6)
        full = r.uniform(0.35, 0.95)
        while z < b - 4:
            if r.random() < full:
                roll = r.random()
                if roll < 0.06:
                    out.things.append(objects.vehicle(r, x, z + 2, 0.2, ROADWAY, ('motorcycle',)))
                    out.things[-1].lane = x
                    z += 1.4
                    continue
                kind = 'car' if roll < 0.975 else 'truck'
                thing = objects.vehicle(r, x, z + (2.4 if kind == 'car' else 4.4), 0.0, ROADWAY,
                                        (kind,))
                thing.lane = x
                turned = 0.0 if r.random() < 0.75 else math.pi
                along = 0.0 if s == street.hand else math.pi
                thing.yaw = turned + along + r.gauss(0, 0.02)
                out.things.append(thing)
                z += 5.4 if kind == 'car' else 9.5
            else:
                z += r.uniform(3, 7)


def parked_two_wheelers(street: Street, out: Chunk, r: random.Random, side: int, z: float,
                        h: float, cross: tuple[float, float] | None) -> None:
    """A row of bicycles or of motorcycles on the sidewalk, from ``z`` on."""
    s, edge = (-1, 1)[side], street.halves[side]
    end = street.walk_span(side)[1]
    x = edge + (r.uniform(0.6, 1.0) if r.random() < 0.5 else max(0.6, end - 0.7))
    motor = r.random() < 0.3
    across = r.random() < 0.6
    for i in range(r.randint(1, 7)):
        zi = z + i * (0.65 if across else 1.9)
        if cross and cross[0] - 1 < zi < cross[1] + 1:
            continue
        yaw = (math.pi / 2 * s if across else 0.0) + r.gauss(0, 0.12)
        mesh = (two_wheelers.motorcycle(r.randrange(8), False) if motor
                else two_wheelers.bicycle(r.randrange(4), None))
        out.things.append(Thing(mesh, s * x, zi, yaw, people.clothes(r), WALK, y=h,
                                shadow=(0.3, 0.7)))
