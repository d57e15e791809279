# SPDX-License-Identifier: Apache-2.0
"""
What weather and the time of day do to a rendered scene.

Every effect takes a ``strength``: the severity 1..5 as a number, 0 for none; between severities it
is interpolated, so that a drive can pass from one condition into another.
"""

from __future__ import annotations

from dataclasses import replace
import math

import cv2
from dgtl_core.data import weather
from dgtl_core.streetworld import textures
from dgtl_core.streetworld.meshes import Color
from dgtl_core.streetworld.render import Picture
from dgtl_core.streetworld.scene import Light, NUM_MATERIALS, ROAD, Thing, VEGETATION
from dgtl_core.streetworld.surfaces import sample
import numpy as np

CONDITIONS = ('clear', 'fog', 'night', 'rain', 'snow', 'low_sun')
_STEPS = (0, 1, 2, 3, 4, 5)


def at(strength: float, *values: float) -> float:
    """Interpolate a parameter that is given for the severities 0..5."""
    return float(np.interp(strength, _STEPS, values))


# -- light ----------------------------------------------------------------------------------------

def light_of(light: Light, condition: str, strength: float) -> Light:
    """The light of a scene under a condition; the geometry is not touched."""
    if condition == 'clear' or strength <= 0:
        return light
    w = at(strength, 0, 0.7, 0.8, 0.9, 0.96, 1.0)
    if condition == 'low_sun':
        return _low_sun(light, w)
    tone = {'fog': 212.0, 'rain': at(strength, 190, 182, 170, 158, 146, 134), 'snow': 216.0,
            'night': 196.0}[condition]
    sky = (tone, tone * 1.01, tone * 1.025)
    return replace(light, sun_strength=light.sun_strength * (1 - w), ambient=light.ambient
                   + (0.86 - light.ambient) * w,
                   zenith=_mix(light.zenith, tuple(c * 0.95 for c in sky), w),
                   horizon=_mix(light.horizon, sky, w),
                   cloud=_mix(light.cloud, tuple(c * 0.97 for c in sky), w), cover=light.cover
                   + (0.8 - light.cover) * w, haze=light.haze * (1 - w) + 0.002 * w,
                   exposure=light.exposure + (min(light.exposure, 0.98) - light.exposure) * w,
                   contrast=light.contrast + (1 - light.contrast) * w * 0.7)


def _low_sun(light: Light, w: float) -> Light:
    x = light.sun[0] * 0.35  # always in the picture or just beside it
    height = 0.13 + 0.1 * abs(light.sun[2])
    flat = math.hypot(x, 1.0)
    sun = (x / flat * math.cos(height), math.sin(height), math.cos(height) / flat)
    return replace(light, sun=sun, sun_strength=light.sun_strength + (0.95 - light.sun_strength)
                   * w, ambient=light.ambient + (0.62 - light.ambient) * w,
                   warm=_mix(light.warm, (1.0, 0.8, 0.52), w),
                   zenith=_mix(light.zenith, (150, 168, 200), w),
                   horizon=_mix(light.horizon, (255, 226, 176), w),
                   cloud=_mix(light.cloud, (255, 232, 200), w), haze=light.haze + 0.002 * w)


def _mix(a: Color, b: Color, w: float) -> Color:
    return tuple(p + (q - p) * w for p, q in zip(a, b, strict=True))


# -- effects --------------------------------------------------------------------------------------

def apply(condition: str, image: np.ndarray, picture: Picture, light: Light, things: list[Thing],
          strength: float, seed: int) -> np.ndarray:
    """Put a condition on a rendered picture, before the lens."""
    if condition == 'clear' or strength <= 0:
        return image
    if condition == 'fog':
        return _fog(image, picture, light, strength)
    if condition == 'night':
        return _night(image, picture, things, strength, seed)
    if condition == 'rain':
        return _rain(image, picture, light, strength, seed)
    if condition == 'snow':
        return _snow(image, picture, light, strength)
    return _glare(image, picture, light, strength, seed)


def after_lens(condition: str, image: np.ndarray, light: Light, strength: float, seed: int,
               time: float = 0.0) -> np.ndarray:
    """What happens at or in the camera: drops, flakes, noise of the dark."""
    if strength <= 0:
        return image
    if condition == 'night':
        read, shot = (at(strength, *column) for column in zip(*weather.NIGHT_NOISE))
        return weather.photon_noise(image, read, shot, seed + int(time * 1000))
    if condition == 'rain':
        image = weather.rain_streaks(image, at(strength, *weather.RAIN_STREAKS), seed, time,
                                     min(1.0, light.exposure))
        return weather.lens_drops(image, at(strength, *weather.RAIN_DROPS), seed)
    if condition == 'snow':
        return weather.snowflakes(image, at(strength, *weather.SNOW_FLAKES), seed, time,
                                  min(1.0, 0.2 + 0.8 * light.exposure))
    return image


