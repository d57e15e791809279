# SPDX-License-Identifier: Apache-2.0
"""Which parameter is optimised how, and the learning rate over a run."""

import json

from dgtl_core.config import preset
from dgtl_core.learning.optim import (
    build_optimizer,
    learning_rate,
    OptimConfig,
    parameter_groups,
    set_learning_rate,
)
from dgtl_core.model.released import published_names
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import from_dict, override
import pytest
import torch

VLTSEG = OptimConfig(backbone_lr=0.1, clip_norm=0.01, begin=500)


def segmenter(name: str, **changes) -> Segmenter:
    with torch.device('meta'):  # names and kinds are all that is looked at
        return Segmenter(override(preset(name), changes))


def own_groups(model: Segmenter, config: OptimConfig) -> dict[str, tuple[float, float]]:
    return {name: (round(group.lr_scale * config.lr, 9), group.weight_decay)
            for group, names in parameter_groups(model, config).items() for name in names}


def different(own: dict, expected: dict) -> dict:
    return {name: (own.get(name), expected.get(name)) for name in own.keys() | expected.keys()
            if own.get(name) != expected.get(name)}


@pytest.mark.parity
def test_groups_of_dgtl_equal_the_released_ones(shared):
    recorded = json.loads((shared / 'golden' / 'optimizer_groups.json').read_text())
    backbone = {'name': 'dinov2', 'embed_dim': 1024, 'depth': 4, 'num_heads': 16,
                'out_indices': [0, 1, 2, 3]}
    model = segmenter('dgtl-dinov2-l', backbone=backbone)
    own, names = own_groups(model, OptimConfig()), published_names(model)
    expected = {names[group['name']]: (group['lr'], group['weight_decay'])
                for group in recorded['groups']}
    assert different(own, expected) == {}


@pytest.mark.parity
@pytest.mark.parametrize('config', [
    VLTSEG, OptimConfig(backbone_lr=0.0, backbone_decay=False, schedule='constant')])
def test_groups_of_vltseg_equal_the_released_ones(config, shared):
    recorded = json.loads((shared / 'golden' / 'vltseg' / 'optimizer_groups.json').read_text())
    stage = next(value for key, value in recorded.items()
                 if ('1k_frozen' in key) == (config.backbone_lr == 0))
    model = segmenter('vltseg-eva02-l')
    expected, names = {}, published_names(model)
    for label, group in stage['groups'].items():
        lr, decay = (float(part.split('=')[1]) for part in label.split())
        assert group['tensors'] == len(group['names'])
        expected.update({names[name]: (lr, decay) for name in group['names']})
    own = own_groups(model, config)
    # two tensors that the released file does not have; they never get a gradient
    own = {name: group for name, group in own.items()
           if name not in ('backbone.vit.norm.weight', 'backbone.vit.norm.bias')}
    assert different(own, expected) == {}


def test_biases_decay_and_norms_tokens_and_queries_do_not():
    decay = {name: group[1] for name, group in own_groups(
        segmenter('dgtl-dinov2-l'), OptimConfig()).items()}
    assert not any(name.startswith('backbone.') for name in decay)
    assert decay['adapter.delta.bias'] == decay['pixel_decoder.level_encoding.weight'] == 0.05
    assert decay['mask_decoder.query_content.weight'] == 0.05
    for name in ('adapter.tokens_a', 'adapter.scale', 'mask_decoder.norm.weight',
                 'mask_decoder.level_embedding.weight', 'pixel_decoder.lateral.1.bias'):
        assert decay[name] == 0, name
    learned = own_groups(segmenter('vltseg-eva02-l'), VLTSEG)
    assert learned['mask_decoder.query_content.weight'] == (1e-4, 0)
    assert learned['backbone.vit.cls_token'] == (1e-5, 0.05)
    assert learned['neck.up4.1.weight'] == (1e-5, 0.05)
    assert learned['backbone.vit.blocks.3.norm1.weight'] == (1e-5, 0)


def test_a_module_names_what_does_not_decay_of_itself_and_of_its_parts():
    class New(torch.nn.Module):
        no_decay = ('curve', 'inner')

        def __init__(self):
            super().__init__()
            self.curve = torch.nn.Parameter(torch.ones(2))
            self.other = torch.nn.Parameter(torch.ones(2))
            self.inner = torch.nn.Linear(2, 2)

    model = torch.nn.ModuleDict({'new': New(), 'curve': torch.nn.Linear(2, 2)})
    decay = {name: group[1] for name, group in own_groups(model, OptimConfig()).items()}
    assert {name for name, value in decay.items() if value == 0} == {
        'new.curve', 'new.inner.weight', 'new.inner.bias'}
    light = segmenter('dgtl-rt-s', head={'queries': 'classes'})
    own = own_groups(light, OptimConfig())
    assert own['light_head.query_embedding.weight'][1] == own['adapter.text_link.gain'][1] == 0
    assert own['light_head.mask_head.0.weight'][1] == 0.05


def test_poly_rate_begins_where_it_is_told_and_ends_at_zero():
    config = OptimConfig(begin=500)
    assert learning_rate(0, 5000, config) == learning_rate(500, 5000, config) == 1e-4
    assert learning_rate(2750, 5000, config) == pytest.approx(1e-4 * 0.5 ** 0.9)
    assert learning_rate(5000, 5000, config) == 0
    # mmengine computes it step by step: lr *= ((T - t) / (T - t + 1)) ** power
    lr = 1e-4
    for step in range(1, 400):
        lr *= ((1000 - step) / (1000 - step + 1)) ** 0.9
    assert learning_rate(399, 1000, OptimConfig()) == pytest.approx(lr)


def test_warmup_rises_and_cosine_falls():
    config = OptimConfig(warmup=10, schedule='cosine')
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-5, rel=1e-3) and rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True) and rates[-1] < 1e-7


def test_every_group_gets_its_share_of_the_rate():
    model = Segmenter(preset('dgtl-mini'))
    optimizer = build_optimizer(model, OptimConfig(backbone_lr=0.1))
    set_learning_rate(optimizer, 0.5)
    rates = {name: group['lr'] for group in optimizer.param_groups for name in group['names']}
    assert rates['backbone.vit.cls_token'] == pytest.approx(0.05)
    assert rates['adapter.tokens_a'] == 0.5
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('wrong', [{'lr': 0.0}, {'weight_decay': -1.0}, {'clip_norm': -1.0}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValueError, match='must be positive'):
        OptimConfig(**wrong)


@pytest.mark.parametrize('wrong', [
    {'warmup': -3}, {'begin': -1}, {'power': -1.0}, {'eps': 0.0}, {'betas': [0.9, 1.0]},
    {'betas': [2, 3]}, {'lr': 'nan'}, {'lr': float('inf')}])
def test_what_would_ruin_a_run_in_silence_is_refused(wrong):
    with pytest.raises(ValueError, match='not be negative|betas must be|finite number'):
        from_dict(OptimConfig, wrong)
