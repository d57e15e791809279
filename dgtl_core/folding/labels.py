# SPDX-License-Identifier: Apache-2.0
"""
From a uint8 picture to uint8 labels and confidence: what a model file computes.

Shape legend: B pictures, V windows, H x W the picture, h x w a window, Q queries, K classes.
"""

from __future__ import annotations

from typing import Literal

from dgtl_core.folding.fold import FoldedSegmenter
from dgtl_core.processing import windows
import torch
from torch import nn, Tensor
import torch.nn.functional as F

_LEAST = 1e-12  # of a sum of scores: in float16 a pixel outside of all masks has none
Upsampling = Literal['exact', 'quarter']


class LabelNetwork(nn.Module):
    """
    Labels and confidence of pictures of one size, as DESIGN's model file contract wants them.

    One window is the whole picture; more are one batch, and their scores are summed and divided
    by how many windows cover a pixel (item 23).
    """

    def __init__(
            self, network: FoldedSegmenter, picture_size: tuple[int, int],
            stride: tuple[int, int] | None = None, output_size: tuple[int, int] | None = None,
            upsampling: Upsampling = 'exact') -> None:
        """
        Wrap a folded segmenter.

        :param picture_size: (height, width) of the pictures; at least the network's own size.
        :param stride: of the sliding windows; needed where the picture is larger.
        :param output_size: of labels and confidence; None: the picture's.
        :param upsampling: ``exact`` brings masks up before the sigmoid and the weighted sum, as
            the method does; ``quarter`` brings up the scores of the mask grid, which is less work
            and not the same.
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
        self.upsampling = upsampling
        self.windows = windows(picture_size, network.size, stride or network.size)
        if any((y1 - y0, x1 - x0) != network.size for y0, y1, x0, x1 in self.windows):
            raise ValueError(
                f'pictures of {picture_size} are smaller than the window {network.size}')
        cover = torch.zeros(picture_size)
        for y0, y1, x0, x1 in self.windows:
            cover[y0:y1, x0:x1] += 1
        self.register_buffer('weight', 1 / cover if len(self.windows) > 1 else None)
        self.score_dtype = torch.float32  # of masks and scores from the upsampling on

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: (B, H, W, 3) uint8 RGB -> labels, confidence, each (B, H', W') uint8."""
        scores = self._scores(pictures)
        best, labels = scores.max(dim=1)
        # Decision 2: a probability, although the scores themselves may exceed 1.
        confidence = best / (-scores[:, -1]).clamp_min(_LEAST) * 255
        # By way of float: TensorRT documents no conversion from its integers to uint8.
        return labels.float().to(torch.uint8), confidence.round().to(torch.uint8)

    def scores(self, pictures: Tensor) -> Tensor:
        """Shape: (B, H, W, 3) uint8 -> semantic scores (B, K, H', W') at the output size."""
        return self._scores(pictures)[:, :-1]

    def _scores(self, pictures: Tensor) -> Tensor:
        """Scores, and after the last class minus their sum: never the largest (B, K + 1, ...)."""
        if len(self.windows) == 1:
            scores = self._window_scores(pictures)
        else:
            # (B, V, h, w, 3), so that the windows of one picture lie together; float first of
            # all: TensorRT cuts no uint8
            pictures = pictures.float()
            parts = torch.stack(
                [pictures[:, y0:y1, x0:x1] for y0, y1, x0, x1 in self.windows], dim=1)
            found = self._window_scores(parts.flatten(0, 1))
            found = found.unflatten(0, (-1, len(self.windows)))
            scores = self._stitch(found)
        if self.output_size != self.picture_size:
            scores = F.interpolate(
                scores, size=self.output_size, mode='bilinear', align_corners=False)
        return scores

    def _window_scores(self, pictures: Tensor) -> Tensor:
        classes, masks = self.network(pictures)
        classes = classes.float().softmax(dim=-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
        # All that follows is linear in the rows; the sum comes along as one of them.
        classes = torch.cat((classes, -classes.sum(dim=1, keepdim=True)), dim=1)
        size = self.network.size
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
        """Sum window scores where they belong, (B, V, K + 1, h, w) -> (B, K + 1, H, W)."""
        height, width = self.picture_size
        total = None
        for index, (y0, y1, x0, x1) in enumerate(self.windows):
            part = F.pad(found[:, index], (x0, width - x1, y0, height - y1))
            total = part if total is None else total + part
        assert total is not None
        return total * self.weight
