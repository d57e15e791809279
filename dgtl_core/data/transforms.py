# SPDX-License-Identifier: Apache-2.0
"""
What happens to a picture and its labels before they are learned from.

Every choice comes from the generator that is passed in, so a sample is a function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.data.corruptions import corrupt, CORRUPTIONS
from dgtl_core.data.weather import photon_noise
from dgtl_core.processing import GREY
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional, InterpolationMode


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Sizes are (height, width) in pixels. A picture is resized, scaled, cropped, flipped."""

    crop: tuple[int, int] = (512, 512)
    short_edge: tuple[int, ...] = ()  # one of these for the shorter side, aspect ratio kept
    # What follows in the next two is for pictures without a short_edge.
    resize: tuple[int, int] = (0, 0)  # to this size first, whatever the aspect ratio; 0: as it is
    scale: tuple[float, float] = (0.5, 2.0)  # range of the random scale of the (resized) picture
    max_share: float = 0.75  # a crop where one class has a greater share is drawn again
    flip: bool = True
    photometric: float = 1.0  # strength of brightness, contrast, saturation and hue; 0: off
    # Chance of another camera and light (another_camera), far beyond photometric. No weather is
    # drawn, but low light and haze look much like it.
    camera: float = 0.0
    # Chance of one of ImageNet-C's corruptions at severity 1..3. Scores under these corruptions
    # no longer tell how a model takes the unknown.
    corruption: float = 0.0

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f'transforms.crop must be positive and transforms.scale a rising range, got '
                f'{list(self.crop)} and {list(self.scale)}')
        if any(side < 1 for side in self.short_edge) or min(self.resize) < 0 \
                or any(self.resize) != all(self.resize):
            raise ValueError(
                'transforms.short_edge must hold positive lengths, transforms.resize two of them '
                f'or [0, 0], got {list(self.short_edge)} and {list(self.resize)}')
        if self.photometric < 0:
            raise ValueError(f'transforms.photometric must be at least 0, got {self.photometric}')
        for name in ('camera', 'corruption'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f'transforms.{name} is a chance in 0..1, got {getattr(self, name)}')


