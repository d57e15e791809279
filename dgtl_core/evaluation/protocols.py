# SPDX-License-Identifier: Apache-2.0
"""
How a picture of any size becomes labels of its size: whole, or by sliding windows.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.model.segmenter import Segmenter, slide
from dgtl_core.predictor import Predictor
from dgtl_core.processing import place, to_input, to_source, windows
import numpy as np
import torch
import torch.nn.functional as F

# (H, W, 3) uint8 RGB and the name of its data set -> (H, W) uint8 labels
Labeler = Callable[[np.ndarray, str], np.ndarray]

PROTOCOLS = ('whole', 'slide', 'low', 'high', 'vltseg')
# The size that a picture is fitted into before the windows slide, by data set. Those that are not
# here (own pictures, StreetWorld, CamVid) are taken as they are.
_SMALL, _LARGE, _BDD, _ACDC = (512, 1024), (1024, 2048), (720, 1280), (540, 960)
_VLTSEG = {  # item 15: also BDD100K at 1024x512; twice that for a model of 1024 pixels
    'cityscapes': _SMALL, 'mapillary': _SMALL, 'nightcity': _SMALL, 'bdd100k': _SMALL,
    'acdc': _ACDC, 'dark-zurich': _ACDC, 'muses': _ACDC, 'wilddash2': _ACDC}
SIZES = {
    'low': {'cityscapes': _SMALL, 'mapillary': _SMALL, 'nightcity': _SMALL, 'bdd100k': _BDD,
            'acdc': _ACDC, 'dark-zurich': _ACDC, 'muses': _ACDC, 'wilddash2': _ACDC},
    'high': {'cityscapes': _LARGE, 'mapillary': _LARGE, 'nightcity': _LARGE, 'bdd100k': _BDD,
             'acdc': _ACDC, 'dark-zurich': _ACDC, 'muses': _ACDC, 'wilddash2': _ACDC}}


def fitted(image: np.ndarray, name: str, protocol: str, window: tuple[int, int]) -> np.ndarray:
    """
    Return the picture in the protocol's size for its data set, aspect ratio kept.

    The longer side fits into the longer one, the shorter into the shorter, as MMCV's
    ``rescale_size`` has it. What is still smaller than a window is enlarged until it covers one:
    a part of a window need not be a whole number of patches, and few models saw such parts.
    """
    height, width = image.shape[:2]
    size = _size(name, protocol, window)
    scale = 1.0
    if size is not None:
        scale = min(max(size) / max(height, width), min(size) / min(height, width))
    scale = max(scale, window[0] / height, window[1] / width)
    wanted = int(width * scale + 0.5), int(height * scale + 0.5)
    if wanted == (width, height):
        return image
    return cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)


def _size(name: str, protocol: str, window: tuple[int, int]) -> tuple[int, int] | None:
    sizes = _VLTSEG if protocol == 'vltseg' else SIZES.get(protocol, {})
    size = next((sizes[key] for key in sizes if name == key or name.startswith(f'{key}-')), None)
    if size is not None and protocol == 'vltseg' and min(window) > 768:
        return 2 * size[0], 2 * size[1]
    return size


def labeler_of_model(
        model: Segmenter, device: torch.device, dtype: torch.dtype, protocol: str) -> Labeler:
    """Return what labels pictures with a segmenter in eval mode; windows share their scores."""
    config = model.config
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (config.mean, config.std))

    @torch.inference_mode()
    def label(image: np.ndarray, name: str) -> np.ndarray:
        source = (image.shape[0], image.shape[1])
        if protocol == 'whole':
            placement = place(source, config.input_size, 'stretch')
            image = to_input(image, placement)
        else:
            image = fitted(image, name, protocol, config.input_size)
        # the picture may be a file mapped into memory, which torch must not write to
        picture = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)
        images = ((picture - mean) / std)[None]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model.scores(images) if protocol == 'whole' else slide(
                model.scores, images, config.input_size, config.window_stride)
        if protocol != 'whole' and scores.shape[-2:] != source:
            scores = F.interpolate(scores.float(), source, mode='bilinear')
        labels = scores[0].argmax(0).to(torch.uint8).cpu().numpy()
        return to_source(labels, placement) if protocol == 'whole' else labels

    return label


def labeler_of_file(predict: Predictor, protocol: str) -> Labeler:
    """
    Return what labels pictures with a model file.

    A model file gives labels and confidence, not scores, so where windows overlap the more
    confident one has its way. Windows overlap by a third.
    """
    size = predict.input_size
    stride = (max(size[0] * 2 // 3, 1), max(size[1] * 2 // 3, 1))

    def label(image: np.ndarray, name: str) -> np.ndarray:
        if protocol == 'whole':
            return predict(image).labels
        resized = fitted(image, name, protocol, size)
        labels: np.ndarray = np.full(resized.shape[:2], IGNORE_INDEX, np.uint8)
        best = np.full(resized.shape[:2], -1, np.int16)
        places = windows((resized.shape[0], resized.shape[1]), size, stride)
        parts = predict.many([resized[y0:y1, x0:x1] for y0, y1, x0, x1 in places])
        for (y0, y1, x0, x1), part in zip(places, parts):
            better = part.confidence > best[y0:y1, x0:x1]
            labels[y0:y1, x0:x1][better] = part.labels[better]
            best[y0:y1, x0:x1][better] = part.confidence[better]
        if labels.shape != image.shape[:2]:
            labels = cv2.resize(
                labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return labels

    return label
