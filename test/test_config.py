# SPDX-License-Identifier: Apache-2.0
"""The configuration: one set of defaults, strict reading, presets."""

from dataclasses import dataclass, replace
import json
from typing import Literal

from dgtl_core.config import (
    AdapterConfig,
    BackboneConfig,
    HeadConfig,
    preset,
    PRESETS,
    SegmenterConfig,
)
from dgtl_core.strict import from_dict, load_yaml, override, to_dict
import pytest


@dataclass(frozen=True, kw_only=True)
class Sample:
    name: str
    rate: float = 1.0
    flag: bool = False
    size: tuple[int, int] = (1, 2)
    parts: tuple[HeadConfig, ...] = ()
    link: Literal['off', 'all'] = 'all'
    limit: int | None = None
    weights: dict[str, float] | None = None


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_preset_survives_json(name):
    config = preset(name)
    assert config.name == name
    assert from_dict(SegmenterConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_all_presets_of_the_readme_exist():
    assert set(PRESETS) == {
        'dgtl-dinov2-s', 'dgtl-dinov2-b', 'dgtl-dinov2-l', 'rein-dinov2-s', 'rein-dinov2-b',
        'rein-dinov2-l', 'vltseg-eva02-l', 'vltseg-eva02-l-clip', 'dgtl-eva02-l',
        'dgtl-dinov3-l', 'dgtl-mini', 'dgtl-rt-mini', 'dgtl-rt-s', 'dgtl-rt-b', 'dgtl-rt-l',
        'dgtl-rt-s-p32', 'dgtl-rt-b-p32', 'dgtl-rt-l-p32'}
    assert [PRESETS[n].method for n in ('dgtl-mini', 'rein-dinov2-s', 'vltseg-eva02-l')] == [
        'dgtl', 'rein', 'vltseg']


@pytest.mark.parametrize('cls, mapping, message', [
    (HeadConfig, {'num_querys': 1}, r'^unknown key num_querys; did you mean num_queries\?$'),
    (SegmenterConfig, {'head': {'num_querys': 1}},
     r'unknown key num_querys; did you mean num_queries\? \(in head\)'),
    (HeadConfig, {'zzz': 1}, 'unknown key zzz; allowed are decoder_feedforward, '),
    (SegmenterConfig, {'head': {'num_queries': '3'}}, "head.num_queries must be int, got '3'"),
    (HeadConfig, {'num_queries': True}, 'num_queries must be int, got True'),
    (HeadConfig, {'num_queries': 0}, 'head.num_queries must be positive, got 0'),
    (HeadConfig, {'hidden_dim': 100}, 'multiple of 32'),
    (SegmenterConfig, {'head': 5}, 'head must be a mapping'),
    (SegmenterConfig, {'input_size': [1]}, 'input_size must be a list of 2 values'),
    (SegmenterConfig, {'input_size': [1, 'x']}, r"input_size\[1\] must be int, got 'x'"),
    (AdapterConfig, {'method': 'dgtll'}, r"method must be one of \['dgtl', 'rein', 'none'\]"),
    (AdapterConfig, {'rank': 101}, r'rank must be in 1..num_tokens \(100\).* got 101'),
    (AdapterConfig, {'method': 'rein'}, 'has no text link and no mask link'),
    (BackboneConfig, {'name': 'dinov2-xl'}, 'did you mean dinov2-l'),
    (BackboneConfig, {'name': 'dinov2'}, 'give embed_dim, depth and num_heads'),
    (BackboneConfig, {'name': 'dinov2-l', 'depth': 4}, "take the family name 'dinov2'"),
    (BackboneConfig, {'out_indices': [0, 1, 2]}, 'four rising block numbers in 0..23'),
    (SegmenterConfig, {'input_size': [500, 512]}, r'multiples of backbone.patch_size \(16\)'),
    (SegmenterConfig, {'input_size': [16, 512]}, r'at least two each way, got \[16, 512\]'),
    (SegmenterConfig, {'std': [0, 1, 1]}, r'std must be positive, got \[0.0, 1.0, 1.0\]'),
    (BackboneConfig, {'name': 'vit'}, r"choose one of \['mini', "),
    (SegmenterConfig, {'text': {'width': 0}}, 'needs text.width'),
    (SegmenterConfig, {'text': {'width': 512}}, "text_link 'all' learns a projection"),
    (SegmenterConfig, {'head': {'num_queries': 7}}, 'must be adapter.num_tokens'),
    (SegmenterConfig, {'adapter': {'method': 'none', 'text_link': 'off', 'mask_link': False}},
     "take head.queries 'learned'"),
    (SegmenterConfig, [], 'SegmenterConfig must be a mapping'),
    (Sample, {}, r"missing keys: some of \['name',"),
    (Sample, {'name': 'a', 'weights': {'x': 'y'}}, "weights.x must be float, got 'y'"),
])
def test_refuses_with_what_to_do(cls, mapping, message):
    with pytest.raises(ValueError, match=message):
        from_dict(cls, mapping)


def test_reads_every_kind_of_value():
    sample = from_dict(Sample, {
        'name': 'a', 'rate': '1e-4', 'flag': True, 'size': [3, 4], 'link': False, 'limit': 5,
        'parts': [{'num_queries': 3}], 'weights': {'x': 1}})
    assert sample == Sample(
        name='a', rate=1e-4, flag=True, size=(3, 4), link='off', limit=5,
        parts=(HeadConfig(num_queries=3),), weights={'x': 1.0})
    assert isinstance(sample.weights['x'], float)
    assert from_dict(Sample, {'name': 'a', 'limit': None}).limit is None


def test_yaml_and_override(tmp_path):
    path = tmp_path / 'model.yaml'
    path.write_text('name: mine\nhead: {decoder_layers: 3}\nadapter: {text_link: off}\n')
    config = load_yaml(SegmenterConfig, path)
    assert (config.name, config.adapter.text_link) == ('mine', 'off')
    assert config.head.decoder_layers == 3
    assert config.head.encoder_layers == HeadConfig().encoder_layers
    path.write_text('head: [')
    with pytest.raises(ValueError, match='model.yaml'):
        load_yaml(SegmenterConfig, path)
    base = preset('dgtl-mini')
    changed = override(base, {'name': 'x', 'head': {'decoder_layers': 2}})
    assert changed == replace(base, name='x', head=replace(base.head, decoder_layers=2))
    with pytest.raises(ValueError, match='did you mean decoder_layers'):
        override(base, {'head': {'decoder_layer': 2}})


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match='unknown preset .*; did you mean dgtl-dinov2'):
        preset('dgtl-dino2-l')


def test_named_and_free_backbones():
    assert BackboneConfig(name='dinov2-s-reg', out_indices=(3, 5, 7, 11)).sizes == (384, 12, 6)
    assert BackboneConfig(name='dinov2-s-reg', out_indices=(3, 5, 7, 11)).family == 'dinov2-reg'
    free = BackboneConfig(
        name='dinov2', embed_dim=64, depth=4, num_heads=2, out_indices=(0, 1, 2, 3))
    assert (free.sizes, free.family) == ((64, 4, 2), 'dinov2')
