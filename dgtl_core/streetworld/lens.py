# SPDX-License-Identifier: Apache-2.0
"""The light of a scene and the faults of the camera that looks at it."""

from __future__ import annotations

from functools import lru_cache
import math
import random

import cv2
from dgtl_core.data.weather import noise_tile
from dgtl_core.streetworld.meshes import Color
from dgtl_core.streetworld.scene import (
    Light,
    Material,
    NUM_MATERIALS,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
)
import numpy as np


def _vary(r: random.Random, color: Color, amount: float) -> Color:
    gain = 1 + r.uniform(-amount, amount)
    return tuple(c * gain * (1 + r.uniform(-amount, amount) * 0.12) for c in color)


def draw_light(r: random.Random) -> Light:
    """Random weather without rain, fog or snow: sun or cloud, time of day, camera exposure."""
    sunny = r.random() < 0.5
    azimuth, height = r.uniform(0, math.tau), r.uniform(0.32, 1.0)
    sun = (math.cos(height) * math.sin(azimuth), math.sin(height),
           math.cos(height) * math.cos(azimuth))
    strength = r.uniform(0.35, 0.95) if sunny else r.uniform(0.0, 0.1)
    zenith: Color
    horizon: Color
    cloud: Color
    blue = r.random() < (0.75 if sunny else 0.1)
    if blue:
        zenith = _vary(r, (92, 142, 205), 0.2)
        horizon = _vary(r, (196, 214, 230), 0.08)
        cloud, cover = (244, 245, 247), r.choice((0.1, 0.3, 0.45, 0.6))
    elif r.random() < 0.7:  # blown out, as in many street pictures
        zenith = _vary(r, (236, 242, 250), 0.05)
        horizon = (248, 249, 250)
        cloud, cover = (255, 255, 255), r.uniform(0.3, 0.8)
    else:
        tone = r.uniform(150, 215)
        zenith, horizon = (tone * 0.93, tone * 0.97, tone), (tone * 1.08, tone * 1.08, tone * 1.08)
        cloud, cover = (tone * 1.03, tone * 1.03, tone * 1.04), r.uniform(0.5, 0.95)
    asphalt = _vary(r, (88, 90, 93), 0.2)
    walk = _vary(r, (100, 98, 94), 0.2)
    grass = _vary(r,
                  r.choice(((84, 100, 54), (92, 102, 60), (102, 102, 70), (72, 94, 50),
                            (110, 104, 76))), 0.16)
    table = ((SKY, (0, 0, 0), 0, 0), (ROAD, asphalt, 0.1, 0.08),
             (ROAD, _vary(r, asphalt, 0.3), 0.1, 0.06), (ROAD, (206, 206, 202), 0.08, 0.12),
             (ROAD, (194, 162, 62), 0.08, 0.12),
             (SIDEWALK, walk, 0.07, 0.08, r.choice((0.03, 0.08, 0.12))),
             (SIDEWALK, _vary(r, (120, 117, 111), 0.15), 0.1, 0.08), (TERRAIN, grass, 0.3, 0.14),
             (TERRAIN, _vary(r, (118, 100, 78), 0.2), 0.22, 0.16),
             (ROAD, _vary(r, r.choice(((128, 72, 62), asphalt, (70, 110, 84))), 0.1), 0.1, 0.08),
             (ROAD, (74, 71, 69), 0.1, 0.05),
             (SIDEWALK, _vary(r, walk, 0.2), 0.07, 0.1, r.choice((0.0, 0.06, 0.12))),
             (TERRAIN, _vary(r, (132, 126, 116), 0.15), 0.26, 0.1),
             (ROAD, tuple(0.55 * a + 0.45 * 206 for a in asphalt), 0.14, 0.16),
             (ROAD, _vary(r, (96, 92, 87), 0.2), 0.12, 0.1),
             (ROAD, _vary(r, (94, 91, 88), 0.15), 0.12, 0.1, 0.1))
    assert len(table) == NUM_MATERIALS
    ambient = r.uniform(0.8, 1.0) if not sunny else r.uniform(0.45, 0.8)
    warm = (1.0, 0.97, 0.9)
    materials = tuple(Material(*row) for row in table)
    exposure = math.exp(r.gauss(0.14, 0.2))
    balance = r.gauss(0, 0.025)
    return Light(sun=sun, sun_strength=strength, ambient=ambient, warm=warm, zenith=zenith,
                 horizon=horizon, cloud=cloud, cover=cover, cloud_size=r.uniform(0.5, 2.0),
                 cloud_shift=(r.randrange(512), r.randrange(512)), haze=r.uniform(0.0005, 0.004),
                 exposure=exposure, contrast=r.uniform(0.8, 1.2),
                 white_balance=(1 + balance, 1 + r.gauss(0, 0.008), 1 - balance),
                 vignette=r.choice((0.0, 0.1, 0.2, 0.35)), noise=r.uniform(0.5, 5.0),
                 blur=r.choice((0.0, 0.4, 0.55, 0.7, 0.95)), materials=materials,
                 seed=r.getrandbits(31))


@lru_cache(maxsize=8)
def _vignette(height: int, width: int, strength: float) -> np.ndarray:
    y = (np.arange(height) / max(1, height - 1) - 0.5)[:, None]
    x = (np.arange(width) / max(1, width - 1) - 0.5)[None]
    gain = 1 - strength * np.minimum(1, (x * x + y * y) * 2) ** 1.3
    return cv2.merge([(gain * 255).astype(np.uint8)] * 3)


def expose(image: np.ndarray, light: Light, noise_seed: int) -> np.ndarray:
    """Lens blur, exposure, contrast, white balance, vignette, sensor noise; uint8 in and out."""
    if light.blur:
        image = cv2.GaussianBlur(image, (3, 3) if light.blur < 0.8 else (5, 5), light.blur)
    level = np.arange(256, dtype=np.float64) / 255
    curves = []
    for gain in light.white_balance:
        value = level * light.exposure * gain + 0.015
        # bright values are lifted to white as over-exposure does; contrast turns about mid grey
        value = value + (level ** 4) * (1.08 - light.exposure * gain) * (light.exposure < 1.08)
        value = np.clip(value, 0, None)
        value = 0.42 * (value / 0.42) ** light.contrast
        curves.append(np.clip(value * 255, 0, 255))
    table = np.stack(curves, -1).astype(np.uint8)[None]
    image = cv2.LUT(image, table)
    if light.vignette:
        image = cv2.multiply(image, _vignette(*image.shape[:2], light.vignette), scale=1 / 255)
    a = light.noise / 32
    return cv2.addWeighted(image, 1, noise_tile(image.shape[:2], noise_seed), a, -128 * a)
