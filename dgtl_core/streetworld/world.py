# SPDX-License-Identifier: Apache-2.0
"""StreetWorld itself: random streets, pictures of them, and a drive along one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import random

from dgtl_core.picture_header import MAX_PIXELS
from dgtl_core.streetworld.background import dead_end, skyline
from dgtl_core.streetworld.camera import Camera
from dgtl_core.streetworld.conditions import after_lens, apply, CONDITIONS, light_of
from dgtl_core.streetworld.drive import Drive
from dgtl_core.streetworld.layout import chunk
from dgtl_core.streetworld.lens import draw_light, expose
from dgtl_core.streetworld.plan import Street
from dgtl_core.streetworld.render import render
from dgtl_core.streetworld.scene import Chunk, Light, Thing
from dgtl_core.streetworld.traffic import specials, traffic, without_collisions
from dgtl_core.streetworld.variety import vary_camera, vary_light, vary_things
import numpy as np


@dataclass(frozen=True)
class DrawnPicture:
    """image (H, W, 3) uint8 RGB, labels (H, W) uint8 train ids, depth (H, W) float32 metres."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class DrivePicture(DrawnPicture):
    """One picture of a drive, its number and the condition that prevails."""

    condition: str
    index: int


def draw_camera(r: random.Random, size: tuple[int, int], street: Street) -> Camera:
    """A camera in a car (or a bus) in its lane."""
    height, width = size
    focal = r.uniform(0.72, 1.2) * width
    horizon = r.uniform(0.33, 0.54)
    lane = r.randrange(street.lanes)
    x = street.hand * (street.median / 2 + (lane + 0.5) * street.lane) + r.gauss(0, 0.4)
    return Camera(size=size, focal=focal, x=x, height=r.choice((1.25, 1.4, 1.5, 1.7, 2.2))
                  + r.gauss(0, 0.06), z=0.0, yaw=r.gauss(0, 0.06 if r.random() < 0.8 else 0.22),
                  pitch=float(np.arctan((0.5 - horizon) * height / focal)), roll=r.gauss(0, 0.012),
                  bend=r.choice((0.0, 0.0, r.gauss(0, 0.0012))))


