# SPDX-License-Identifier: Apache-2.0
"""StreetWorld itself: random streets, pictures of them, and a drive along one."""

from __future__ import annotations

from dataclasses import dataclass
import random

import numpy as np

from dgtl_core.data.streetworld.camera import Camera
from dgtl_core.data.streetworld.conditions import after_lens, apply, CONDITIONS, light_of
from dgtl_core.data.streetworld.layout import CHUNK, Street, without_collisions
from dgtl_core.data.streetworld.lens import draw_light, expose
from dgtl_core.data.streetworld.render import Renderer


@dataclass(frozen=True)
class Sample:
    """Shapes: image (H, W, 3) uint8 RGB, labels (H, W) uint8 train ids, depth (H, W) float32 metres."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray


def draw_camera(r: random.Random, size: tuple[int, int], street: Street) -> Camera:
    """A camera in a car (or a bus) in its lane."""
    height, width = size
    focal = r.uniform(0.72, 1.2) * width
    horizon = r.uniform(0.33, 0.54)
    lane = r.randrange(street.lanes)
    x = street.hand * (street.median / 2 + (lane + 0.5) * street.lane) + r.gauss(0, 0.4)
    return Camera(size=size, focal=focal, x=x, height=r.choice((1.25, 1.4, 1.5, 1.7, 2.2)) + r.gauss(0, 0.06), z=0.0,
                  yaw=r.gauss(0, 0.06 if r.random() < 0.8 else 0.22), pitch=float(np.arctan((0.5 - horizon) * height / focal)), roll=r.gauss(0, 0.012),
                  bend=r.choice((0.0, 0.0, r.gauss(0, 0.0012))))


class StreetWorld:
    """
    Random labelled street pictures; the same arguments give the same bytes.

    :raises ValueError: the condition, the severity or the size is not possible.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (512, 1024), condition: str = 'clear',
                 severity: int = 3) -> None:
        if condition not in CONDITIONS:
            raise ValueError(f'unknown condition {condition!r}; allowed are {list(CONDITIONS)}')
        if severity not in (1, 2, 3, 4, 5):
            raise ValueError(f'severity must be 1, 2, 3, 4 or 5, got {severity!r}')
        if len(size) != 2 or min(size) < 32:
            raise ValueError(f'size must be (height, width), each at least 32 pixels, got {size!r}')
        self.seed, self.size, self.condition, self.severity = seed, (int(size[0]), int(size[1])), condition, severity

    def picture(self, index: int) -> Sample:
        """Picture number ``index``; the scene does not depend on the condition."""
        key = f'{self.seed}/{index}'
        street = Street(key)
        r = random.Random(f'{key}/view')
        camera = draw_camera(r, self.size, street)
        light = draw_light(r)
        chunks = [street.chunk(i) for i in range(-1, 4)] + [street.specials(r, 0.0)]
        traffic = street.traffic(r, 0.0, 150.0)
        if r.random() < 0.13:
            end = r.uniform(26, 75)
            chunks = [chunk.before(end - 9) for chunk in chunks] + [street.end(r, end)]
            traffic = [thing for thing in traffic if thing.z < end - 10]
        standing = [t for chunk in chunks for t in chunk.things if abs(t.z) < 150]
        traffic = without_collisions(traffic, standing)
        chunks.insert(0, street.skyline(r, 150.0))
        condition, strength = self.condition, float(self.severity)
        light = light_of(light, condition, strength)
        picture = Renderer(camera, light, chunks, traffic, condition == 'night').draw()
        things = [t for chunk in chunks for t in chunk.things]
        image = apply(condition, picture.image, picture, light, things, strength, light.seed)
        image = expose(image, light, light.seed)
        image = after_lens(condition, image, light, strength, light.seed)
        return Sample(image, picture.labels, picture.depth)


__all__ = ['CHUNK', 'CONDITIONS', 'Sample', 'StreetWorld']
