# SPDX-License-Identifier: Apache-2.0
"""
How a camera picture is brought to the network's size, and how labels come back.

Three ways, all exact inverses on the label side: ``stretch`` (ignore the aspect ratio),
``letterbox`` (keep it, grey bars), ``crop`` (keep it, cut the middle; what was cut away comes back
as 255). Sliding windows follow the arithmetic of MMSegmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.pictures import read_image
import numpy as np

RESIZE_MODES = ('stretch', 'letterbox', 'crop')
GREY = (124, 116, 104)  # the ImageNet mean, so that a bar is zero after normalisation


@dataclass(frozen=True)
class Placement:
    """
    Where a picture of ``source`` size lies in the network's input.

    ``inner`` (y0, y1, x0, x1) is the part of the input that the picture fills, ``outer`` the part
    of the picture that is seen; all sizes are (height, width) in pixels.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    inner: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]


def place(source: tuple[int, int], target: tuple[int, int], mode: str) -> Placement:
    """
    Work out where a picture goes in an input of size ``target``.

    :raises ValueError: ``mode`` is not one of RESIZE_MODES.
    """
    (h, w), (th, tw) = source, target
    whole_source, whole_target = (0, h, 0, w), (0, th, 0, tw)
    if mode == 'stretch':
        return Placement(source, target, whole_target, whole_source)
    if mode == 'letterbox':
        scale = min(th / h, tw / w)
        ih, iw = max(round(h * scale), 1), max(round(w * scale), 1)
        y, x = (th - ih) // 2, (tw - iw) // 2
        return Placement(source, target, (y, y + ih, x, x + iw), whole_source)
    if mode == 'crop':
        scale = max(th / h, tw / w)
        oh, ow = min(max(round(th / scale), 1), h), min(max(round(tw / scale), 1), w)
        y, x = (h - oh) // 2, (w - ow) // 2
        return Placement(source, target, whole_target, (y, y + oh, x, x + ow))
    raise ValueError(f'resize mode must be one of {list(RESIZE_MODES)}, got {mode!r}')


def to_input(image: np.ndarray, placement: Placement) -> np.ndarray:
    """
    Resize a picture to the network's size.

    Shape: (H, W, 3) uint8 -> (h, w, 3) uint8, contiguous; the picture itself, not a copy, where
    nothing is to be done.
    """
    y0, y1, x0, x1 = placement.outer
    seen = image[y0:y1, x0:x1]
    y0, y1, x0, x1 = placement.inner
    size = (y1 - y0, x1 - x0)
    if seen.shape[:2] != size:
        shrinks = seen.shape[0] > size[0] and seen.shape[1] > size[1]
        seen = cv2.resize(
            seen, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if size == placement.target:
        return np.ascontiguousarray(seen)
    canvas = np.empty((*placement.target, 3), np.uint8)
    canvas[:] = GREY
    canvas[y0:y1, x0:x1] = seen
    return canvas


def to_source(labels: np.ndarray, placement: Placement, fill: int = IGNORE_INDEX) -> np.ndarray:
    """
    Bring network output (labels or confidence) back to the picture's size, nearest neighbour.

    Shape: (h, w) uint8 -> (H, W) uint8; ``fill`` where the network saw nothing. (h, w) may differ
    from the network's input size: a model file can have an output size of its own.
    """
    y0, y1, x0, x1 = placement.inner
    (height, width), (h, w) = placement.target, labels.shape
    seen = labels[_span(y0, y1, h, height), _span(x0, x1, w, width)]
    y0, y1, x0, x1 = placement.outer
    size = (y1 - y0, x1 - x0)
    if seen.shape != size:
        seen = cv2.resize(seen, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if size == placement.source:
        return np.ascontiguousarray(seen)
    canvas = np.full(placement.source, fill, np.uint8)
    canvas[y0:y1, x0:x1] = seen
    return canvas


def _span(start: int, stop: int, length: int, of: int) -> slice:
    """Return where a part of ``of`` pixels lies in ``length`` pixels; at least one of them."""
    first, last = round(start * length / of), round(stop * length / of)
    if first == last:  # less than one pixel: the one in which its middle lies
        first = (start + stop) * length // (2 * of)
        last = first + 1
    return slice(first, last)


def upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """
    Turn the picture of a camera that is mounted on its side, or upside down, upright.

    Shape: (H, W, ...) -> (H, W, ...) or (W, H, ...), contiguous.

    :param rotation: degrees clockwise that the picture has to be turned: 0, 90, 180 or 270.
    :raises ValueError: it is another number.
    """
    turns = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180,
             270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    if rotation not in turns:
        raise ValueError(f'rotation must be one of {list(turns)} degrees, got {rotation}')
    turn = turns[rotation]
    return image if turn is None else cv2.rotate(image, turn)


def as_mounted(labels: np.ndarray, rotation: int) -> np.ndarray:
    """Turn what belongs to an :func:`upright` picture back into the camera's own frame."""
    return upright(labels, -rotation % 360)


def read_mask(path: str | Path) -> np.ndarray:
    """
    Read an ego mask: which pixels show the vehicle itself, and are never judged.

    Shape: (H, W) bool. In the file they are 255 and all others 0; grey levels between are refused.

    :raises OSError: there is no such file.
    :raises ValueError: it is no such picture.
    """
    mask = read_image(path)[:, :, 0]
    if not np.isin(mask, (0, 255)).all():
        raise ValueError(
            f'{path} must be black and white: 255 where the picture shows the vehicle itself, 0 '
            'elsewhere; save it as PNG, without smoothing')
    return mask == 255


def mask_out(labels: np.ndarray, confidence: np.ndarray,
             mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return labels and confidence without what the mask covers: 255 and 0 there.

    Shape: (H, W) uint8 each, mask (H, W) bool.

    :raises ValueError: the mask has another size.
    """
    if mask.shape != labels.shape:
        raise ValueError(
            f'the ego mask has {mask.shape[1]}x{mask.shape[0]} pixels and the picture '
            f'{labels.shape[1]}x{labels.shape[0]}: draw it on a picture of this camera')
    return np.where(mask, np.uint8(IGNORE_INDEX), labels), np.where(mask, np.uint8(0), confidence)


def windows(size: tuple[int, int], crop: tuple[int, int],
            stride: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """
    Return sliding windows (y0, y1, x0, x1) that cover a picture, row by row.

    The last window of a row or column is shifted back to the border; a picture smaller than the
    crop gives one smaller window. Source: MMSegmentation 1.2.2 (``slide_inference``).

    :raises ValueError: the crop or the stride is not positive, or the stride exceeds the crop.
    """
    if not all(0 < s <= c for s, c in zip(stride, crop)):
        raise ValueError(f'window stride must be in 1..crop {crop}, got {stride}')
    spans = []
    for length, c, s in zip(size, crop, stride):
        count = max(length - c + s - 1, 0) // s + 1
        ends = [min(i * s + c, length) for i in range(count)]
        spans.append([(max(end - c, 0), end) for end in ends])
    return [(y0, y1, x0, x1) for y0, y1 in spans[0] for x0, x1 in spans[1]]
