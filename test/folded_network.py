# SPDX-License-Identifier: Apache-2.0
"""A folded network as it is exported, and what its file says about itself."""

from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.model_file import ModelMetadata
from small_segmenter import small_config, small_segmenter, street


def metadata(config, size=None):
    return ModelMetadata(
        name=config.name, classes=config.classes, input_size=size or config.input_size,
        method=config.method, backbone=config.backbone.name)


def network(name='dgtl-dinov2-s', form='gather', **options):
    config = small_config(name)
    model = small_segmenter(config, street(config.input_size))
    folded = fold(model, config.input_size, form)
    picture = options.pop('picture_size', config.input_size)
    return LabelNetwork(folded, picture, **options).eval(), config, model
