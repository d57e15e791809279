# SPDX-License-Identifier: Apache-2.0
"""
What a segmenter is made of: dataclasses with the only defaults there are, and the presets.

Sizes are (height, width) in pixels. A configuration is read by :mod:`dgtl_core.strict`.
"""

from dgtl_core.config.adapter import AdapterConfig, TextConfig
from dgtl_core.config.backbone import BackboneConfig, BACKBONES
from dgtl_core.config.heads import HeadConfig, LightHeadConfig
from dgtl_core.config.presets import preset, PRESETS
from dgtl_core.config.segmenter import SegmenterConfig

__all__ = [
    'AdapterConfig', 'BACKBONES', 'BackboneConfig', 'HeadConfig', 'LightHeadConfig', 'PRESETS',
    'SegmenterConfig', 'TextConfig', 'preset']
