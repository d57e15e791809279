# SPDX-License-Identifier: Apache-2.0
"""A drive along one street: the scene stays, the camera and the traffic move."""

from __future__ import annotations

from dataclasses import replace
import math
import random

from dgtl_core.streetworld import facades, people, plants, textures, two_wheelers
from dgtl_core.streetworld.background import skyline
from dgtl_core.streetworld.camera import Camera
from dgtl_core.streetworld.layout import chunk
from dgtl_core.streetworld.lens import draw_light
from dgtl_core.streetworld.plan import CHUNK, Street
from dgtl_core.streetworld.scene import Chunk, Light, Panel, ROADWAY, Thing, YARD
from dgtl_core.streetworld.traffic import driver, traffic, without_collisions
import numpy as np

SIGHT = 175.0  # metres; beyond it nothing but the skyline is drawn
SPEED = 8.5  # metres per second
GAP = 9.0  # metres to the vehicle ahead
_KINDS = ('car',) * 12 + ('truck', 'truck', 'bus', 'motorcyclist', 'cyclist')


class Drive:
    """The state of a drive; :meth:`step` moves it on."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self.random = r = random.Random(f'{seed}/drive')
        self.street = self._street(seed)
        self.light = self._light(r)
        height, width = size
        street = self.street
        focal = 0.95 * width
        self.camera = Camera(size=size, focal=focal, height=1.5, z=0.0, yaw=0.0, roll=0.0,
                             x=street.hand
                             * (street.median / 2 + (street.lanes - 0.5) * street.lane),
                             pitch=math.atan(0.08 * height / focal))
        self.time = 0.0
        self._chunks: dict[int, Chunk] = {}
        self._born: dict[int, float] = {}
        facades.draw_all()  # here, rather than in the first frames
        textures.draw_all()
        plants.draw_all()
        self._skyline = skyline(street, r, 150.0)
        self.traffic = [t for t in without_collisions(traffic(street, r, 0.0, 150.0), [])
                        if not self._in_the_way(t)]

    @staticmethod
    def _street(seed: int) -> Street:
        for attempt in range(50):
            street = Street(f'{seed}/drive/{attempt}')
            if street.style in ('city', 'town', 'mixed') and street.cross_chance < 0.5:
                break
        return street

    @staticmethod
    def _light(r: random.Random) -> Light:
        for _ in range(50):
            light = draw_light(r)
            if light.sun_strength > 0.4 and 0.9 < light.exposure < 1.3 and light.sun[1] > 0.5:
                break
        return light

    def _in_the_way(self, thing: Thing) -> bool:
        dx, dz = thing.x - self.camera.x, thing.z - self.camera.z
        return thing.lane is not None and abs(dx) < 1.3 and -8 < dz < GAP

    def step(self, seconds: float) -> None:
        """Let time pass: the camera and all that drives, rides or walks move on."""
        self.time += seconds
        for thing in self.traffic:
            direction = math.cos(thing.yaw)
            speed = thing.speed
            if direction > 0 and thing.lane is not None:
                ahead = [t for t in self.traffic if t is not thing and t.lane == thing.lane
                         and t.z > thing.z]
                leader = min(ahead, key=lambda t: t.z, default=None)
                if leader and leader.z - leader.shadow[1] - thing.z - thing.shadow[1] < 5:
                    speed = min(speed, leader.speed)
            thing.z += direction * speed * seconds
            if thing.ride is not None:
                phase = int(self.time * 8 * 1.1 + thing.ride) % people.NUM_PHASES
                thing.mesh = two_wheelers.bicycle(thing.ride, phase)
        ahead = [t for t in self.traffic if math.cos(t.yaw) > 0 and abs(t.x - self.camera.x) < 1.5
                 and t.z > self.camera.z]
        leader = min(ahead, key=lambda t: t.z, default=None)
        speed = SPEED
        if leader and leader.z - leader.shadow[1] - self.camera.z < GAP:
            speed = min(speed, leader.speed)
        sway = 0.12 * math.sin(self.time * 0.5)
        street = self.street
        lane = street.hand * (street.median / 2 + (street.lanes - 0.5) * street.lane)
        self.camera = replace(self.camera, z=self.camera.z + speed * seconds, x=lane + sway,
                              yaw=0.012 * math.cos(self.time * 0.5))
        self._renew_traffic()

    def _renew_traffic(self) -> None:
        """What is passed or out of sight is replaced by somebody new, far ahead."""
        z, r = self.camera.z, self.random
        for i, thing in enumerate(self.traffic):
            if -14 - thing.shadow[1] < thing.z - z < SIGHT + 60:
                continue
            direction = 1 if math.cos(thing.yaw) > 0 else -1
            train = thing.lane is not None and abs(thing.lane) < 0.5 and self.street.tracks
            kinds = ('train',) if train else _KINDS
            lane = thing.lane if thing.lane is not None else thing.x
            fresh = driver(r, lane, z + SIGHT + r.uniform(0, 50), direction, kinds)
            fresh.lane = lane
            if direction > 0:
                fresh.speed = r.uniform(5.0, 8.0)
            taken = any(t is not thing and t.lane == lane and abs(t.z - fresh.z) < t.shadow[1]
                        + fresh.shadow[1] + 3 for t in self.traffic)
            if not taken:
                self.traffic[i] = fresh

    def scene(self) -> tuple[list[Chunk], list[Thing]]:
        """What the camera may see now: what stands, and what moves."""
        z = self.camera.z
        first, last = math.floor((z - 30) / CHUNK), math.floor((z + SIGHT) / CHUNK)
        for index in range(first, last + 1):
            if index not in self._chunks:
                self._chunks[index] = chunk(self.street, index)
                self._born[index] = self.time
        for index in [i for i in self._chunks if i < first]:
            del self._chunks[index], self._born[index]
        moving = list(self.traffic)
        chunks = [self._moved_skyline()]
        for index in sorted(self._chunks):
            piece = self._chunks[index].before(z + SIGHT)
            still = []
            for thing in piece.things:
                if thing.walk is None:
                    still.append(thing)
                elif not (thing.layer == ROADWAY and abs(thing.x - self.camera.x) < 1.6):
                    moving.append(self._walked(thing, self.time - self._born[index]))
            piece.things = still
            chunks.append(piece)
        self._hide(chunks)
        return chunks, moving

    def _hide(self, chunks: list[Chunk]) -> None:
        """Leave out what a nearer house hides in a yard; the order by layers would show it."""
        houses = np.array([s for piece in chunks for s in piece.shades if s[4] > 4]).reshape(-1, 5)
        camera = self.camera
        for piece in chunks:
            piece.plants = [p for p in piece.plants if p.layer != YARD
                            or not _hidden(p.x, p.z, houses, camera)]
            piece.things = [t for t in piece.things if t.layer != YARD
                            or not _hidden(t.x, t.z, houses, camera)]

    def _walked(self, thing: Thing, seconds: float) -> Thing:
        number, across, phase = thing.walk or (0, False, 0.0)
        if thing.speed == 0:
            return thing
        step = int((phase + seconds * 0.95) * people.NUM_PHASES) % people.NUM_PHASES
        return replace(thing, z=thing.z + thing.speed * seconds,
                       mesh=people.person(number, step, across))

    def _moved_skyline(self) -> Chunk:
        z = self.camera.z
        panels: list[Panel] = [replace(p, corner=(p.corner[0], 0, p.corner[2] + z))
                               for p in self._skyline.panels]
        return Chunk(panels=panels, plants=[replace(p, z=p.z + z) for p in self._skyline.plants])


def _hidden(x: float, z: float, houses: np.ndarray, camera: Camera) -> bool:
    """Whether the way from the camera to a point passes through the footprint of a house."""
    # the front of a house is the long side that looks to the road
    front = np.where(houses[:, 0] > 0, houses[:, 0], houses[:, 1])
    with np.errstate(divide='ignore', invalid='ignore'):
        share = (front - camera.x) / (x - camera.x)
        at = camera.z + share * (z - camera.z)
    return bool(((share > 0) & (share < 0.98) & (at > houses[:, 2]) & (at < houses[:, 3])).any())