def _fog(image: np.ndarray, picture: Picture, light: Light, strength: float) -> np.ndarray:
    return weather.fog(image, picture.depth, at(strength, *weather.FOG_EXTINCTION),
                       _gray(light.horizon))


def _gray(color: Color) -> tuple[float, float, float]:
    return (color[0] * 0.985, color[1] * 0.99, color[2] * 0.99)


def _rain(image: np.ndarray, picture: Picture, light: Light, strength: float,
          seed: int) -> np.ndarray:
    wet = at(strength, 0, 0.55, 0.7, 0.82, 0.92, 1.0)
    first, x, z, depth = picture.ground
    labels = picture.labels
    rows = labels.shape[0]
    # rain makes surfaces darker; a wet road mirrors what is behind it, more so at flat angles
    ground = (picture.faces[first:] > 0) & (picture.faces[first:] < NUM_MATERIALS)
    dark = np.full((rows, labels.shape[1]), int(255 * (1 - 0.2 * wet)), np.uint8)
    if first < rows:
        dark[first:][ground] = int(255 * (1 - 0.42 * wet))
    dark[picture.faces == 0] = 255
    image = cv2.multiply(image, cv2.merge([dark] * 3), scale=1 / 255)
    if 4 < first < rows:
        below = rows - first
        mirror = cv2.flip(image[max(0, first - below):first], 0)
        if len(mirror) < below:
            mirror = cv2.copyMakeBorder(mirror, 0, below - len(mirror), 0, 0, cv2.BORDER_REPLICATE)
        mirror = cv2.resize(cv2.blur(cv2.resize(mirror, None, fx=0.5, fy=0.25,
                                                interpolation=cv2.INTER_AREA), (3, 9)),
                            (image.shape[1], below))
        puddle = sample(textures.stains(), x, z, (18, 7))
        fresnel = np.minimum(1, 0.16 + (depth / (depth + 22)))
        share = np.clip((0.26 + 0.24 * puddle) * fresnel * 1.5, 0, 0.85) * wet
        share = np.where((labels[first:] == ROAD) & ground, share, share * 0.35 * ground)
        alpha = cv2.merge([(share * 255).astype(np.uint8)] * 3)
        image[first:] = cv2.add(cv2.multiply(image[first:], cv2.bitwise_not(alpha), scale=1 / 255),
                                cv2.multiply(mirror, alpha, scale=1 / 255))
    return weather.fog(image, picture.depth, at(strength, 0, 0.0025, 0.005, 0.009, 0.015, 0.024),
                       _gray(light.horizon))


def _snow(image: np.ndarray, picture: Picture, light: Light, strength: float) -> np.ndarray:
    amount = at(strength, 0, 0.3, 0.5, 0.7, 0.86, 1.0)
    first, x, z, _ = picture.ground
    faces, labels = picture.faces, picture.labels
    up = picture.up.take(faces)
    rough = textures.unevenness(faces.shape).astype(np.float32) - 128
    cover = np.clip((up - 0.45) * 3, 0, 1) * amount * 1.25 + rough * 0.012 * (up > 0.45)
    if first < faces.shape[0]:
        patch = sample(textures.stains(), x, z, (40, 14))
        rut = 0.5 + 0.5 * np.cos(x * np.float32(math.tau / 1.75))
        level = np.where(labels[first:] == ROAD, amount * 1.5 - 0.45 - 0.35 * rut,
                         amount * 1.5 + 0.05)
        on_ground = np.clip(level + 0.28 * patch, 0, 1) * np.float32(0.96)
        below = faces[first:]
        np.copyto(cover[first:], on_ground, where=(below > 0) & (below < NUM_MATERIALS))
    bright = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    np.copyto(cover, np.clip((bright - 62) * (0.016 * amount), 0, 0.9 * amount),
              where=labels == VEGETATION)
    cover[faces == 0] = 0
    alpha = cv2.merge([(np.clip(cover, 0, 1) * 255).astype(np.uint8)] * 3)
    shade = light.ambient + light.sun_strength * light.sun[1]
    table = np.stack([np.clip(np.arange(256) * c * min(1.0, shade) / 255, 0, 255)
                      for c in (228, 232, 240)], -1)
    white = cv2.LUT(alpha, table.astype(np.uint8)[None])
    image = cv2.add(cv2.multiply(image, cv2.bitwise_not(alpha), scale=1 / 255), white)
    return weather.fog(image, picture.depth, at(strength, 0, 0.002, 0.005, 0.010, 0.018, 0.03),
                       _gray(light.horizon))


