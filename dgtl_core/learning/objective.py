# SPDX-License-Identifier: Apache-2.0
"""A segmenter with what it is trained for: one module for DistributedDataParallel to wrap."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from dgtl_core.learning.alignment import released_alignment, similarity_alignment
from dgtl_core.learning.class_loss import fixed_loss
from dgtl_core.learning.grqa import mask_factors, QueryAlignment
from dgtl_core.learning.losses import log_shares, LossConfig, set_loss
from dgtl_core.learning.points import PointSource
from dgtl_core.learning.teacher import (
    as_grid,
    distillation_loss,
    feature_distillation_loss,
    last_features,
    mask_distillation_loss,
    Said,
    Teacher,
)
from dgtl_core.model.mask_decoder import MaskLogits
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter
import torch
from torch import nn, Tensor


class Objective(nn.Module):
    """
    Pictures and labels in, weighted losses out; the model's head says which.

    :raises ValueError: the model has no class texts, or nothing that the alignment could align.
    """

    def __init__(self, model: Segmenter, config: LossConfig,
                 teacher: Teacher | None = None,
                 grqa: QueryAlignment | None = None) -> None:
        """:param grqa: with its moving averages; None leaves this loss out."""
        super().__init__()
        adapter = model.adapter
        if config.alignment != 'off' and (adapter is None or adapter.text_link is None):
            raise ValueError(
                f'loss.alignment {config.alignment!r} needs a model with tokens and texts (an '
                'adapter with a text link); set loss.alignment off for this one')
        if config.alignment != 'off' and model.light_head is not None:
            raise ValueError(
                f'loss.alignment {config.alignment!r} compares tokens with the masks of a '
                'Mask2Former head; set loss.alignment off for a light head')
        if model.texts is not None and not model.texts.any():
            raise ValueError(
                f'adapter.text_link {model.config.adapter.text_link!r} learns with class texts, '
                'and there are none: set model.text.file to a file that "python -m '
                'training.embed_classes" makes, init to a checkpoint that has them, or '
                "model.adapter.text_link to 'off'")
        self.model = model
        self.config, self.teacher, self.grqa = config, teacher, grqa
        self.normalize = Normalization(model.config)

    def forward(self, images: Tensor, labels: Tensor, points: PointSource,
                clean: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """
        Return the losses by name, each a vector over the decoder layers or a single number.

        With a teacher, a picture without any label teaches only what the teacher says of it.

        :param clean: the same pictures undistorted, for the teacher; None without one.
        :param progress: of the training, 0..1, for annealed masks and for GRQA's start.

        Shape:
            images (B, 3, H, W) uint8 RGB, labels (B, H, W) uint8
        """
        features: list[Tensor] = []
        watch = self.model.backbone.register_forward_hook(
            lambda module, inputs, output: features.append(output[-1]))
        look: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
        if self.grqa is not None:
            look = mask_factors(self.model)
        try:
            with last_features(self.model) as last, look as factors:
                layers = self.model(self.normalize(images), labels, progress)
        finally:
            watch.remove()
        said = None
        if self.teacher is not None:
            assert clean is not None
            said = self.teacher.look(clean)
        fixed = self.model.config.head.fixed
        with torch.autocast(images.device.type, enabled=False):
            if fixed:
                each = [fixed_loss(layer.masks, labels, points, self.config)
                        for layer in layers]
                losses = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            else:
                losses = set_loss(
                    layers, labels, points, self.config, unlabelled=said is not None)
            if self.config.alignment != 'off':
                losses['align'] = self.config.alignment_weight * self._alignment(
                    layers, features[-1])
            if self.grqa is not None:
                weight = self.config.grqa_weight * (progress >= self.config.grqa_start)
                losses['grqa'] = weight * self.grqa(**factors, labels=labels)
            if said is not None:
                own = [Said(log_shares(layer, fixed=fixed),
                            as_grid(last[0], self.model, images)) for layer in layers]
                losses.update(self._distillation(own, said))
        return losses

    def _distillation(self, own: Sequence[Said], said: Said) -> dict[str, Tensor]:
        """Compare what each layer says with what the teacher does; what weighs 0 is left out."""
        config = self.config
        losses = {}
        for name, weight, loss in (
                ('teacher', config.teacher_weight, distillation_loss),
                ('teacher_masks', config.teacher_masks_weight, mask_distillation_loss)):
            if weight:
                losses[name] = weight * torch.stack([
                    loss(layer.log_shares, said.log_shares, config.temperature) for layer in own])
        if config.teacher_features_weight:
            losses['teacher_features'] = config.teacher_features_weight * \
                feature_distillation_loss(own[-1].features, said.features)
        return losses

    def _alignment(self, layers: Sequence[MaskLogits], features: Tensor) -> Tensor:
        adapter = self.model.adapter
        assert adapter is not None and adapter.text_link is not None
        tokens = adapter.tokens().mean(0)
        if self.config.alignment == 'released':
            return released_alignment(layers, tokens, adapter.text_link.texts)
        return similarity_alignment(
            layers[-1], features, tokens, adapter.text_link.texts_as_tokens())
