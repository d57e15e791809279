# SPDX-License-Identifier: Apache-2.0
"""
Corruptions of real pictures: the 15 families of ImageNet-C, and the weather of the road.

Strengths are those that Hendrycks and Dietterich published for ImageNet-C (Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations, ICLR 2019), made for 224 x 224 pixels;
lengths (radii, shifts, grain sizes) grow in proportion to the shorter side, so that the
picture looks the same as a whole. What differs from the published families, and why:

- ``frost``: they lay photographs of frost over the picture; here the frost is procedural.
- ``glass_blur``: they swap neighbours one after the other; here all pixels move at once.
- ``elastic_transform``: without their random affine part, and with growing instead of mixed
  strengths, so that the labels of a picture stay true to a few pixels.

Nothing moves labels: a corrupted picture keeps the labels of the original.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import cv2
from dgtl_core.data import weather
from dgtl_core.strict import suggestion
import numpy as np

CORRUPTIONS = (
    'gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur', 'motion_blur',
    'zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast', 'elastic_transform', 'pixelate',
    'jpeg_compression')
WEATHER = ('depth_fog', 'rain', 'snowfall', 'night', 'glare')

_REFERENCE = 224  # pixels, the shorter side that the published strengths are made for


def corrupt(image: np.ndarray, name: str, severity: int, seed: int = 0,
            depth: np.ndarray | None = None) -> np.ndarray:
    """
    Return a corrupted copy of a picture; the same arguments give the same bytes.

    Shape: image (H, W, 3) uint8 RGB, depth (H, W) in metres -> (H, W, 3) uint8. ``name`` is one of
    ``CORRUPTIONS`` or ``WEATHER``, ``severity`` 1 (weak) to 5; ``depth`` is for ``depth_fog``.

    :raises ValueError: the name or the severity is unknown, the picture is not (H, W, 3) uint8, or
        the depth is missing or has another size.
    """
    if name not in _FAMILIES and name != 'depth_fog':
        raise ValueError(f'unknown corruption {name!r}{suggestion(name, CORRUPTIONS + WEATHER)}')
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ValueError(f'severity must be 1, 2, 3, 4 or 5, got {severity!r}')
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 \
            or image.shape[2] != 3:
        got = (f'{image.dtype} {image.shape}' if isinstance(image, np.ndarray)
               else type(image).__name__)
        raise ValueError(f'a picture must be an (H, W, 3) uint8 array, got {got}')
    if name == 'depth_fog':
        if depth is None:
            raise ValueError('depth_fog needs depth=, an (H, W) array in metres; for a picture '
                             'without depth use "fog"')
        if depth.shape != image.shape[:2]:
            raise ValueError(f'depth must have the size of the picture {image.shape[:2]}, got '
                             f'{depth.shape}')
        return _depth_fog(image, depth, int(severity))
    rng = np.random.default_rng([seed, len(name), sum(name.encode())])
    return _FAMILIES[name](image, int(severity) - 1, rng)


def _unit(image: np.ndarray) -> float:
    return min(image.shape[:2]) / _REFERENCE


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Values about 0..1 -> 0..255."""
    return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)


def _unit_range(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) * np.float32(1 / 255)


def _noise_field(rng: np.random.Generator, size: tuple[int, int], exponent: float) -> np.ndarray:
    """Fractal noise over the whole picture, 0..1, (H, W) float32."""
    field = weather.fractal((int(rng.integers(2 ** 31)),), 512, exponent)
    field = cv2.resize(field, (max(size), max(size)), interpolation=cv2.INTER_CUBIC)
    field = field[:size[0], :size[1]]
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


# -- noise ----------------------------------------------------------------------------------------

def _gaussian_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return _to_uint8(_unit_range(image)
                     + np.float32(scale) * rng.standard_normal(image.shape, np.float32))


def _shot_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[level]
    return _to_uint8(rng.poisson(_unit_range(image) * photons) / photons)


def _impulse_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    draw = rng.random(image.shape, np.float32)
    out = image.copy()
    out[draw < amount / 2] = 0
    out[draw > 1 - amount / 2] = 255
    return out


# -- blur -----------------------------------------------------------------------------------------

