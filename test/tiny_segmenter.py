# SPDX-License-Identifier: Apache-2.0
"""A segmenter small enough for unit tests: 64 wide, four blocks, ten tokens."""

from dgtl_core.classes import ClassSet, SegmentationClass
from dgtl_core.config import SegmenterConfig
from dgtl_core.strict import from_dict, override, to_dict

CLASSES = ClassSet('three', tuple(
    SegmentationClass(id=i, name=name, color=(i, i, i))
    for i, name in enumerate(('road', 'car', 'sky'))))

_BASE = {
    'name': 'tiny', 'classes': to_dict(CLASSES), 'input_size': [64, 96],
    'backbone': {'name': 'dinov2', 'embed_dim': 64, 'depth': 4, 'num_heads': 4,
                 'img_size': [64, 96], 'out_indices': [0, 1, 2, 3]},
    'adapter': {'num_tokens': 10, 'rank': 4, 'text_link': 'all'},
    'text': {'width': 24},
    'head': {'hidden_dim': 32, 'num_heads': 4, 'num_queries': 10, 'encoder_layers': 2,
             'encoder_feedforward': 48, 'decoder_layers': 4, 'decoder_feedforward': 40,
             'num_points': 2},
}


def tiny(**changes) -> SegmenterConfig:
    """The configuration with differences as nested mappings."""
    return override(from_dict(SegmenterConfig, _BASE), changes)


def plain_adapter() -> dict[str, object]:
    """The difference that takes the adapter away."""
    return {'adapter': {'method': 'none', 'text_link': 'off', 'mask_link': False},
            'head': {'queries': 'learned'}}
