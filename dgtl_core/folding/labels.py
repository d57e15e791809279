# SPDX-License-Identifier: Apache-2.0
"""
From a uint8 picture to uint8 labels, confidence and a signature: what a model file computes.

There is no softmax over the classes at full size, where it costs more than a light network. Scores
of a mask classifier carry their sum through the upsampling as one more row: exact. Of logits of
classes the labels are exact, and the confidence is 1 / sum exp(logit - largest) on a grid twice as
fine as the masks', brought up. With a temperature that is what a mask classifier does too, with
the logarithms of its scores, on a grid half as fine as the picture.
Shape legend: B pictures, V windows, H x W the picture, h x w a window, Q queries, K classes.
"""

from __future__ import annotations

from typing import Literal

from dgtl_core.folding.fold import FoldedSegmenter
from dgtl_core.folding.grouping import Grouping
from dgtl_core.folding.prediction import Prediction
from dgtl_core.folding.signature import ENTROPY, signature
from dgtl_core.folding.temperature import Temperature
from dgtl_core.processing import windows
import torch
from torch import nn, Tensor
import torch.nn.functional as F

_LEAST = 1e-12  # of a sum of scores: in float16 a pixel outside of all masks has none
Upsampling = Literal['exact', 'quarter']


class LabelNetwork(nn.Module):
    """
    Labels, confidence and signature of pictures of one size, as a model file gives them.

    One window is the whole picture; more are one batch, and their scores are summed and divided
    by how many windows cover a pixel (fact 23). The signature is the mean over the windows.
    """

    float32_buffers = ('weight',)

    def __init__(
            self, network: FoldedSegmenter, picture_size: tuple[int, int],
            stride: tuple[int, int] | None = None, output_size: tuple[int, int] | None = None,
            upsampling: Upsampling = 'exact', grouping: Grouping | None = None) -> None:
        """
        Wrap a folded segmenter.

        :param picture_size: (height, width) of the pictures; at least the network's own size.
        :param stride: of the sliding windows; needed where the picture is larger.
        :param output_size: of labels and confidence; None: the picture's.
        :param upsampling: ``exact`` brings masks up before the sigmoid and the weighted sum, as
            the method does; ``quarter`` brings up the scores of the mask grid, which is less work
            and not the same.
        :param grouping: labels are those of groups of classes; the signature stays as it is.
        :raises ValueError: a picture smaller than the network, or a larger one without a stride;
            labels of no size.
        """
        super().__init__()
        if upsampling not in ('exact', 'quarter'):
            raise ValueError(f"upsampling must be 'exact' or 'quarter', got {upsampling!r}")
        if output_size is not None and min(output_size) < 1:
            raise ValueError(f'labels must be at least 1x1, got {output_size[0]}x{output_size[1]}')
        if stride is None and picture_size != network.size:
            raise ValueError(
                f'a network of {network.size} sees pictures of {picture_size} only through '
                'sliding windows: give a stride, or fold it for that size')
        self.network = network
        self.picture_size, self.output_size = picture_size, output_size or picture_size
        self.upsampling, self.grouping = upsampling, grouping
        self.windows = windows(picture_size, network.size, stride or network.size)
        if any((y1 - y0, x1 - x0) != network.size for y0, y1, x0, x1 in self.windows):
            raise ValueError(
                f'pictures of {picture_size} are smaller than the window {network.size}')
        cover = torch.zeros(picture_size)
        for y0, y1, x0, x1 in self.windows:
            cover[y0:y1, x0:x1] += 1
        self.register_buffer('weight', 1 / cover if len(self.windows) > 1 else None)
        self.score_dtype = torch.float32  # of masks and scores from the upsampling on
        self.temperature: Temperature | None = None  # None: the confidence is as it comes

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Return what a model file gives.

        Shape: (B, H, W, 3) uint8 RGB -> labels, confidence, each (B, H', W') uint8; signature
        (B, D) float32.
        """
        found = self._found(pictures)
        seen = signature(found)
        found = self._grouped(found)
        parts = self._window_scores(found)
        scores = self._whole(parts)
        if found.classes is None or self.temperature is not None:
            labels = scores.argmax(dim=1)
            logits = self._window_logits(found, parts, seen[:, ENTROPY])
            confidence = self._whole(self._window_confidence(logits))[:, 0]
        else:  # Decision 2: a probability, although the scores themselves may exceed 1.
            best, labels = scores.max(dim=1)
            confidence = best / (-scores[:, -1]).clamp_min(_LEAST)
        # By way of float: TensorRT documents no conversion from its integers to uint8.
        labels = labels.float() if self.grouping is None else self.grouping.labels(labels)
        return (labels.to(torch.uint8), (confidence * 255).round().to(torch.uint8),
                self._per_picture(seen).mean(dim=1))

    def scores(self, pictures: Tensor) -> Tensor:
        """
        Return semantic scores, or logits where a class is a mask.

        Shape: (B, H, W, 3) uint8 -> (B, K, H', W') at the output size.
        """
        found = self._grouped(self._found(pictures))
        scores = self._whole(self._window_scores(found))
        return scores if found.classes is None else scores[:, :-1]

    def distributions(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return what a temperature is fitted on, for each window.

        Shape: (B, H, W, 3) uint8 -> logits (B * V, K, h', w') whose softmax is the distribution of
        a pixel; entropy of the windows (B * V,), 0..1.
        """
        found = self._found(pictures)
        entropy = signature(found)[:, ENTROPY]
        return self._window_logits(found, self._window_scores(found), entropy), entropy

    def _found(self, pictures: Tensor) -> Prediction:
        """Predictions of all windows, those of one picture side by side (B * V, ...)."""
        if len(self.windows) > 1:
            # (B, V, h, w, 3), so that the windows of one picture lie together; float first of
            # all: TensorRT cuts no uint8
            pictures = pictures.float()
            pictures = torch.stack(
                [pictures[:, y0:y1, x0:x1] for y0, y1, x0, x1 in self.windows], dim=1)
            pictures = pictures.flatten(0, 1)
        return self.network(pictures)

    def _grouped(self, found: Prediction) -> Prediction:
        return found if self.grouping is None else self.grouping(found)

    def _per_picture(self, x: Tensor) -> Tensor:
        """Shape: (B * V, ...) -> (B, V, ...)."""
        return x.unflatten(0, (-1, len(self.windows)))

    def _whole(self, windows: Tensor) -> Tensor:
        """Maps of windows as maps of pictures, (B * V, C, h, w) -> (B, C, H', W')."""
        whole = windows if len(self.windows) == 1 else self._stitch(self._per_picture(windows))
        if self.output_size != self.picture_size:
            whole = F.interpolate(
                whole, size=self.output_size, mode='bilinear', align_corners=False)
        return whole

    def _window_confidence(self, logits: Tensor) -> Tensor:
        """Shape: (B * V, K, h', w') -> (B * V, 1, h, w)."""
        largest = logits.amax(dim=1, keepdim=True)
        sure = 1 / (logits - largest).exp().sum(dim=1, keepdim=True)
        return F.interpolate(sure, size=self.network.size, mode='bilinear', align_corners=False)

    def _window_logits(self, found: Prediction, scores: Tensor, entropy: Tensor) -> Tensor:
        """Logits over the temperature, on a coarser grid than the scores, (B * V, K, h', w')."""
        masks = found.classes is None
        logits = (found.masks.float() if masks
                  else F.avg_pool2d(scores[:, :-1], 2).clamp_min(_LEAST).log())
        if self.temperature is not None:
            logits = logits / self.temperature.of(entropy)[:, None, None, None]
        if not masks or self.grouping is not None:  # which are fine already
            return logits
        return F.interpolate(logits, scale_factor=2, mode='bilinear', align_corners=False)

    def _window_scores(self, found: Prediction) -> Tensor:
        """Logits; or scores, and after the last minus their sum: never the largest."""
        classes, masks, size = found.classes, found.masks, self.network.size
        if classes is None:
            return F.interpolate(masks.float(), size=size, mode='bilinear', align_corners=False)
        classes = classes.float().softmax(dim=-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
        # All that follows is linear in the rows; the sum comes along as one of them.
        classes = torch.cat((classes, -classes.sum(dim=1, keepdim=True)), dim=1)
        if masks.dtype != self.score_dtype:  # float16 ends long after the sigmoid is 0 or 1
            masks = masks.clamp(-60000, 60000).to(self.score_dtype)
        if self.upsampling == 'exact':
            masks = F.interpolate(masks, size=size, mode='bilinear', align_corners=False)
        scores = (classes.to(masks.dtype) @ masks.sigmoid().flatten(2)).float()
        scores = scores.unflatten(2, tuple(masks.shape[2:]))
        if self.upsampling == 'quarter':
            scores = F.interpolate(scores, size=size, mode='bilinear', align_corners=False)
        return scores

    def _stitch(self, found: Tensor) -> Tensor:
        """Average windows where they belong, (B, V, C, h, w) -> (B, C, H, W)."""
        height, width = self.picture_size
        total = None
        for index, (y0, y1, x0, x1) in enumerate(self.windows):
            part = F.pad(found[:, index], (x0, width - x1, y0, height - y1))
            total = part if total is None else total + part
        assert total is not None
        return total * self.weight
