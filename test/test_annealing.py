# SPDX-License-Identifier: Apache-2.0
"""Mask annealing: what a query sees while it learns, and that nothing of it is left after."""

from dataclasses import replace
import json

from dgtl_core.model.light_head import closed, visible
from dgtl_core.strict import to_dict
import pytest
from test_light_head import config, lively, SIZE
from test_own_blocks import own
from test_train_light import light_recipe, run
import torch
import torch.nn.functional as F


def annealed(made_of):
    return replace(made_of, head=replace(made_of.head, annealed=True))


def test_masks_open_block_by_block_in_spans_of_the_run_and_the_last_one_has_none():
    """EoMT on Cityscapes: 19.9k steps, four blocks, from 3317..6634 to 13268..16585."""
    steps = 19901
    for block in range(4):
        start, end = 3317 * (block + 1), 3317 * (block + 2)
        assert closed(0, block, 4) == closed((start - 2) / steps, block, 4) == 1
        assert closed((end + 2) / steps, block, 4) == 0
        half = closed((start + end) / 2 / steps, block, 4)
        assert half == pytest.approx(0.5 ** 0.9, abs=1e-3)
    assert closed(0.9, 3, 4) == closed(1, 3, 4) == 0


def test_a_query_sees_its_mask_and_everything_but_the_other_patches():
    torch.manual_seed(0)
    masks, grid, prefix = torch.randn(2, 3, 8, 12), (2, 3), 1
    seen = visible(masks, grid, prefix + 3 + 6, 1.0)
    assert seen.shape == (2, 1, 10, 10)
    small = F.interpolate(masks, grid, mode='bilinear', align_corners=False)
    for b in range(2):
        for row in range(10):
            for column in range(10):
                hidden = 1 <= row < 4 and column >= 4 and small[b, row - 1].flatten()[
                    column - 4] <= 0
                assert seen[b, 0, row, column] == (not hidden)
    assert visible(masks, grid, 10, 0.0).all()
    rows = visible(torch.full((64, 3, 8, 12), -1.0), grid, 10, 0.5)[:, 0, 1:4, 4:].float()
    assert 0.35 < rows.mean() < 0.65 and (rows.mean(-1) % 1 == 0).all()  # whole rows are opened


@pytest.mark.parametrize('family, own_blocks', [
    ('vit', False), ('dinov3', False), ('eva02', False), ('vit', True)])
def test_every_block_is_predicted_from_and_inference_is_the_same(family, own_blocks):
    made_of = own(family) if own_blocks else config(family)
    plain, model = lively(made_of), lively(annealed(made_of))
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[0].masks, plain(images)[0].masks)
        assert len(model(images)) == 1 and len(model.train()(images, None, 0.0)) == 3
        model.backbone.eval()  # no batch norm in the way
        first, last = (model(images, None, t)[-1].masks for t in (0.0, 1.0))
    assert not torch.allclose(first, last)
    if not own_blocks:
        torch.testing.assert_close(last, plain(images)[0].masks)


@pytest.mark.parametrize('queries', ['classes', 'tokens'])
def test_a_run_anneals_and_resumes(queries, tmp_path):
    recipe = light_recipe(tmp_path, queries, steps=30, optim={'lr': 3e-3})
    change = ['model.head.annealed=true']
    assert run(recipe, tmp_path / 'out', changes=[*change, 'steps=15']) == 0
    assert run(recipe, tmp_path / 'out', resume=True, changes=change) == 0
    log = [json.loads(x) for x in (tmp_path / 'out' / 'log.jsonl').read_text().splitlines()]
    assert log[-1]['step'] == 30 and log[-1]['loss'] < log[0]['loss']


def test_it_is_off_by_default():
    assert to_dict(config())['head']['annealed'] is False
