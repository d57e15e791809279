# SPDX-License-Identifier: Apache-2.0
"""A light head with blocks of its own behind a frozen encoder."""

from dataclasses import replace

from dgtl_core.export.onnx import export_onnx
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.model.own_blocks import OwnBlocks
from dgtl_core.model.segmenter import Segmenter
from folded_network import metadata
import onnx
import pytest
from small_segmenter import normalised, street
from test_light_head import config, lively, SIZE
import torch
import torch.nn.functional as F


def own(family='vit', queries='texts', count=2, **options):
    made_of = config(family, queries, **options)
    return replace(made_of, head=replace(made_of.head, blocks='own', num_blocks=count))


def test_four_depths_are_normalised_refined_scaled_and_summed():
    torch.manual_seed(0)
    blocks = OwnBlocks(lively(own()).backbone, 1).train()
    for level in blocks.levels:
        level.scale.data = torch.randn(64)
    levels = [torch.randn(2, 7, 64) * (i + 1) + i for i in range(4)]
    expected = 0
    for x, level in zip(levels, blocks.levels):
        for dims, eps in ((-1, 1e-6), ((0, 1), 1e-5)):  # layer norm, then batch norm
            x = x - x.mean(dims, keepdim=True)
            x = x / (x.square().mean(dims, keepdim=True) + eps).sqrt()
        first, _, second = level.mlp
        inner = F.gelu(x @ first.weight.T + first.bias)
        expected = expected + (x + inner @ second.weight.T + second.bias) * level.scale
    torch.testing.assert_close(blocks.joined(levels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', ['vit', 'dinov2-reg', 'dinov3', 'eva02', 'siglip2'])
def test_the_encoder_stays_frozen_and_sees_no_query(family):
    model = lively(own(family, trainable=False)).train()
    seen = []
    watch = [block.register_forward_hook(lambda _, i, output: seen.append(output))
             for block in (*model.backbone.vit.blocks, *model.light_head.own.blocks)]
    last = model(torch.randn(2, 3, *SIZE))[-1]
    for one in watch:
        one.remove()
    counts = [x.shape[1] for x in seen]
    assert counts[:4] == [counts[0]] * 4 and counts[4:] == [counts[0] + 19] * 2
    last.masks.square().mean().backward()
    assert not any(p.grad is not None for p in model.backbone.parameters())
    idle = [name for name, p in model.light_head.named_parameters()
            if p.grad is None or not p.grad.any()]
    assert not idle


def test_there_may_be_more_than_the_encoder_has():
    assert len(Segmenter(own(count=6)).light_head.own.blocks) == 6
    with pytest.raises(ValueError, match='head.num_blocks be at most 4'):
        replace(own(), head=replace(own(count=6).head, blocks='last'))


@pytest.mark.parametrize('family, queries', [
    ('vit', 'texts'), ('dinov2-reg', 'tokens'), ('dinov3', 'texts')])
def test_folded_gives_the_same(family, queries):
    model = lively(own(family, queries))
    for block in model.light_head.own.blocks:
        block.gamma_1.data.uniform_(0.5, 1.5)
    picture = street(SIZE)
    with torch.no_grad():
        plain = model.predict(normalised(picture, model.config))
        quick = fold(model, SIZE)(torch.from_numpy(picture)[None])
    assert (quick.masks - plain.masks).norm() / plain.masks.norm() < 1e-4
    if quick.classes is not None:
        torch.testing.assert_close(quick.classes, plain.classes, rtol=1e-3, atol=1e-3)


def test_it_becomes_a_model_file_without_batch_norm_or_sampling(tmp_path):
    model = lively(own('dinov3'))
    network = LabelNetwork(fold(model, SIZE), SIZE).eval()
    assert not any('BatchNorm' in type(module).__name__ for module in network.modules())
    same, _ = export_onnx(
        network, tmp_path / 'own.onnx', metadata(model.config), [street(SIZE)])
    assert same.labels > 0.999
    kinds = {node.op_type for node in onnx.load(str(tmp_path / 'own.onnx')).graph.node}
    assert kinds.isdisjoint({'GridSample', 'BatchNormalization'})
