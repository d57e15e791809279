# SPDX-License-Identifier: Apache-2.0
"""
More different streets to learn from: other cameras, materials, paints and daylight.

It stays clear day: haze, the sun's height and the time of day are as they were drawn.
"""

from __future__ import annotations

from dataclasses import replace
import math
import random

from dgtl_core.streetworld.camera import Camera
from dgtl_core.streetworld.meshes import Color
from dgtl_core.streetworld.scene import Light, Thing


def vary_camera(r: random.Random, camera: Camera) -> Camera:
    """Another lens, another place on the vehicle, another mounting."""
    return replace(
        camera, focal=camera.focal * math.exp(r.uniform(-0.35, 0.45)),
        height=camera.height * math.exp(r.uniform(-0.35, 0.35)),
        pitch=camera.pitch + r.uniform(-0.12, 0.12), yaw=camera.yaw + r.gauss(0, 0.08),
        roll=camera.roll + r.gauss(0, 0.02))


def vary_light(r: random.Random, light: Light) -> Light:
    """Another sky under the same sun, other materials on the ground, another sensor."""
    tone = r.uniform(0.5, 1.1) if r.random() < 0.4 else 1.0
    zenith, horizon, cloud = (
        _tinted(r, tuple(c * tone for c in color), 0.1, 0.05)
        for color in (light.zenith, light.horizon, light.cloud))
    materials = tuple(
        replace(material, color=_tinted(r, material.color, 0.22, 0.06),
                grain=material.grain * r.uniform(0.3, 2.5),
                stains=material.stains * r.uniform(0.3, 2.5)) for material in light.materials)
    return replace(
        light, zenith=zenith, horizon=horizon, cloud=cloud, materials=materials,
        exposure=light.exposure * math.exp(r.gauss(0, 0.25)),
        contrast=light.contrast * r.uniform(0.75, 1.25), noise=r.uniform(0.3, 7.0),
        blur=r.choice((0.0, 0.0, light.blur, light.blur, 1.3)))


def vary_things(r: random.Random, things: list[Thing]) -> None:
    """Paint some of the things anew, each of its colours by itself; in place."""
    for thing in things:
        if r.random() < 0.5:
            thing.colors = [_tinted(r, color, 0.3, 0.12) for color in thing.colors]


def _tinted(r: random.Random, color: Color, tone: float, tint: float) -> Color:
    gain = math.exp(r.gauss(0, tone))
    return tuple(min(c * gain * math.exp(r.gauss(0, tint)), 255.0) for c in color)
