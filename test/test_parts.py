# SPDX-License-Identifier: Apache-2.0
import time

import pytest
from small_segmenter import small_config, small_segmenter, street
import torch
from torch import nn
from training.bench.contenders import open_contender, parse, Spec
from training.bench.parts import breakdown, metered, part_of, parts_table, REST, seconds_by_part


class Sleeper(nn.Module):
    def __init__(self, seconds, inner=None):
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x):
        time.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


class Net(nn.Module):
    """An attention inside of a block inside of a backbone, and some time outside of all."""

    def __init__(self):
        super().__init__()
        self.backbone = Sleeper(0.01)
        self.backbone.inner = Sleeper(0.02)
        self.backbone.blocks = nn.ModuleList([self.backbone.inner])
        self.backbone.inner.attn = Sleeper(0.04)
        self.backbone.inner.inner = self.backbone.inner.attn

    def forward(self, x):
        time.sleep(0.03)
        return self.backbone(x)


def test_time_belongs_to_the_innermost_part():
    net = Net()
    # The block is registered twice; a module has one name, its first.
    net.backbone.inner, block = None, net.backbone.inner
    net.backbone.forward = lambda x: block(x) if time.sleep(0.01) is None else x
    seconds = seconds_by_part(net, lambda: net(torch.zeros(1)), torch.device('cpu'), 3)
    assert list(seconds) == [
        REST, 'patches and positions', 'ViT norms and residuals', 'ViT attention']
    for part, least in zip(seconds, (0.03, 0.01, 0.02, 0.04)):
        assert seconds[part] == pytest.approx(least, abs=0.015)
    assert not any(module._forward_hooks for module in net.modules())


def test_parts_of_all_forms_add_up():
    config = small_config('dgtl-dinov2-l')
    model = small_segmenter(config, street(config.input_size))
    for form in ('folded', 'unfolded', 'released-eager'):
        contender = open_contender(
            parse(f'x:{form}', Spec(model='x')), None, 'cpu', 0, 'auto', {'x': model})
        picture = torch.zeros((1, *config.input_size, 3), dtype=torch.uint8)
        with torch.no_grad(), metered(contender.network, time.perf_counter) as meter:
            start = time.perf_counter()
            contender.network(picture)
            whole = time.perf_counter() - start
        found = meter.amounts(lambda a, b: b - a)
        assert sum(found.values()) == pytest.approx(whole, rel=0.1)
        expected = {'ViT attention', 'ViT MLP', 'token link', 'mask decoder: layers',
                    'pixel decoder: deformable attention', REST}
        assert expected <= set(found), form
        assert ('mask link' in found) == (form == 'released-eager')


def test_names():
    assert part_of('network.blocks.3.attn') == part_of('backbone.vit.blocks.3.attn')
    assert part_of('network.links.11') == part_of('segmenter.link') == 'token link'
    assert part_of('segmenter.mask_decoder.link') == 'mask link'
    assert part_of('backbone.vit.blocks.3.attn.qkv') is None


def test_percentages_and_rates():
    found = breakdown({REST: 1.0, 'ViT MLP': 3.0}, {'ViT MLP': 6e9})
    assert [p.name for p in found] == ['ViT MLP', REST]
    assert [p.percent for p in found] == [75, 25] and found[0].gflop_per_s == 2
    assert parts_table(found).splitlines()[1].split()[:3] == ['ViT', 'MLP', '3000.0']
