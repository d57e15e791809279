# SPDX-License-Identifier: Apache-2.0
"""What drives, and a few near things that keep every class frequent enough to be learnt."""

from __future__ import annotations

import math
import random

from dgtl_core.streetworld import objects
from dgtl_core.streetworld.furnish import parked_two_wheelers
from dgtl_core.streetworld.plan import Street
from dgtl_core.streetworld.scene import BOUNDARY, Chunk, ROADWAY, Thing


def traffic(street: Street, r: random.Random, z: float, reach: float) -> list[Thing]:
    """Everything that drives, between ``z`` and ``z + reach``."""
    out: list[Thing] = []
    kinds = ('car',) * 24 + ('truck', 'truck', 'bus', 'motorcyclist')
    for direction in (1, -1):
        for lane in range(street.lanes):
            x = direction * street.hand * (street.median / 2 + (lane + 0.5) * street.lane)
            at = z + (r.uniform(7, 45) if direction > 0 else r.uniform(2, 40))
            density = r.choice((10, 20, 40, 80))
            while at < z + reach:
                out.append(driver(r, x, at, direction, kinds))
                at += 7 + r.expovariate(1 / density)
    for direction in (1, -1):  # two-wheelers at the edge of the road
        for _ in range(r.choice((0, 0, 0, 0, 1, 1, 2))):
            x = direction * street.hand * (street.lane_half - 0.3)
            thing = driver(r, x + r.gauss(0, 0.2), z + r.uniform(6, 60), direction,
                           ('cyclist', 'cyclist', 'motorcyclist'))
            thing.lane = direction * street.hand * (street.median / 2 + (street.lanes - 0.5)
                                                    * street.lane)
            out.append(thing)
    if street.tracks and r.random() < 0.8:
        out.append(driver(r, 0.0, z + r.uniform(18, 60), r.choice((1, -1)), ('train',)))
    return out


def driver(r: random.Random, x: float, z: float, direction: int, kinds: tuple[str, ...]) -> Thing:
    """A vehicle that drives in the lane at ``x``, along +z (direction 1) or against it (-1)."""
    yaw = (0.0 if direction > 0 else math.pi) + r.gauss(0, 0.02)
    thing = objects.vehicle(r, x + r.gauss(0, 0.15), z, yaw, ROADWAY, kinds)
    thing.lane = x
    thing.speed = r.uniform(4, 6) if thing.ride is not None else r.uniform(7, 12)
    return thing


def specials(street: Street, r: random.Random, z: float) -> Chunk:
    """A few near things, so that no class is too rare to be learnt."""
    out = Chunk()
    s = street.hand
    lane = street.median / 2 + (street.lanes - 0.5) * street.lane
    for kind, chance in (('bus', 0.1), ('truck', 0.08), ('motorcyclist', 0.12), ('cyclist', 0.16)):
        if r.random() < chance:
            direction = r.choice((1, -1))
            shift = street.lane * 0.3 if kind in ('motorcyclist', 'cyclist') else 0
            thing = driver(r, direction * s * (lane + shift), z + r.uniform(9, 32), direction,
                           (kind,))
            thing.lane = direction * s * lane
            out.things.append(thing)
    side = r.randrange(2)
    sign = (-1, 1)[side]
    if street.side_track is not None and r.random() < 0.85:
        train = objects.vehicle(r, street.track_x(street.side_track), z + r.uniform(14, 40),
                                r.choice((0.0, math.pi)), BOUNDARY, ('train',))
        train.lane, train.speed = None, r.uniform(8, 12)
        out.things.append(train)
    if r.random() < 0.12:
        x = (-1, 1)[1 - side] * (street.origin(1 - side) + 0.15)
        a = z + r.uniform(5, 16)
        panel = objects.strip(r, x, a, a + r.uniform(8, 20), r.choice(('wall', 'fence')))
        out.panels.append(panel)
    if r.random() < 0.12:
        out.things.append(objects.light(r, sign * (street.halves[side] + 0.4),
                                        z + r.uniform(7, 22), sign, street.kerb))
    if r.random() < 0.15:
        zi = z + r.uniform(5, 20)
        parked_two_wheelers(street, out, r, side, zi, street.kerb if street.walks[side] else 0,
                            None)
    return out


def without_collisions(drivers: list[Thing], standing: list[Thing]) -> list[Thing]:
    """Leave out drivers that stand in each other or in what stands; the rare ones stay."""
    placed = [t for t in standing if t.layer == ROADWAY and t.shadow[0]]
    out: list[Thing] = []
    for thing in sorted(drivers, key=lambda t: t.shadow[0] == 0.95):
        w, n = thing.shadow
        if all(abs(t.x - thing.x) > t.shadow[0] + w + 0.1 or abs(t.z - thing.z) > t.shadow[1] + n
               + 0.4 for t in placed):
            placed.append(thing)
            out.append(thing)
    return out
