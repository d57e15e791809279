# SPDX-License-Identifier: Apache-2.0
"""What a student is told: the losses by their formulas, and a start from a wider network."""

import math

from dgtl_core.config import preset
from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.recipe import Recipe
from dgtl_core.learning.run import Run
from dgtl_core.learning.teacher import (
    feature_distillation_loss,
    mask_distillation_loss,
    Teacher,
)
from dgtl_core.model.checkpoint import load_matching, restore, save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import from_dict, override
import pytest
import torch

CPU = torch.device('cpu')
SMALL = {'backbone': {'embed_dim': 32, 'depth': 4, 'num_heads': 2, 'out_indices': [0, 1, 2, 3],
                      'img_size': [64, 64]},
         'adapter': {'num_tokens': 8, 'rank': 4}, 'text': {'width': 24},
         'head': {'num_blocks': 2, 'upscale': [16, 16, 16]}, 'input_size': [64, 64]}
NARROW = {**SMALL, 'backbone': {**SMALL['backbone'], 'embed_dim': 16},
          'head': {'num_blocks': 2, 'upscale': [8, 8, 8]}}


def segmenter(changes):
    config = override(preset('dgtl-rt-mini'), changes)
    torch.manual_seed(0)
    model = Segmenter(config)
    model.set_texts(torch.randn_like(model.texts))
    return model, config


def test_soft_masks_are_compared_class_by_class_over_the_places():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 4).log_softmax(1) for _ in range(2))
    temperature, total, weights = 2.0, 0.0, 0.0
    for b in range(2):
        for c in range(3):
            p, q = ([math.exp(x / temperature) for x in side[b, c].flatten().tolist()]
                    for side in (teacher, student))
            p, q = ([x / sum(side) for x in side] for side in (p, q))
            weight = float(teacher[b, c].exp().max())
            total += weight * sum(x * math.log(x / y) for x, y in zip(p, q))
            weights += weight
    found = mask_distillation_loss(student, teacher, temperature)
    assert float(found) == pytest.approx(temperature ** 2 * total / weights, rel=1e-5)
    assert mask_distillation_loss(teacher, teacher, 1.0).abs() < 1e-6
    assert mask_distillation_loss(student, teacher[:, :, :, ::2], 1.0) > 0


def test_a_class_that_the_teacher_does_not_see_teaches_nothing():
    teacher = torch.tensor([[0.6, 0.4 - 1e-9, 1e-9]]).log().view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    student = teacher.clone()
    student[:, 2, 0, 0] += 9
    assert mask_distillation_loss(student, teacher, 1.0) < 1e-6
    student[:, 1, 0, 0] += 1
    assert mask_distillation_loss(student, teacher, 1.0) > 1e-3


def test_features_of_other_widths_and_grids_are_compared_by_their_cosines():
    torch.manual_seed(1)
    student, teacher = torch.randn(1, 5, 2, 2), torch.randn(1, 7, 2, 2)
    total = 0.0
    for i in range(4):
        for j in range(4):
            a, b = (torch.cosine_similarity(f.flatten(2)[0, :, i], f.flatten(2)[0, :, j], dim=0)
                    for f in (student, teacher))
            total += float(a - b) ** 2
    assert float(feature_distillation_loss(student, teacher)) == pytest.approx(
        total / 16, rel=1e-5)
    turned = torch.linalg.qr(torch.randn(7, 7))[0] @ teacher.flatten(2)
    assert feature_distillation_loss(turned.view_as(teacher), teacher) < 1e-10
    fine = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert feature_distillation_loss(fine, teacher) < 1e-10
    large = torch.randn(1, 3, 64, 128)
    assert feature_distillation_loss(large, large) == 0  # and no 8192 x 8192 numbers


@pytest.mark.parametrize('weights, names', [
    ({'teacher_weight': 0.0}, set()), ({}, {'teacher'}),
    ({'teacher_masks_weight': 1.0}, {'teacher', 'teacher_masks'}),
    ({'teacher_weight': 0.0, 'teacher_features_weight': 1.0}, {'teacher_features'})])
def test_what_weighs_nothing_is_left_out_and_the_rest_teaches(weights, names, tmp_path):
    model, config = segmenter(SMALL)
    save_checkpoint(tmp_path / 'teacher.safetensors', model, config)
    teacher = Teacher(tmp_path / 'teacher.safetensors', config.classes, CPU)
    student, _ = segmenter(NARROW)
    objective = Objective(student.train(), LossConfig(**weights), teacher)
    images = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8)
    losses = objective(images, torch.full((2, 64, 128), 255, dtype=torch.uint8),
                       RandomPoints((1, 2), CPU), images)
    assert {name for name in losses if name.startswith('teacher')} == names
    sum(x.sum() for x in losses.values()).backward()
    learns = [p.grad is not None and bool(p.grad.any()) for p in student.backbone.parameters()]
    assert any(learns) == bool(names)


def test_a_narrower_model_starts_as_every_second_channel(tmp_path):
    wide, config = segmenter(SMALL)
    save_checkpoint(tmp_path / 'wide.safetensors', wide, config)
    narrow, _ = segmenter(NARROW)
    before = {key: value.clone() for key, value in narrow.state_dict().items()}
    missing = load_matching(tmp_path / 'wide.safetensors', narrow)
    assert 'backbone.vit.blocks.0.attn.qkv.weight' in missing
    assert all(torch.equal(before[key], narrow.state_dict()[key]) for key in missing)
    assert load_matching(tmp_path / 'wide.safetensors', narrow, thin=True) == []
    found, source = narrow.state_dict(), wide.state_dict()
    qkv = 'backbone.vit.blocks.0.attn.qkv.weight'
    torch.testing.assert_close(found[qkv], source[qkv][::2, ::2])
    stem = 'backbone.vit.patch_embed.proj.quarter.0.weight'
    torch.testing.assert_close(found[stem], source[stem])
    wider, _ = segmenter(SMALL)
    save_checkpoint(tmp_path / 'narrow.safetensors', narrow, override(config, NARROW))
    assert qkv in load_matching(tmp_path / 'narrow.safetensors', wider, thin=True)


def test_moments_come_back_in_the_order_in_which_the_weights_lie(tmp_path):
    """The fused optimizer takes weights and moments as they lie in memory."""
    recipe = from_dict(Recipe, {
        'name': 'x', 'preset': 'dgtl-rt-mini',
        'model': {**SMALL, 'head': {**SMALL['head'], 'queries': 'classes'},
                  'adapter': {**SMALL['adapter'], 'text_link': 'off'}}})
    classes = preset('dgtl-rt-mini').classes

    def step(run):
        run.model.train()(torch.randn(
            1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))[0].masks.mean().backward()
        run.update()

    run = Run(recipe, classes, CPU)
    step(run)
    run.save(tmp_path / 'last.safetensors', '', resumable=True)
    resumed = Run(recipe, classes, CPU)
    restore(tmp_path / 'last.safetensors', resumed.model, resumed.optimizer)
    for one in (run, resumed):
        step(one)
    weights = run.model.state_dict()
    key = 'backbone.vit.patch_embed.proj.quarter.3.weight'
    assert weights[key].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(weights[key], value)
               for key, value in resumed.model.state_dict().items())