def _defocus_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius, edge = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    size = radius * _unit(image)
    reach = max(1, math.ceil(size))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    # a pixel counts by the part of it that lies inside the disc
    disc = np.clip(size + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    disc = cv2.GaussianBlur(disc, (3, 3), edge * max(1.0, _unit(image)))
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT_101)


def _glass_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    sigma, shift, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    unit = _unit(image)
    sigma, shift = sigma * unit, max(1, round(shift * unit))
    out = cv2.GaussianBlur(image, (0, 0), sigma)
    height, width = out.shape[:2]
    y, x = np.mgrid[:height, :width]
    for _ in range(rounds):
        dy, dx = rng.integers(-shift, shift + 1, (2, height, width))
        out = out[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
    return cv2.GaussianBlur(out, (0, 0), sigma)


def _line_kernel(radius: float, sigma: float, angle: float) -> np.ndarray:
    """Weights of a motion that begins in the middle and fades out, (2 r + 1, 2 r + 1)."""
    reach = max(1, math.ceil(radius))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step in np.arange(0, radius + 0.25, 0.25):
        x, y = step * math.cos(angle), step * math.sin(angle)
        column, row = math.floor(x), math.floor(y)
        weight = math.exp(-step * step / (2 * sigma * sigma))
        for i, wy in ((row, 1 - (y - row)), (row + 1, y - row)):
            for j, wx in ((column, 1 - (x - column)), (column + 1, x - column)):
                if abs(i) <= reach and abs(j) <= reach:
                    kernel[reach + i, reach + j] += weight * wy * wx
    return kernel / kernel.sum()


def _motion_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    unit = _unit(image)
    kernel = _line_kernel(radius * unit, sigma * unit, math.radians(rng.uniform(-45, 45)))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _zoom_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    height, width = image.shape[:2]
    zooms = np.arange(1, end, step)
    total = image.astype(np.float32)
    for zoom in zooms:
        move = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2],
                         [0, zoom, (1 - zoom) * (height - 1) / 2]])
        cv2.accumulate(cv2.warpAffine(image, move, (width, height),
                                      borderMode=cv2.BORDER_REFLECT_101), total)
    return np.clip(np.round(total / (len(zooms) + 1)), 0, 255).astype(np.uint8)


# -- weather of ImageNet-C ------------------------------------------------------------------------

def _snow(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    mean, scale, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))[level]
    height, width = image.shape[:2]
    unit = _unit(image)
    grain = zoom * unit
    small = rng.normal(mean, scale, (math.ceil(height / grain), math.ceil(width / grain)))
    layer = cv2.resize(small.astype(np.float32), (width, height))
    layer[layer < threshold] = 0
    kernel = _line_kernel(radius * unit, sigma * unit, math.radians(rng.uniform(-135, -45)))
    layer = cv2.filter2D(np.clip(layer, 0, 1), -1, kernel)[..., None]
    value = _unit_range(image)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
    value = keep * value + (1 - keep) * np.maximum(value, gray * 1.5 + 0.5)
    return _to_uint8(value + layer + layer[::-1, ::-1])


def _frost(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    keep, amount = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    size = image.shape[:2]
    # needles: ridges where fractal noise passes its middle, at three sizes; denser at the rim
    ice: np.ndarray = np.zeros(size, np.float32)
    for exponent, weight, sharp in ((1.5, 0.5, 14.0), (1.2, 0.35, 9.0), (0.9, 0.25, 5.0)):
        ridge = 1 - np.abs(_noise_field(rng, size, exponent) * 2 - 1)
        ice += weight * ridge ** sharp
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None]
    rim = np.clip(np.maximum(np.abs(x), np.abs(y)) ** 2 + 0.5 * _noise_field(rng, size, 1.8) - 0.2,
                  0.1, 1)
    ice = np.clip(ice * 0.9 + 0.25 * _noise_field(rng, size, 0.6), 0, 1) * rim.astype(np.float32)
    color = np.array((0.86, 0.94, 1.0), np.float32)
    return _to_uint8(keep * _unit_range(image) + amount * ice[..., None] * color)


