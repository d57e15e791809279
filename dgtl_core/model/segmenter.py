# SPDX-License-Identifier: Apache-2.0
"""
The whole segmenter: backbone, adapter and a head, Mask2Former's or the light one.

    model = build_segmenter(preset('dgtl-mini'))
    layers = model(images)              # training: list[MaskLogits], one per decoder layer
    scores = model.scores(images)       # inference: (B, K, H, W), the same numbers, less work
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from dgtl_core.config import HeadConfig, LightHeadConfig, SegmenterConfig
from dgtl_core.model.adapter import Adapter, AllTextLink, mask_link_matrix, PresentTextLink
from dgtl_core.model.backbone_weights import load_backbone
from dgtl_core.model.light_head import class_scores, LightHead
from dgtl_core.model.mask_decoder import MaskDecoder, MaskLogits, semantic_scores
from dgtl_core.model.neck import BeitNeck, INTERPOLATE
from dgtl_core.model.pixel_decoder import PixelDecoder
from dgtl_core.model.text import load_texts
from dgtl_core.model.vit import Backbone, Link
from dgtl_core.processing import windows
import torch
from torch import nn, Tensor


class Segmenter(nn.Module):
    """
    Normalised pictures in, (class, mask) pairs out.

    The parts are ``backbone``, ``adapter`` (or None), and ``light_head`` or ``neck``,
    ``pixel_decoder`` and ``mask_decoder``. ``adapter.text_link.texts`` is the buffer of class
    texts; it belongs to every checkpoint.
    """

    light_head: LightHead | None

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        embed_dim, depth, _ = config.backbone.sizes
        self.backbone = Backbone(config.backbone)
        self.adapter: Adapter | None = None
        if config.adapter.method != 'none':
            width = config.head.hidden_dim if isinstance(config.head, HeadConfig) else embed_dim
            self.adapter = Adapter(
                config.adapter, embed_dim, depth, config.backbone.patch_size,
                width if config.head.queries == 'tokens' else None, _text_link(config))
        self.light_head = None
        if isinstance(config.head, LightHeadConfig):
            self.light_head = LightHead(
                config.head, self.backbone, config.num_classes, config.text.width,
                config.patch_steps)
            return
        beit = config.neck == 'beit'
        self.neck = BeitNeck(embed_dim) if beit else nn.Identity()
        self.pixel_decoder = PixelDecoder(
            config.head, embed_dim, (1, 1, 1, 1) if beit else INTERPOLATE)
        self.mask_decoder = MaskDecoder(config.head, config.num_classes)

    def forward(self, images: Tensor, labels: Tensor | None = None,
                progress: float = 1.0) -> list[MaskLogits]:
        """
        Return what the queries predict before the first and after each decoder layer.

        :param progress: of the training, 0..1, for a light head whose masks are annealed.

        Shape: images (B, 3, H, W) float, normalised with the configuration's mean and std;
        labels (B, H, W) integer with 255 = ignore, only for training with text_link 'present'.
        The masks have 1/4 of the picture's size and include the mask link.

        :raises ValueError: a size the backbone does not take, or less than two patches each way;
            labels missing, out of range or of another shape.
        """
        return self._forward(images, labels, progress, last_only=False)

    def predict(self, images: Tensor) -> MaskLogits:
        """Return ``self(images)[-1]`` without the work for the other layers."""
        return self._forward(images, None, 1.0, last_only=True)[-1]

    def scores(self, images: Tensor) -> Tensor:
        """Return the semantic scores at the size of the pictures, (B, K, H, W)."""
        logits, size = self.predict(images), (images.shape[-2], images.shape[-1])
        if self.config.head.fixed:
            return class_scores(logits.masks, size)
        return semantic_scores(logits, size)

    def set_texts(self, texts: Tensor) -> None:
        """
        Put the (K, D) text embeddings of the classes in.

        :raises ValueError: this model links no texts, or another shape.
        """
        own = self.texts
        if own is None:
            raise ValueError("this segmenter has no text link (adapter.text_link is 'off')")
        if texts.shape != own.shape:
            raise ValueError(
                f'texts must be (classes, width) = {tuple(own.shape)}, got {tuple(texts.shape)}')
        own.copy_(texts)

    @property
    def texts(self) -> Tensor | None:
        """The (K, D) text embeddings of the classes; None where nothing is linked to them."""
        link = None if self.adapter is None else self.adapter.text_link
        return None if link is None else link.texts

    def _forward(self, images: Tensor, labels: Tensor | None, progress: float,
                 last_only: bool) -> list[MaskLogits]:
        if labels is not None and (labels.dim() != 3 or len(labels) != len(images)):
            raise ValueError(
                f'labels must be (B, H, W) with B = {len(images)} as the images, got '
                f'{tuple(labels.shape)}')
        adapter, queries, mask_link = self.adapter, None, None
        link: Link | None = None
        if adapter is not None:
            with _full_precision(images.device.type):
                tokens = adapter.tokens()
                linked = adapter.linked_tokens(tokens, labels)
                pairs = list(zip(linked.unbind(), adapter.values(linked).unbind()))
                if adapter.query_transform is not None:
                    queries = adapter.queries(tokens)
                if self.config.adapter.mask_link:
                    mask_link = mask_link_matrix(tokens)

            def link(block: int, patches: Tensor) -> Tensor:
                return adapter(patches, *pairs[block])
        if self.light_head is not None:
            if queries is None:
                queries = self.light_head.own_queries(self.texts)
            return self.light_head(
                self.backbone, images, link, queries, mask_link, progress)
        mask_features, memories = self.pixel_decoder(self.neck(self.backbone(images, link)))
        return self.mask_decoder(mask_features, memories, queries, mask_link, last_only)


def build_segmenter(config: SegmenterConfig) -> Segmenter:
    """
    Build a segmenter with fresh weights; backbone weights and texts as the configuration says.

    A model whose weights come from a checkpoint needs neither file: that is ``Segmenter(config)``.

    :raises ValueError: a weight or text file that does not fit.
    :raises OSError: a file that is not there, or no network for ``backbone.weights: timm``.
    """
    model = Segmenter(config)
    load_backbone(model.backbone, config.backbone)
    if config.text.file and config.adapter.text_link != 'off':
        model.set_texts(load_texts(config.text.file, config.classes.names).embeddings)
    return model


def slide(
        scores: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int],
        stride: tuple[int, int]) -> Tensor:
    """
    Return the scores of pictures of any size, the mean over the windows that cover a pixel.

    Scores are summed, not logits, and divided by the coverage (facts 23 and V13).
    Shape: images (B, 3, H, W); scores maps (B, 3, h, w) to (B, K, h, w) -> (B, K, H, W).
    """
    size = (images.shape[-2], images.shape[-1])
    total: Tensor | None = None
    cover = images.new_zeros(size)
    for y0, y1, x0, x1 in windows(size, window, stride):
        part = scores(images[:, :, y0:y1, x0:x1])
        if total is None:
            total = part.new_zeros((*part.shape[:2], *size))
        total[:, :, y0:y1, x0:x1] += part
        cover[y0:y1, x0:x1] += 1
    assert total is not None
    return total / cover


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Leave autocast: what is made of tokens alone is little work, and I + G G^T needs digits."""
    if device in ('cpu', 'cuda'):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _text_link(config: SegmenterConfig) -> PresentTextLink | AllTextLink | None:
    if config.adapter.text_link == 'off':
        return None
    if config.adapter.text_link == 'present':
        return PresentTextLink(config.num_classes, config.text.width)
    return AllTextLink(config.num_classes, config.text.width, config.backbone.sizes[0])