def transform(
        image: np.ndarray, labels: np.ndarray, config: TransformConfig,
        generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """
    Scale, crop, flip and distort one labelled picture.

    Shape:
        (H, W, 3) uint8 RGB, (H, W) uint8 -> (3, h, w) uint8, (h, w) uint8 with (h, w) the crop;
        what lies beyond the picture, below and to the right, is grey with label 255
    """
    return views(image, labels, config, generator)[:2]


def views(image: np.ndarray, labels: np.ndarray, config: TransformConfig,
          generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return what :func:`transform` does, and the same crop before it was distorted."""
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    mask = torch.from_numpy(np.ascontiguousarray(labels))[None]
    picture, mask = _scale(picture, mask, config, generator)
    top, left = _window(mask[0], config, generator)
    height, width = config.crop
    picture, mask = (x[:, top:top + height, left:left + width] for x in (picture, mask))
    if config.flip and generator.random() < 0.5:
        picture, mask = picture.flip(-1), mask.flip(-1)
    undistorted = picture
    if config.photometric:
        picture = photometric(picture, config.photometric, generator)
    if config.camera and generator.random() < config.camera:
        picture = _planes(another_camera(_pixels(picture), generator))
    if config.corruption and generator.random() < config.corruption:
        family = CORRUPTIONS[int(generator.integers(len(CORRUPTIONS)))]
        picture = _planes(corrupt(
            _pixels(picture), family, int(generator.integers(1, 4)),
            seed=int(generator.integers(2**31))))
    truth = torch.full((height, width), IGNORE_INDEX, dtype=torch.uint8)
    truth[:mask.shape[1], :mask.shape[2]] = mask[0]
    return _on_grey(picture, config.crop), truth, _on_grey(undistorted, config.crop)


def _on_grey(picture: Tensor, size: tuple[int, int]) -> Tensor:
    image = torch.tensor(GREY, dtype=torch.uint8).view(3, 1, 1).repeat(1, *size)
    image[:, :picture.shape[1], :picture.shape[2]] = picture
    return image


def _pixels(picture: Tensor) -> np.ndarray:
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _scale(picture: Tensor, mask: Tensor, config: TransformConfig,
           generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = mask.shape[1:]
    if config.short_edge:
        chosen = config.short_edge[int(generator.integers(len(config.short_edge)))]
        factor = chosen / min(height, width)
    else:
        height, width = config.resize if all(config.resize) else (height, width)
        factor = generator.uniform(*config.scale)
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    if size == list(mask.shape[1:]):
        return picture, mask
    return (functional.resize(picture, size, antialias=True),
            functional.resize(mask, size, InterpolationMode.NEAREST_EXACT))


def _window(mask: Tensor, config: TransformConfig,
            generator: np.random.Generator) -> tuple[int, int]:
    """Draw a crop; draw it again, at most nine times, while one class fills too much of it."""
    height, width = config.crop
    free = max(mask.shape[0] - height, 0), max(mask.shape[1] - width, 0)
    for _ in range(10):
        top, left = (int(generator.integers(0, n + 1)) for n in free)
        if config.max_share >= 1 or not any(free):
            break
        counts = torch.bincount(
            mask[top:top + height, left:left + width].flatten(), minlength=256)[:IGNORE_INDEX]
        if counts.max() < config.max_share * counts.sum():
            break
    return top, left


def photometric(picture: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """
    Change brightness, contrast, saturation and hue, each with probability one half.

    At strength 1 the ranges are those of MMSegmentation: +-32 of 255, factors 0.5..1.5, and +-18
    of the 180 hues of OpenCV, which are 36 degrees.
    """
    def chance() -> bool:
        return generator.random() < 0.5

    def factor() -> float:
        return 1 + 0.5 * strength * generator.uniform(-1, 1)

    if chance():  # brightness is an offset here; clamped by the type
        offset = round(32 * strength * generator.uniform(-1, 1))
        picture = (picture.to(torch.int16) + offset).clamp_(0, 255).to(torch.uint8)
    contrast_first = chance()
    if contrast_first and chance():
        picture = _contrast(picture, factor())
    if chance():
        picture = functional.adjust_saturation(picture, factor())
    if chance():
        turn = 0.1 * min(strength, 1) * generator.uniform(-1, 1)
        picture = functional.adjust_hue(picture, turn)
    if not contrast_first and chance():
        picture = _contrast(picture, factor())
    return picture


def _contrast(picture: Tensor, factor: float) -> Tensor:
    return (picture.float() * factor).clamp_(0, 255).to(torch.uint8)


def another_camera(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """
    Return the picture as another camera would take it in another light.

    Exposure is -4..+1 stops in linear light (gamma 2.2) with a white balance of +-20 % per
    channel; a veil takes contrast, which shrinks to 0.15..1 around a random tone; both may fall
    unevenly over the picture; the lens blurs by up to 0.6 % of the height; the sensor adds noise.
    Each comes with probability one half.

    Shape: (H, W, 3) uint8 RGB -> (H, W, 3) uint8.
    """
    def chance() -> bool:
        return generator.random() < 0.5

    height, width = image.shape[:2]
    levels = np.repeat(np.arange(256)[:, None] / 255, 3, 1)
    if chance():
        balance = np.exp(generator.uniform(-0.2, 0.2, 3))
        exposed = levels ** 2.2 * 2 ** generator.uniform(-4, 1) * balance
        levels = np.minimum(exposed, 1) ** (1 / 2.2)
    if chance():
        tone = generator.uniform(0.2, 0.9)
        levels = tone + (levels - tone) * generator.uniform(0.15, 1)
    out = cv2.LUT(image, np.round(255 * levels).astype(np.uint8)[None])
    if chance():
        share = generator.uniform(-0.5, 1.5, (3, 3)).astype(np.float32).clip(0, 1)
        share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
        out = cv2.blendLinear(out, image, share, 1 - share)
    if chance():
        sigma = generator.uniform(0.0005, 0.006) * height
        out = cv2.GaussianBlur(out, (0, 0), sigma)
    if chance():
        read, shot = generator.uniform(0, 8), generator.uniform(0, 1.6)
        out = photon_noise(out, read, shot, int(generator.integers(2**31)))
    return out
