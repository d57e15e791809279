# SPDX-License-Identifier: Apache-2.0
"""What closes the view: a skyline far ahead, or the end of the street."""

from __future__ import annotations

import math
import random

from dgtl_core.streetworld import facades, objects, plants
from dgtl_core.streetworld.plan import Street
from dgtl_core.streetworld.scene import (
    BUILDING,
    Chunk,
    Foliage,
    GRASS,
    HOUSE,
    KERB,
    Panel,
    PAVEMENT,
    PLAZA,
    rectangle,
    SKYLINE,
    WALK,
)


def skyline(street: Street, r: random.Random, z: float) -> Chunk:
    """Trees and houses far ahead that close the view."""
    out = Chunk()
    town = {'city': 0.75, 'town': 0.6, 'suburb': 0.35, 'mixed': 0.45}.get(street.style, 0.12)
    x = -150.0
    while x < 150:
        width = r.uniform(10, 30)
        at = z + r.uniform(0, 40)
        if r.random() < town:
            texture = facades.facade(r.randrange(facades.NUM_FACADES))
            out.panels.append(Panel((x, 0, at), (width, 0, 0),
                                    (0, texture.height * r.uniform(0.8, 1.6), 0), texture,
                                    (max(1, round(width / texture.width)), 1), BUILDING, SKYLINE))
        else:
            dark, bright = plants.foliage_color(r)
            for i in range(2):
                bare = street.tree_bare and r.random() < 0.5
                plant = (plants.bare(r.randrange(plants.NUM_BARE)) if bare
                         else plants.bush(r.randrange(plants.NUM_BUSHES)))
                high = r.uniform(6, 14)
                out.plants.append(Foliage(plant, x + width * (0.3 + 0.5 * i), at,
                                          max(width * 0.8, high), high, dark, bright, SKYLINE,
                                          -0.5))
        x += width * r.uniform(0.5, 0.9)
    return out


def dead_end(street: Street, r: random.Random, z: float) -> Chunk:
    """A street across at ``z`` with houses or a park behind it: here the street ends."""
    out = Chunk()
    out.top_patches.append(rectangle(-90, 90, z - 8, z, street.surface))
    out.top_patches.append(rectangle(-90, 90, z, z + 0.2, KERB, street.kerb))
    out.top_patches.append(rectangle(-90, 90, z + 0.2, z + 4, PAVEMENT, street.kerb))
    built = r.random() < 0.7
    out.top_patches.append(rectangle(-90, 90, z + 4, z + 60, PLAZA if built else GRASS))
    x = -90.0
    while x < 90:
        width = r.uniform(7, 18)
        if built and r.random() < 0.93:
            texture = facades.facade(r.randrange(facades.NUM_FACADES))
            n = max(1, round(width / texture.width))
            gain = r.uniform(0.7, 1.3)
            out.panels.append(Panel((x, 0.0, z + 4.5), (width, 0, 0), (0, texture.height, 0),
                                    texture, (n, 1), BUILDING, HOUSE, (gain, gain, gain)))
        elif not built:
            for _ in range(2):
                out.plants.append(objects.tree(r, street.tree_bare, x + r.uniform(0, width),
                                               z + r.uniform(6, 20), HOUSE, 1.2))
            if r.random() < 0.5:
                panel = objects.strip(r, 0, 0, width, r.choice(('fence', 'wall', 'hedge')))
                panel.corner, panel.right = (x, 0.0, z + 4.2), (width, 0.0, 0.0)
                out.panels.append(panel)
        x += width
    for _ in range(r.randrange(5)):
        out.things.append(objects.person(r, r.uniform(-20, 20), z + r.uniform(1, 3.5), WALK,
                                         r.random() < 0.6, street.kerb))
    for _ in range(r.randrange(4)):
        out.things.append(objects.vehicle(r, r.uniform(-20, 20), z - r.choice((2.2, 5.8)),
                                          r.choice((-1, 1)) * math.pi / 2, WALK, ('car',) * 6
                                          + ('bus', 'truck', 'cyclist')))
    return out
