# SPDX-License-Identifier: Apache-2.0
"""
Weather and light on pictures, shared by StreetWorld and by the corruptions.

Pictures are (H, W, 3) uint8 RGB. Sizes of drops, flakes and streaks are made for a picture of 512
rows and scale with the height. Every function gives the same picture for the same arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
import math

import cv2
import numpy as np

ROWS = 512  # rows of the picture that the tiles are made for
FOG_EXTINCTION = (0.0, 0.010, 0.020, 0.036, 0.062, 0.110)  # 1 / metre, by severity 0..5
_TILE = (1024, 2048)
# flare ghosts: how far along the line, radius (1 is the height), colour
_GHOSTS = ((0.55, 0.05, (0.5, 1.0, 0.7)), (1.3, 0.18, (1.0, 0.7, 0.5)),
           (1.7, 0.035, (0.6, 0.8, 1.0)))


RAIN_STREAKS = (0.0, 0.10, 0.22, 0.38, 0.60, 0.90)  # share of the streaks, by severity 0..5
RAIN_DROPS = (0.0, 0.0, 0.06, 0.16, 0.32, 0.60)  # share of the drops on the lens
SNOW_FLAKES = (0.0, 0.08, 0.18, 0.32, 0.55, 0.90)  # share of the flakes
# read, shot
NIGHT_NOISE = ((0.0, 0.0), (1.5, 0.3), (2.5, 0.5), (4.0, 0.8), (6.0, 1.2), (9.0, 1.8))


def fractal(seed: Sequence[int], size: int, exponent: float) -> np.ndarray:
    """Tileable noise, amplitudes 1 / f ** exponent, mean 0, deviation 1, (size, size) float32."""
    rng = np.random.default_rng(list(seed))
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    spectrum /= np.maximum(frequency, 2 / size) ** exponent
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.ascontiguousarray(field / field.std(), np.float32)


# -- fog ------------------------------------------------------------------------------------------

def transmission(depth: np.ndarray, extinction: float) -> np.ndarray:
    """Share of light that comes through fog: exp(-extinction * depth). (H, W) float32."""
    scaled = np.multiply(depth, np.float32(-extinction), dtype=np.float32)
    return cv2.exp(scaled)


def fog(image: np.ndarray, depth: np.ndarray, extinction: float,
        airlight: tuple[float, float, float]) -> np.ndarray:
    """
    Koschmieder's law: I = J t + A (1 - t) with t = exp(-extinction * depth).

    ``depth`` (H, W) in metres, ``extinction`` in 1 / metre (one sees about 3 / extinction far),
    ``airlight`` A in 0..255. Source: H. Koschmieder, Theorie der horizontalen Sichtweite, 1924.
    """
    clear = cv2.convertScaleAbs(transmission(depth, extinction), alpha=255)
    kept = cv2.multiply(image, cv2.merge([clear] * 3), scale=1 / 255)
    table = np.round(np.outer(255 - np.arange(256), np.array(airlight) / 255))
    veil = cv2.LUT(cv2.merge([clear] * 3), np.clip(table, 0, 255).astype(np.uint8)[None])
    return cv2.add(kept, veil)


# -- noise ----------------------------------------------------------------------------------------

@lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    rng = np.random.default_rng(41)
    field = rng.standard_normal((768, 1280)).astype(np.float32)
    color = rng.standard_normal((768, 1280, 3)).astype(np.float32)
    mixed = 0.8 * field[..., None] + 0.6 * cv2.GaussianBlur(color, (3, 3), 0.6)
    return np.clip(mixed * 32 + 128, 0, 255).astype(np.uint8)


def noise_tile(size: tuple[int, int], seed: int) -> np.ndarray:
    """Sensor noise, (H, W, 3) uint8: mean 128, deviation about 32."""
    tile = _noise_tile()
    height, width = size
    y, x = seed % 251, (seed // 251) % 241
    while tile.shape[0] < y + height or tile.shape[1] < x + width:
        tile = np.tile(tile, (2, 2, 1))
    return tile[y:y + height, x:x + width]


def photon_noise(image: np.ndarray, read: float, shot: float, seed: int) -> np.ndarray:
    """Noise of a sensor in little light: variance read ** 2 + shot * value, in units of 0..255."""
    deviation = np.sqrt(read ** 2 + shot * np.arange(256))
    table = np.clip(np.round(deviation * 4), 0, 255).astype(np.uint8)
    spread = cv2.LUT(image, np.ascontiguousarray(table))
    shake = noise_tile((image.shape[0], image.shape[1]), seed).astype(np.int16) - 128
    grain = cv2.multiply(shake, spread, scale=1 / 128, dtype=cv2.CV_16S)
    return cv2.add(image, grain, dtype=cv2.CV_8U)


# -- drops and flakes -----------------------------------------------------------------------------

@lru_cache(maxsize=4)
def _streak_tile(angle: int) -> np.ndarray:
    """Rain streaks; each has a number 1..255 by which it appears as the rain grows."""
    rng = np.random.default_rng([51, angle])
    tile = np.zeros(_TILE, np.uint8)
    slope = (-0.18, -0.06, 0.07, 0.2)[angle]
    count = 7000
    numbers = np.sort(rng.integers(1, 256, count))[::-1]  # the first to appear are drawn last
    size = rng.choice((0.4, 0.9, 1.8), count, p=(0.72, 0.24, 0.04))
    length = rng.uniform(14, 34, count) * size
    x, y = rng.uniform(0, _TILE[1], count), rng.uniform(-40, _TILE[0], count)
    ends = np.round(np.stack([x, y, x + slope * length, y + length], 1)).astype(int).tolist()
    for number, (x0, y0, x1, y1), wide in zip(numbers.tolist(), ends, (size > 1).tolist()):
        cv2.line(tile, (x0, y0), (x1, y1), number, 2 if wide else 1)
    return tile


@lru_cache(maxsize=3)
def _flake_tile(kind: int) -> np.ndarray:
    """Snow flakes of one size; each has a number 1..255 by which it appears as the snow grows."""
    rng = np.random.default_rng([52, kind])
    tile = np.zeros(_TILE, np.uint8)
    count, low, high = ((26000, 0.5, 1.1), (6000, 1.1, 2.2), (900, 2.5, 5.5))[kind]
    numbers = np.sort(rng.integers(1, 256, count))[::-1]
    centres = rng.uniform(0, 16, (count, 2)) * (_TILE[1], _TILE[0])
    circles = np.round(np.column_stack([centres, rng.uniform(low, high, count)
                                        * 16])).astype(int).tolist()
    for number, (x, y, radius) in zip(numbers.tolist(), circles):
        cv2.circle(tile, (x, y), radius, number, -1, shift=4)
    return tile


def _window(tile: np.ndarray, size: tuple[int, int], y: float, x: float) -> np.ndarray:
    """A piece of an endless tile, scaled to a picture of this size; nearest, so numbers stay."""
    height, width = size
    rows, columns = ROWS, max(1, round(ROWS * width / height))
    y0, x0 = int(y) % tile.shape[0], int(x) % tile.shape[1]
    rows_at = np.arange(y0, y0 + rows) % tile.shape[0]
    if x0 + columns <= tile.shape[1]:
        piece = tile[rows_at, x0:x0 + columns]
    else:
        piece = tile[rows_at][:, np.arange(x0, x0 + columns) % tile.shape[1]]
    if piece.shape != (height, width):
        piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_NEAREST)
    return piece


def _appearing(amount: float) -> np.ndarray:
    """Table that turns a number 1..255 into 255 if it appears at this amount (0..1), softly."""
    number = np.arange(256, dtype=np.float64)
    table = np.clip((amount * 255 - number) * 12 + 255, 0, 255) * (amount * 255 + 20 > number)
    table[0] = 0
    return np.clip(table, 0, 255).astype(np.uint8)


def rain_streaks(image: np.ndarray, amount: float, seed: int, time: float = 0.0,
                 brightness: float = 1.0) -> np.ndarray:
    """
    Falling rain: bright blurred streaks.

    ``amount`` 0..1 is the share of the streaks that are seen; ``time`` in seconds makes them fall.
    """
    size = image.shape[:2]
    tile = _streak_tile(seed % 4)
    numbers = _window(tile, size, seed // 4 % 1024 - time * 5200, seed // 7 % 2048 + time * 700)
    layer = cv2.blur(cv2.LUT(numbers, _appearing(amount)), (1, 5) if size[0] > 200 else (1, 3))
    tone = np.clip(np.arange(256) * (0.30 + 0.12 * amount) * brightness, 0, 255).astype(np.uint8)
    return cv2.add(image, cv2.merge([cv2.LUT(layer, tone)] * 3))


def snowflakes(image: np.ndarray, amount: float, seed: int, time: float = 0.0,
               brightness: float = 1.0) -> np.ndarray:
    """
    Falling snow: small, middle and large out-of-focus flakes.

    ``amount`` 0..1 is the share of the flakes that are seen; ``time`` in seconds makes them fall.
    """
    size = image.shape[:2]
    layers = []
    for kind, (speed, blur, strength) in enumerate(((260, 3, 1.0), (480, 3, 0.95), (900, 9, 0.8))):
        drift = 60 * math.sin(time * 1.3 + kind)
        numbers = _window(_flake_tile(kind), size, seed // 3 % 1024 - time * speed,
                          seed // 5 % 2048 + drift)
        layer = cv2.LUT(numbers, _appearing(amount))
        if size[0] > 200:
            layer = cv2.blur(layer, (blur - 2, blur))
        layers.append(cv2.convertScaleAbs(layer, alpha=strength))
    flakes = cv2.max(cv2.max(layers[0], layers[1]), layers[2])
    alpha = cv2.merge([flakes] * 3)
    white = cv2.LUT(alpha, np.clip(np.arange(256) * 0.96 * brightness, 0, 255).astype(np.uint8))
    return cv2.add(cv2.multiply(image, cv2.bitwise_not(alpha), scale=1 / 255), white)


@lru_cache(maxsize=4)
def _drop_tile(kind: int) -> np.ndarray:
    rng = np.random.default_rng([53, kind])
    tile = np.zeros(_TILE, np.uint8)
    for number in np.sort(rng.integers(1, 256, 420))[::-1]:
        centre = round(rng.uniform(0, _TILE[1])), round(rng.uniform(0, _TILE[0]))
        r = rng.uniform(3, 15)
        cv2.ellipse(tile, centre, (round(r), round(r * rng.uniform(1.0, 1.5))), 0, 0, 360,
                    int(number), -1)
    return tile


def lens_drops(image: np.ndarray, amount: float, seed: int) -> np.ndarray:
    """Drops on the lens: in each, the picture upside down and out of focus; ``amount`` 0..1."""
    size = image.shape[:2]
    numbers = _window(_drop_tile(seed % 4), size, seed // 4 % 1024, seed // 9 % 2048)
    mask = cv2.LUT(numbers, _appearing(amount))
    if not mask.any():
        return image
    mask = cv2.blur(mask, (3, 3))
    small = cv2.resize(image, (max(1, size[1] // 8), max(1, size[0] // 8)),
                       interpolation=cv2.INTER_AREA)
    turned = cv2.resize(cv2.blur(cv2.flip(small, -1), (3, 3)), (size[1], size[0]))
    alpha = cv2.merge([mask] * 3)
    inside = cv2.addWeighted(turned, 0.6, cv2.resize(cv2.blur(small, (5, 5)), (size[1], size[0])),
                             0.4, 6)
    return cv2.add(cv2.multiply(image, cv2.bitwise_not(alpha), scale=1 / 255),
                   cv2.multiply(inside, alpha, scale=1 / 255))


# -- light ----------------------------------------------------------------------------------------

def bloom(image: np.ndarray, lights: np.ndarray, strength: float) -> np.ndarray:
    """Add ``lights`` (H, W, 3) uint8 with a halo, as lens and eye do."""
    height, width = image.shape[:2]
    small = cv2.resize(lights, (max(1, width // 4), max(1, height // 4)),
                       interpolation=cv2.INTER_AREA)
    unit = height / ROWS
    near = cv2.GaussianBlur(small, (0, 0), max(0.5, 2.0 * unit))
    window = (2 * round(7 * unit) + 1,) * 2
    wide = cv2.blur(cv2.blur(small, window), window)
    halo = cv2.addWeighted(near, 0.9 * strength, wide, 1.6 * strength, 0)
    return cv2.add(cv2.add(image, lights), cv2.resize(halo, (width, height)))


def sun_glare(image: np.ndarray, centre: tuple[float, float], strength: float,
              color: tuple[float, float, float] = (255, 226, 178), seed: int = 0) -> np.ndarray:
    """
    Look into the sun: a burnt-out disc, a wide glow, a veil over everything, and flare ghosts.

    ``centre`` (x, y) in pixels, may lie outside; ``strength`` 0..1.
    """
    height, width = image.shape[:2]
    h, w = max(2, height // 4), max(2, width // 4)
    y = ((np.arange(h, dtype=np.float32) + 0.5) * height / h - centre[1])[:, None] / height
    x = ((np.arange(w, dtype=np.float32) + 0.5) * width / w - centre[0])[None] / height
    distance = np.sqrt(x * x + y * y)
    glow = strength * (1.5 * np.exp(-(distance / (0.03 + 0.05 * strength)) ** 2)
                       + 0.75 * np.exp(-distance / (0.1 + 0.1 * strength))
                       + 0.3 * np.exp(-distance / 0.6))
    angle = np.arctan2(y, x)
    glow *= 1 + 0.16 * np.cos(6 * angle + seed % 7) + 0.08 * np.cos(14 * angle + seed % 11)
    ghosts = np.zeros((h, w, 3), np.float32)
    spread = 1.8 + 0.04 * (seed % 9)
    for along, radius, tone in _GHOSTS:  # on the line from the sun through the middle
        x_at = centre[0] + (width / 2 - centre[0]) * spread * along
        y_at = centre[1] + (height / 2 - centre[1]) * spread * along
        cv2.circle(ghosts, (round(x_at * w / width), round(y_at * h / height)),
                   max(1, round(radius * h)), tuple(34 * strength * t for t in tone), -1)
    ghosts = cv2.blur(ghosts, (3, 3))
    planes = [np.clip(glow * color[c] + ghosts[..., c], 0, 255).astype(np.uint8)
              for c in range(3)]
    light = cv2.resize(cv2.merge(planes), (width, height))
    # screen blending keeps the picture from clipping everywhere at once
    return cv2.subtract(cv2.add(image, light, dtype=cv2.CV_16U),
                        cv2.multiply(image, light, scale=1 / 255, dtype=cv2.CV_16U),
                        dtype=cv2.CV_8U)


def dim(image: np.ndarray, level: float,
        tint: tuple[float, float, float] = (0.86, 0.94, 1.14)) -> np.ndarray:
    """Scale the light of a picture (gamma 2.2) to ``level`` 0..1 and shift it towards blue."""
    value = (np.arange(256) / 255) ** 2.2
    table = np.stack([255 * np.clip(value * level * t, 0, 1) ** (1 / 2.2) for t in tint], -1)
    return cv2.LUT(image, np.round(table).astype(np.uint8)[None])
