# SPDX-License-Identifier: Apache-2.0
"""Single random things at a given place."""

from __future__ import annotations

import random

from dgtl_core.streetworld import (
    cars,
    facades,
    furniture,
    large_vehicles,
    people,
    plants,
    textures,
    two_wheelers,
)
from dgtl_core.streetworld.scene import (
    BOUNDARY,
    BUILDING,
    FENCE,
    Foliage,
    Panel,
    Thing,
    VEGETATION,
    WALK,
    WALL,
    YARD,
)


def tree(r: random.Random, wintry: bool, x: float, z: float, layer: int, size: float = 1.0,
         y: float = 0.0) -> Foliage:
    """A tree; where it is ``wintry``, usually a bare one."""
    bare = r.random() < (0.85 if wintry else 0.08)
    plant = (plants.bare(r.randrange(plants.NUM_BARE)) if bare
             else plants.leafy(r.randrange(plants.NUM_LEAFY)))
    height = r.uniform(5, 12) * size
    dark, bright = plants.foliage_color(r)
    return Foliage(plant, x, z, height * plant.aspect, height, dark, bright, layer, y)


def bush(r: random.Random, x: float, z: float) -> Foliage:
    """A bush in a yard."""
    plant = plants.bush(r.randrange(plants.NUM_BUSHES))
    height = r.uniform(0.7, 2.6)
    dark, bright = plants.foliage_color(r)
    return Foliage(plant, x, z, height * plant.aspect, height, dark, bright, YARD)


def sign(r: random.Random, x: float, z: float, y: float = 0.0) -> Thing:
    """A traffic sign that faces the camera."""
    return Thing(furniture.sign(r.randrange(48)), x, z, r.gauss(0, 0.2),
                 furniture.furniture_colors(r), WALK, y=y, shadow=(0.15, 0.1))


def light(r: random.Random, x: float, z: float, s: int, y: float = 0.0) -> Thing:
    """A traffic light on side -1 or +1."""
    return Thing(furniture.traffic_light(r.randrange(32), r.choice((0, 0, 2, 2, 1))), x, z,
                 0.0 if s < 0 else r.gauss(0, 0.1), furniture.furniture_colors(r), WALK, y=y,
                 shadow=(0.15, 0.1))


def person(r: random.Random, x: float, z: float, layer: int, across: bool,
           y: float = 0.0) -> Thing:
    """A person who stands, walks along the street or (``across``) over it."""
    number, phase = r.randrange(people.NUM_PEOPLE), r.random()
    mesh = people.person(number, int(phase * people.NUM_PHASES), across)
    standing = number % 5 == 4
    direction = r.choice((-1, 1))
    speed = 0.0 if standing or across else direction * r.uniform(0.9, 1.6)
    return Thing(mesh, x, z, 0.0, people.clothes(r), layer, y=y, shadow=(0.28, 0.2), tall=1.7,
                 walk=(number, across, phase), speed=speed)


def strip(r: random.Random, x: float, a: float, b: float, kind: str,
          height: float | None = None) -> Panel:
    """A 'fence', 'wall' or 'hedge' along the street from a to b."""
    if kind == 'fence':
        texture, label = textures.fence(r.randrange(textures.NUM_FENCES)), FENCE
    elif kind == 'wall':
        texture, label = textures.wall(r.randrange(textures.NUM_WALLS)), WALL
    else:
        texture, label = plants.hedge(r.randrange(plants.NUM_HEDGES)), VEGETATION
    high = height if height is not None else texture.height
    gain = r.uniform(0.75, 1.15)
    return Panel((x, 0.0, a), (0.0, 0.0, b - a), (0, high, 0), texture,
                 ((b - a) / texture.width, min(1.0, high / texture.height)), label, BOUNDARY,
                 (gain, gain * r.uniform(0.97, 1.02), gain * r.uniform(0.94, 1.04)))


def front(r: random.Random, x: float, a: float, b: float, layer: int) -> Panel:
    """A house front along the street from a to b."""
    texture = facades.facade(r.randrange(facades.NUM_FACADES))
    return Panel((x, 0.0, a), (0.0, 0.0, b - a), (0, texture.height, 0), texture,
                 (max(1, round((b - a) / texture.width)), 1), BUILDING, layer, (1.0, 1.0, 1.0))


def vehicle(r: random.Random, x: float, z: float, yaw: float, layer: int, kinds: tuple[str, ...],
            h: float = 0.0) -> Thing:
    """A random vehicle of one of the kinds; a kind that is named twice comes twice as often."""
    kind = r.choice(kinds)
    if kind == 'car':
        return Thing(cars.car(r.randrange(64)), x, z, yaw, cars.paint(r), layer, y=h,
                     shadow=(0.95, 2.3), tall=1.4)
    if kind == 'truck':
        return Thing(large_vehicles.truck(r.randrange(32)), x, z, yaw, cars.paint(r, 'large'),
                     layer, y=h, shadow=(1.2, 3.6), tall=3)
    if kind == 'bus':
        return Thing(large_vehicles.bus(r.randrange(24)), x, z, yaw, cars.paint(r, 'large'), layer,
                     y=h, shadow=(1.25, 5.4), tall=3)
    if kind == 'train':
        return Thing(large_vehicles.train(r.randrange(24)), x, z, yaw, cars.paint(r, 'large'),
                     layer, y=h, shadow=(1.25, 12), tall=3.3)
    if kind == 'cyclist':
        number, phase = r.randrange(4), r.randrange(people.NUM_PHASES)
        return Thing(two_wheelers.bicycle(number, phase), x, z, yaw, people.clothes(r), layer, y=h,
                     shadow=(0.3, 0.8), tall=1.6, ride=number)
    if kind == 'motorcyclist':
        return Thing(two_wheelers.motorcycle(r.randrange(8), True), x, z, yaw, people.clothes(r),
                     layer, y=h, shadow=(0.35, 1.0), tall=1.5)
    if kind == 'motorcycle':
        return Thing(two_wheelers.motorcycle(r.randrange(8), False), x, z, yaw, people.clothes(r),
                     layer, y=h, shadow=(0.35, 1.0))
    raise ValueError(f'no vehicle {kind!r}')
