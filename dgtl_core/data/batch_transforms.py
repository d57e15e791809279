# SPDX-License-Identifier: Apache-2.0
"""
Another view, camera and light for a whole batch at once, on the device that learns from it.

What :mod:`dgtl_core.data.transforms` does to one picture on the host, where a host would be too
slow. Every choice comes from torch's generator of the device. No weather is drawn, but low light
and haze look much like it.

Shape legend: B pictures of H x W.
"""

from __future__ import annotations

from functools import lru_cache
import math

from dgtl_core.classes import IGNORE_INDEX
import torch
from torch import Tensor
import torch.nn.functional as F

_OUTSIDE = 0.45  # grey beyond the border of a picture
_BLUR = 6  # pixels; half the width of the widest blur's kernel


def another_view(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """
    Look at a part of each picture, of another shape, turned a little, or mirrored.

    The part is 0.45..1.1 of the height, its width that times 0.64..1.57 of the aspect ratio; a
    quarter of the pictures stays whole. Beyond the border is grey without a label.

    Shape: images (B, 3, H, W) uint8, labels (B, H, W) uint8 -> float32 0..1, uint8.
    """
    batch, device = len(images), images.device
    height, width = labels.shape[1:]
    whole = _chance(batch, 0.25, device)
    rows = _uniform(batch, math.log(0.45), math.log(1.1), device).exp()
    columns = (rows * _uniform(batch, -0.45, 0.45, device).exp()).clamp(max=1.15)
    rows, columns = (torch.where(whole, 1.0, size) for size in (rows, columns))
    turn = _uniform(batch, -0.05, 0.05, device) * ~whole
    mirror = torch.where(_chance(batch, 0.5, device), -1.0, 1.0)
    across, down = ((1 - size).abs() * _uniform(batch, -1, 1, device) for size in (columns, rows))
    cos, sin, ratio = turn.cos(), turn.sin(), height / width
    theta = torch.stack((
        torch.stack((columns * cos * mirror, -rows * sin * ratio, across), 1),
        torch.stack((columns * sin * mirror / ratio, rows * cos, down), 1)), 1)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    seen = F.grid_sample(images.float() / 255 - _OUTSIDE, grid, 'bilinear', 'zeros', False)
    # ids from 1 on, so that beyond the border is 0
    ids = F.grid_sample(labels[:, None].float() + 1, grid, 'nearest', 'zeros', False)[:, 0]
    ids = torch.where(ids < 0.5, IGNORE_INDEX, ids - 1)
    return seen + _OUTSIDE, ids.round().to(torch.uint8)


def another_camera(images: Tensor) -> Tensor:
    """
    Return the pictures as other cameras would take them in another light.

    As :func:`dgtl_core.data.transforms.another_camera`, and besides: saturation 0..1.6 and hue
    +-0.6 radians, random 3x3 filters over the colours (Xu et al., "RandConv", ICLR 2021) on a
    quarter, random erasing (Zhong et al., AAAI 2020) on a quarter. One in seven stays as it is.

    Shape: (B, 3, H, W) float 0..1 -> (B, 3, H, W) float 0..1 in steps of 1/255.
    """
    plain = images
    images = _colours(images)
    some = -(-len(images) // 4)  # they come in random order
    images = torch.cat((_random_filters(images[:some]), images[some:]))
    images = _veil(_exposure(images))
    batch, _, height, width = images.shape
    share = _grid_noise(images, (3, 3), -0.5, 1.5).clamp(0, 1)
    share = torch.where(_per_picture(batch, 0.5, images.device), share, 1.0)
    images = plain + (images - plain) * share
    erased = torch.rand(batch, 1, height // 16, width // 16, device=images.device) < 0.04
    erased = erased & _per_picture(batch, 0.25, images.device)
    images = torch.where(
        F.interpolate(erased.float(), (height, width)) > 0.5,
        torch.rand(batch, 3, 1, 1, device=images.device), images)
    images = _noise(_blur(images))
    images = torch.where(_per_picture(batch, 0.15, images.device), plain, images)
    return (images.clamp(0, 1) * 255).round() / 255


def _colours(images: Tensor) -> Tensor:
    batch, device = len(images), images.device
    on = _chance(batch, 0.5, device)
    saturation = torch.where(on, _uniform(batch, 0, 1.6, device), 1.0)
    angle = torch.where(_chance(batch, 0.3, device), _uniform(batch, -0.6, 0.6, device), 0.0)
    to_yiq, to_rgb = _colour_spaces(device)
    turn = torch.zeros(batch, 3, 3, device=device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
    matrix = to_rgb @ turn @ to_yiq
    return torch.einsum('bij,bjhw->bihw', matrix, images).clamp(0, 1)


@lru_cache
def _colour_spaces(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrices to YIQ, where hue and saturation are a plane, and back."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)


def _random_filters(images: Tensor) -> Tensor:
    batch = len(images)
    kernels = torch.randn(batch * 3, 3, 3, 3, device=images.device) / math.sqrt(27)
    padded = F.pad(images, (1, 1, 1, 1), mode='replicate').flatten(0, 1)[None]
    found = F.conv2d(padded, kernels, groups=batch)[0].unflatten(0, (batch, 3))
    std, mean = torch.std_mean(found, (2, 3), keepdim=True)
    own_std, own_mean = torch.std_mean(images, (2, 3), keepdim=True)
    found = (found - mean) / (std + 1e-4) * own_std + own_mean
    share = torch.rand(batch, 1, 1, 1, device=images.device)
    return (images + (found - images) * share).clamp(0, 1)


def _exposure(images: Tensor) -> Tensor:
    batch, device = len(images), images.device
    stops = torch.where(_per_picture(batch, 0.5, device), _uniform(batch, -4, 1, device)
                        .view(-1, 1, 1, 1), 0.0)
    balance = (_uniform(3 * batch, -0.2, 0.2, device).view(batch, 3, 1, 1)
               * _per_picture(batch, 0.5, device)).exp()
    linear = images.clamp(min=1e-4) ** 2.2 * 2 ** stops * balance
    return linear.clamp(max=1) ** (1 / 2.2)


def _veil(images: Tensor) -> Tensor:
    batch, device = len(images), images.device
    tone = _uniform(batch, 0.2, 0.9, device).view(-1, 1, 1, 1)
    left = _uniform(batch, 0.15, 1, device).view(-1, 1, 1, 1)
    left = torch.where(_per_picture(batch, 0.5, device), left, 1.0)
    return tone + (images - tone) * left


def _blur(images: Tensor) -> Tensor:
    batch, _, height, _ = images.shape
    sigma = _uniform(batch, 0.0005, 0.006, images.device) * height
    sigma = torch.where(_chance(batch, 0.5, images.device), sigma, 0.05)
    x = torch.arange(-_BLUR, _BLUR + 1, device=images.device)
    kernel = (-(x / sigma[:, None]) ** 2 / 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    padded = F.pad(images, (_BLUR,) * 4, mode='replicate').flatten(0, 1)[None]
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=3 * batch)
    return F.conv2d(rows, kernel[:, None, None, :], groups=3 * batch)[0].unflatten(0, (batch, 3))


def _noise(images: Tensor) -> Tensor:
    batch, device = len(images), images.device
    read = _uniform(batch, 0, 8, device).view(-1, 1, 1, 1)
    shot = _uniform(batch, 0, 1.6, device).view(-1, 1, 1, 1)
    deviation = (read ** 2 + shot ** 2 * 255 * images.clamp(min=0)).sqrt() / 255
    on = _per_picture(batch, 0.5, device)
    return images + on * deviation * torch.randn_like(images)


def _grid_noise(images: Tensor, grid: tuple[int, int], low: float, high: float) -> Tensor:
    """Return a smooth random field for each picture, (B, 1, H, W)."""
    field = torch.empty(len(images), 1, *grid, device=images.device).uniform_(low, high)
    return F.interpolate(field, images.shape[-2:], mode='bilinear', align_corners=False)


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.empty(count, device=device).uniform_(low, high)


def _chance(count: int, share: float, device: torch.device) -> Tensor:
    return torch.rand(count, device=device) < share


def _per_picture(batch: int, share: float, device: torch.device) -> Tensor:
    return _chance(batch, share, device).view(-1, 1, 1, 1)
