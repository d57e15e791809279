# SPDX-License-Identifier: Apache-2.0
"""
How a picture of any size becomes labels of its size: whole, or by sliding windows.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter, slide
from dgtl_core.predictor import Predictor, Segmentation
from dgtl_core.processing import place, to_input, to_source, windows
import numpy as np
import torch
import torch.nn.functional as F

Size = tuple[int, int]
Sizes = Mapping[str, Size]  # what a data set says: the size of its pictures under each protocol
# (H, W, 3) uint8 RGB and the sizes of its data set -> labels and confidence, (H, W) uint8
Labeler = Callable[[np.ndarray, Sizes], Segmentation]

PROTOCOLS = ('whole', 'slide', 'low', 'high', 'vltseg')


def fitted(image: np.ndarray, sizes: Sizes, protocol: str, window: Size) -> np.ndarray:
    """
    Return the picture in the protocol's size for its data set, aspect ratio kept.

    The longer side fits into the longer one, the shorter into the shorter, as MMCV's
    ``rescale_size`` has it; a data set without a size keeps its own. What is still smaller than a
    window is enlarged until it covers one: a part of a window need not be a whole number of
    patches, and few models saw such parts.
    """
    height, width = image.shape[:2]
    scale = 1.0
    if protocol in sizes:
        size = sizes[protocol]
        scale = min(max(size) / max(height, width), min(size) / min(height, width))
        if protocol == 'vltseg' and min(window) > 768:
            scale *= 2  # fact V15: a model of 1024 pixels sees twice the sizes
    scale = max(scale, window[0] / height, window[1] / width)
    wanted = int(width * scale + 0.5), int(height * scale + 0.5)
    if wanted == (width, height):
        return image
    return cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)


def labeler_of_model(
        model: Segmenter, device: torch.device, dtype: torch.dtype, protocol: str) -> Labeler:
    """
    Return what labels pictures with a segmenter in eval mode; windows share their scores.

    Confidence is 255 times the share of the best class in the scores.
    """
    config = model.config
    normalize = Normalization(config).to(device)

    @torch.inference_mode()
    def label(image: np.ndarray, sizes: Sizes) -> Segmentation:
        source = (image.shape[0], image.shape[1])
        if protocol == 'whole':
            placement = place(source, config.input_size, 'stretch')
            image = to_input(image, placement)
        else:
            image = fitted(image, sizes, protocol, config.input_size)
        # the picture may be a file mapped into memory, which torch must not write to
        picture = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)
        images = normalize(picture)[None]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model.scores(images) if protocol == 'whole' else slide(
                model.scores, images, config.input_size, config.window_stride)
        if protocol != 'whole' and scores.shape[-2:] != source:
            scores = F.interpolate(scores.float(), source, mode='bilinear')
        best, index = scores[0].float().max(0)
        share = best / scores[0].float().sum(0).clamp(min=torch.finfo(torch.float32).tiny)
        labels, confidence = (x.to(torch.uint8).cpu().numpy() for x in (
            index, (255 * share).round()))
        if protocol == 'whole':
            return Segmentation(to_source(labels, placement), to_source(confidence, placement))
        return Segmentation(labels, confidence)

    return label


def labeler_of_file(predict: Predictor, protocol: str) -> Labeler:
    """
    Return what labels pictures with a model file.

    A model file gives labels and confidence, not scores, so where windows overlap the more
    confident one has its way. Windows overlap by a third.
    """
    size = predict.input_size
    stride = (max(size[0] * 2 // 3, 1), max(size[1] * 2 // 3, 1))

    def label(image: np.ndarray, sizes: Sizes) -> Segmentation:
        if protocol == 'whole':
            return predict(image)
        resized = fitted(image, sizes, protocol, size)
        labels: np.ndarray = np.full(resized.shape[:2], IGNORE_INDEX, np.uint8)
        best = np.full(resized.shape[:2], -1, np.int16)
        places = windows((resized.shape[0], resized.shape[1]), size, stride)
        parts = predict.many([resized[y0:y1, x0:x1] for y0, y1, x0, x1 in places])
        for (y0, y1, x0, x1), part in zip(places, parts):
            better = part.confidence > best[y0:y1, x0:x1]
            labels[y0:y1, x0:x1][better] = part.labels[better]
            best[y0:y1, x0:x1][better] = part.confidence[better]
        found = Segmentation(labels, best.astype(np.uint8))
        if labels.shape == image.shape[:2]:
            return found
        return Segmentation(*(cv2.resize(
            plane, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT) for plane in found))

    return label