def _fog(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    value = _unit_range(image)
    # diamond-square noise whose steps shrink by this factor has amplitudes 1 / f ** (1 + log2)
    plasma = _noise_field(rng, image.shape[:2], 1 + math.log2(decay))
    brightest = float(value.max())
    return _to_uint8((value + amount * plasma[..., None]) * brightest / (brightest + amount))


# -- colour and coding ----------------------------------------------------------------------------

def _brightness(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    shift = (0.1, 0.2, 0.3, 0.4, 0.5)[level]
    hsv = cv2.cvtColor(_unit_range(image), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + shift, 0, 1)
    return _to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    gain = (0.4, 0.3, 0.2, 0.1, 0.05)[level]
    value = _unit_range(image)
    mean = value.mean((0, 1), keepdims=True)
    return _to_uint8((value - mean) * gain + mean)


def _elastic_transform(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    alpha, sigma = (0.03, 0.04, 0.05, 0.07, 0.12)[level], 0.01
    side = min(image.shape[:2])
    height, width = image.shape[:2]
    shifts = []
    for _ in range(2):
        field = rng.uniform(-1, 1, (height, width)).astype(np.float32)
        shifts.append(cv2.GaussianBlur(field, (0, 0), sigma * side, borderType=cv2.BORDER_REFLECT)
                      # a wider blur leaves less of the field; the shift shall grow with the side
                      * np.float32(alpha * side * _unit(image)))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(image, columns + shifts[0], rows + shifts[1], cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REFLECT_101)


def _pixelate(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = image.shape[:2]
    factor = share / _unit(image)
    small = cv2.resize(image, (max(1, round(width * factor)), max(1, round(height * factor))),
                       interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _jpeg_compression(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    quality = (25, 18, 15, 10, 7)[level]
    ok, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                            [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise RuntimeError(f'OpenCV could not code a picture of {image.shape} as JPEG')
    decoded: np.ndarray = cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


# -- weather on the road --------------------------------------------------------------------------

def _veil(image: np.ndarray, share: float, tone: float) -> np.ndarray:
    """Contrast that rain and snow in the air take away, where no depth is known."""
    return cv2.addWeighted(image, 1 - share, np.zeros_like(image), 0, share * tone)


def _depth_fog(image: np.ndarray, depth: np.ndarray, severity: int) -> np.ndarray:
    """Fog whose light has the colour of the bright part of the picture, usually the sky."""
    bright = np.percentile(image.reshape(-1, 3)[::17], 96, axis=0)
    air = tuple(float(c) for c in np.clip(bright, 165, 238))
    depth = np.nan_to_num(depth.astype(np.float32), nan=1e4, posinf=1e4)
    return weather.fog(image, depth, weather.FOG_EXTINCTION[severity], (air[0], air[1], air[2]))


def _rain(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    seed = int(rng.integers(2 ** 31))
    image = cv2.convertScaleAbs(image, alpha=(0.9, 0.84, 0.78, 0.72, 0.66)[level])
    image = _veil(image, (0.06, 0.1, 0.16, 0.22, 0.3)[level], 120)
    image = weather.rain_streaks(image, weather.RAIN_STREAKS[level + 1], seed)
    return weather.lens_drops(image, weather.RAIN_DROPS[level + 1], seed)


def _snowfall(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    image = _veil(image, (0.06, 0.12, 0.2, 0.28, 0.38)[level], 205)
    return weather.snowflakes(image, weather.SNOW_FLAKES[level + 1], int(rng.integers(2 ** 31)))


def _night(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    dark = weather.dim(image, (0.30, 0.18, 0.10, 0.055, 0.03)[level])
    read, shot = weather.NIGHT_NOISE[level + 1]
    return weather.photon_noise(dark, read, shot, int(rng.integers(2 ** 31)))


def _glare(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    centre = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.12, 0.4))
    return weather.sun_glare(image, centre, (0.3, 0.45, 0.62, 0.8, 1.0)[level],
                             seed=int(rng.integers(2 ** 31)))


_FAMILIES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    'gaussian_noise': _gaussian_noise, 'shot_noise': _shot_noise, 'impulse_noise': _impulse_noise,
    'defocus_blur': _defocus_blur, 'glass_blur': _glass_blur, 'motion_blur': _motion_blur,
    'zoom_blur': _zoom_blur, 'snow': _snow, 'frost': _frost, 'fog': _fog,
    'brightness': _brightness, 'contrast': _contrast, 'elastic_transform': _elastic_transform,
    'pixelate': _pixelate, 'jpeg_compression': _jpeg_compression, 'rain': _rain,
    'snowfall': _snowfall, 'night': _night, 'glare': _glare}