def _night(image: np.ndarray, picture: Picture, things: list[Thing], strength: float,
           seed: int) -> np.ndarray:
    camera = picture.camera
    height, width = camera.size
    step = 2
    depth = picture.depth[::step, ::step]
    v, u = (np.arange(0, n, step, dtype=np.float32) for n in (height, width))
    ray_x = ((u + 0.5 - width / 2) / camera.focal)[None]
    ray_y = ((v + 0.5 - height / 2) / camera.focal)[:, None]
    r = camera.rotation
    x = depth * (np.float32(r[0, 0]) * ray_x + (np.float32(r[1, 0]) * ray_y + np.float32(r[2, 0])))
    z = depth * (np.float32(r[0, 2]) * ray_x + (np.float32(r[1, 2]) * ray_y + np.float32(r[2, 2])))
    ahead = np.maximum(z, 0)
    if camera.bend:
        x -= np.float32(camera.bend) * ahead * ahead
    lamps = np.zeros_like(depth)
    power = at(strength, 0, 0.62, 0.55, 0.46, 0.36, 0.24)
    for lx, lz in _lamp_places(things, camera.z):
        dx, dz = x - np.float32(lx - camera.x), z - np.float32(lz - camera.z)
        lamps += np.float32(power * 56) / (np.float32(34) + dx * dx + dz * dz)
    # the beam is wide, and dim above the height of the lamps
    below = ray_y + np.float32(math.tan(camera.pitch))
    beam = np.exp(-(ray_x / np.float32(0.5)) ** 2) * (0.15 + 0.85 / (1 + np.exp(-45 * below)))
    beam = beam * np.float32(at(strength, 0, 1.1, 1.05, 1.0, 0.92, 0.8)) / (1 + (depth / 17) ** 2)
    moon = np.float32(at(strength, 1, 0.30, 0.2, 0.125, 0.075, 0.04))
    sky = picture.faces[::step, ::step] == 0
    lamps[sky] = 0
    beam[sky] = 0
    town = 0.3 + 0.5 * np.exp(-np.abs(below) / 0.16)  # lights of the town over the horizon
    ambient = np.where(sky, moon * town.astype(np.float32), moon)
    planes = [np.clip((ambient * a + lamps * b + beam * c) * 128, 0, 255).astype(np.uint8) for a,
              b, c in ((0.78, 1.0, 1.0), (0.88, 0.8, 0.96), (1.16, 0.52, 0.86))]
    gain = cv2.resize(cv2.merge(planes), (width, height))
    image = cv2.multiply(image, gain, scale=1 / 128)
    # what shines by itself
    on = min(1.0, strength)
    emit = np.array([(0, 0, 0), (255, 246, 224), (215, 26, 18), (96, 86, 64), (0, 0, 0)],
                    np.float64) * on
    codes = picture.glow.take(picture.faces)
    lights = cv2.LUT(cv2.merge([codes] * 3), _padded(emit))
    signal = codes == 4
    if signal.any():
        lights[signal] = np.minimum(255, picture.image[signal].astype(np.float64) * 1.3
                                    * on).astype(np.uint8)
    number = np.arange(256)
    lit = ((number * 7919 + seed) % 251) / 251 < at(strength, 0, 0.42, 0.36, 0.3, 0.24, 0.18)
    lit[0] = False
    glow = np.where(lit, 110 + (number * 37) % 130, 0) * on
    window = np.stack([glow, glow * 0.84, glow * (0.42 + 0.3 * ((number * 13) % 7) / 7)], -1)
    lights = cv2.add(lights,
                     cv2.LUT(cv2.merge([picture.windows] * 3),
                             np.clip(window, 0, 255).astype(np.uint8)[None]))
    return weather.bloom(image, lights, at(strength, 0, 0.5, 0.55, 0.6, 0.65, 0.7))


def _padded(rows: np.ndarray) -> np.ndarray:
    table = np.zeros((1, 256, 3), np.uint8)
    table[0, :len(rows)] = np.clip(rows, 0, 255)
    return table


def _lamp_places(things: list[Thing], z: float) -> list[tuple[float, float]]:
    """Where the nearest street lamps throw their light."""
    near = [(t.z, t.x + math.copysign(1.2, -t.x)) for t in things if t.lamp and -10 < t.z
            - z < 110]
    return [(x, lz) for lz, x in sorted(near)[:9]]


def _glare(image: np.ndarray, picture: Picture, light: Light, strength: float,
           seed: int) -> np.ndarray:
    camera = picture.camera
    height, width = camera.size
    ray = camera.rotation @ np.array(light.sun)
    if ray[2] < 0.05:
        return image
    x, y = width / 2 + camera.focal * ray[0] / ray[2], height / 2 + camera.focal * ray[1] / ray[2]
    column, row = int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1))
    seen = picture.faces[max(0, row - 4):row + 5, max(0, column - 4):column + 5] == 0
    power = at(strength, 0, 0.3, 0.45, 0.62, 0.8, 1.0) * (0.6 + 0.4 * float(seen.mean()))
    tint = (1.0, 1 - 0.01 * strength, 1 - 0.04 * strength)
    warm = np.stack([np.arange(256) * c for c in tint], -1)
    image = cv2.LUT(image, warm.astype(np.uint8)[None])
    return weather.sun_glare(image, (x, y), power, seed=seed)