class StreetWorld:
    """
    Random labelled street pictures; the same arguments give the same bytes.

    :raises ValueError: the condition, the severity or the size is not possible.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (512, 1024),
                 condition: str = 'clear', severity: int = 3, variety: bool = False) -> None:
        """
        Make a world.

        :param variety: pictures of more cameras, materials and daylight, to learn from; a drive
            has none of it.
        """
        _check_condition(condition)
        if severity not in (1, 2, 3, 4, 5):
            raise ValueError(f'severity must be 1, 2, 3, 4 or 5, got {severity!r}')
        if len(size) != 2 or min(size) < 32 or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(
                'size must be (height, width), each at least 32 pixels and not more than '
                f'{MAX_PIXELS} together, got {size!r}')
        self.seed, self.condition, self.severity = seed, condition, severity
        self.variety = variety
        self.size = (int(size[0]), int(size[1]))

    def picture(self, index: int) -> DrawnPicture:
        """Picture number ``index``; the scene does not depend on the condition."""
        key = f'{self.seed}/{index}'
        street = Street(key)
        r = random.Random(f'{key}/view')
        camera = draw_camera(r, self.size, street)
        light = draw_light(r)
        chunks = [chunk(street, i) for i in range(-1, 4)] + [specials(street, r, 0.0)]
        drivers = traffic(street, r, 0.0, 150.0)
        if r.random() < 0.13:
            stop = r.uniform(26, 75)
            chunks = [piece.before(stop - 9) for piece in chunks] + [dead_end(street, r, stop)]
            drivers = [thing for thing in drivers if thing.z < stop - 10]
        standing = [t for piece in chunks for t in piece.things if abs(t.z) < 150]
        drivers = without_collisions(drivers, standing)
        chunks.insert(0, skyline(street, r, 150.0))
        if self.variety:
            r = random.Random(f'{key}/variety')
            camera, light = vary_camera(r, camera), vary_light(r, light)
            vary_things(r, [*(t for piece in chunks for t in piece.things), *drivers])
        strengths = {self.condition: float(self.severity)}
        return DrawnPicture(*_shoot(camera, light, chunks, drivers, strengths, light.seed, 0.0))

    def stream(self, fps: float = 10.0,
               conditions: Sequence[str] = ('clear', 'fog', 'night', 'rain', 'snow'),
               seconds_per_condition: float = 12.0, loop: bool = False) -> Iterator[DrivePicture]:
        """
        Drive along a street; the conditions follow each other and pass over into each other.

        Yields ``fps * seconds_per_condition`` frames for each condition at this world's severity;
        with ``loop`` it starts over for ever (the drive goes on). The condition given to the
        constructor plays no part. The same arguments give the same frames.

        :raises ValueError: a condition is unknown, there is none, or a number is not positive.
        """
        for condition in conditions:
            _check_condition(condition)
        if not conditions:
            raise ValueError(f'stream needs at least one condition of {list(CONDITIONS)}')
        for name, value in (('fps', fps), ('seconds_per_condition', seconds_per_condition)):
            if not value > 0:
                raise ValueError(f'{name} must be greater than 0, got {value!r}')
        return self._frames(fps, tuple(conditions), seconds_per_condition, loop)

    def _frames(self, fps: float, conditions: tuple[str, ...], seconds: float,
                loop: bool) -> Iterator[DrivePicture]:
        drive = Drive(self.seed, self.size)
        blank = np.zeros((32, 32, 3), np.uint8)
        for condition in conditions:  # draws drops and flakes now, not in the middle of a drive
            after_lens(condition, blank, drive.light, 1.0, drive.light.seed)
        count = round(fps * seconds * len(conditions))
        index = 0
        while loop or index < count:
            time = index / fps
            strengths = _schedule(conditions, seconds, time, loop, float(self.severity))
            chunks, moving = drive.scene()
            noise_seed = drive.light.seed + 7919 * index
            shot = _shoot(drive.camera, drive.light, chunks, moving, strengths, noise_seed, time)
            yield DrivePicture(*shot, conditions[int(time / seconds) % len(conditions)], index)
            drive.step(1 / fps)
            index += 1


def _schedule(conditions: tuple[str, ...], seconds: float, time: float, loop: bool,
              severity: float) -> dict[str, float]:
    """How strong each condition is at a time; the change from one to the next takes up to 2 s."""
    ramp = min(1.0, seconds / 4)
    position = time / seconds
    now = int(position)
    strengths: dict[str, float] = {}
    for step in (now - 1, now, now + 1):
        if step < 0 or (not loop and step >= len(conditions)):
            continue
        start, end = step * seconds, (step + 1) * seconds
        rise = 1.0 if step == 0 else (time - start) / (2 * ramp) + 0.5
        fall = 1.0 if not loop and step == len(conditions) - 1 else (end - time) / (2 * ramp) + 0.5
        share = min(max(min(rise, fall), 0.0), 1.0)
        name = conditions[step % len(conditions)]
        strengths[name] = max(strengths.get(name, 0.0), severity * share)
    return {name: value for name, value in strengths.items() if value > 0}


def _shoot(camera: Camera, light: Light, chunks: list[Chunk], moving: list[Thing],
           strengths: dict[str, float], noise_seed: int,
           time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render one picture and put weather and lens on it: image, labels, depth."""
    seed = light.seed
    for condition, strength in strengths.items():
        light = light_of(light, condition, strength)
    picture = render(camera, light, chunks, moving, 'night' in strengths)
    things = [t for piece in chunks for t in piece.things]
    image = picture.image
    for condition, strength in strengths.items():
        image = apply(condition, image, picture, light, things, strength, seed)
    image = expose(image, light, noise_seed)
    for condition, strength in strengths.items():
        image = after_lens(condition, image, light, strength, seed, time)
    return image, picture.labels, picture.depth


def _check_condition(condition: str) -> None:
    if condition not in CONDITIONS:
        raise ValueError(f'unknown condition {condition!r}; allowed are {list(CONDITIONS)}')


__all__ = ['CONDITIONS', 'DrivePicture', 'DrawnPicture', 'StreetWorld']
