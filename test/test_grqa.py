# SPDX-License-Identifier: Apache-2.0
"""Group-relative query alignment: its formula, what it moves, and that it resumes."""

import math

from dgtl_core.learning.grqa import mask_factors, QueryAlignment
from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.model.segmenter import Segmenter
import pytest
from safetensors.torch import load_file
from small_recipe import power_failure_after_saving
from small_segmenter import small_config
from test_light_head import config, lively
from test_train_light import light_recipe, run
import torch

CPU = torch.device('cpu')


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def blend(old, new, share=0.01):
    return [(1 - share) * a + share * b for a, b in zip(old, new)]


def shares(query, prototypes):
    raised = {c: math.exp(dot(query, p)) for c, p in prototypes.items()}
    return {c: x / sum(raised.values()) for c, x in raised.items()}


def by_hand(queries, pixels, labels, prototypes, average):
    """Return the loss in plain numbers, and change ``prototypes`` and ``average`` as it does."""
    batch, count = queries.shape[:2]
    queries = [[unit(q) for q in of_picture] for of_picture in queries.tolist()]
    means = {}
    for c in range(3):
        inside = [unit(pixels[b, :, y, x].tolist()) for b in range(batch)
                  for y in range(labels.shape[1]) for x in range(labels.shape[2])
                  if labels[b, y, x] == c]
        if inside:
            means[c] = [sum(values) / len(inside) for values in zip(*inside)]
            prototypes[c] = blend(prototypes[c], means[c]) if c in prototypes else means[c]
    for i in range(count):
        mean = [sum(values) / batch for values in zip(*(queries[b][i] for b in range(batch)))]
        average[i] = blend(average[i], mean) if i in average else mean
    image = sum(sum((x - y) ** 2 for x, y in zip(means[c], prototypes[c])) for c in means)
    found = []
    for b in range(batch):
        for i in range(count):
            scores = {c: dot(queries[b][i], p) for c, p in prototypes.items()}
            best = max(scores, key=scores.get)
            now = shares(queries[b][i], prototypes)
            before = shares(unit(average[i]), prototypes)
            found.append((best, scores[best], now[best] / before[best],
                          sum(now[c] * math.log(now[c] / before[c]) for c in now)))
    gain = divergence = 0.0
    for best, reward, ratio, kl in found:
        group = [r for g, r, _, _ in found if g == best]
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / len(group))
        advantage = (reward - mean) / (deviation + 1e-6)
        gain += min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        divergence += kl
    return image / len(means) - gain / len(found) + 0.04 * divergence / len(found)


def test_it_is_its_formula():
    grqa = QueryAlignment(3, 4, 2)
    prototypes, average = {}, {}
    torch.manual_seed(0)
    for step in range(3):
        queries, pixels = torch.randn(2, 4, 2) * 3, torch.randn(2, 2, 2, 3) * 3
        labels = torch.randint(0, 2 if step < 2 else 3, (2, 2, 3), dtype=torch.uint8)
        labels[0, 0, 0] = 255
        expected = by_hand(queries, pixels, labels, prototypes, average)
        assert abs(expected) > 0.01
        assert float(grqa(queries, pixels, labels)) == pytest.approx(expected, rel=1e-4)
        assert grqa.seen.tolist() == [1.0, 1.0, float(step == 2)]
    for c, prototype in prototypes.items():
        assert grqa.prototypes[c].tolist() == pytest.approx(prototype, rel=1e-5)


def test_one_query_of_each_class_and_nothing_moved_is_no_loss():
    grqa = QueryAlignment(2, 2, 2)
    pixels = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # class 0 is (1, 0), class 1 is (0, 1)
    queries = torch.tensor([[[5.0, 0.0], [0.6, 0.8]]])
    assert float(grqa(queries, pixels, torch.tensor([[[0, 1]]]).byte())) == pytest.approx(0)
    assert grqa.prototypes.tolist() == [[1, 0], [0, 1]]


def test_the_best_query_of_a_group_is_drawn_nearer_and_the_others_are_not():
    grqa = QueryAlignment(2, 2, 2)
    pixels, labels = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[0, 1]]]).byte()
    queries = torch.tensor([[[0.95, 0.3], [0.8, 0.6]]], requires_grad=True)
    for _ in range(2):
        loss = grqa(queries, pixels, labels)
    loss.backward()
    towards = -queries.grad[0] @ torch.tensor([1.0, 0.0])
    assert towards[0] > 1e-3 and towards[1] < -1e-3


@pytest.mark.parametrize('labels', [255, 0])
def test_pictures_without_labels_change_no_prototype(labels):
    grqa = QueryAlignment(3, 4, 2)
    grqa(torch.randn(2, 4, 2), torch.randn(2, 2, 4, 4), torch.full((2, 4, 4), labels).byte())
    before = grqa.prototypes.clone()
    assert bool(before.any()) == (labels == 0)
    queries = torch.randn(2, 4, 2, requires_grad=True)
    loss = grqa(queries, torch.randn(2, 2, 4, 4), torch.full((2, 4, 4), 255).byte())
    loss.backward()
    assert loss.isfinite() and queries.grad.isfinite().all()
    assert torch.equal(grqa.prototypes, before)


def mask2former():
    made_of = small_config('dgtl-mini')
    model = Segmenter(made_of)
    model.set_texts(torch.randn_like(model.texts))
    return model


@pytest.mark.parametrize('kind, learns', [
    ('texts', 'light_head.query_text.weight'), ('classes', 'light_head.query_embedding.weight'),
    ('tokens', 'adapter.query_transform.weight'), ('learned', 'light_head.query_embedding.weight'),
    ('mask2former', 'adapter.query_transform.weight')])
def test_it_teaches_the_queries_and_the_pixels_of_every_head_after_its_start(kind, learns):
    torch.manual_seed(0)
    model = (mask2former() if kind == 'mask2former' else lively(config(queries=kind))).train()
    size = model.config.input_size
    grqa = QueryAlignment.of(model)
    objective = Objective(
        model, LossConfig(num_points=64, grqa_weight=0.5, grqa_start=0.5), grqa=grqa)
    parameters = dict(model.named_parameters())
    pixels = 'pixel_decoder.mask_feature' if kind == 'mask2former' else 'light_head.upscale.1'

    def gradient(progress):
        model.zero_grad()
        loss = objective(
            torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8),
            torch.randint(0, 19, (2, *size), dtype=torch.uint8), RandomPoints((1, 2), CPU),
            progress=progress)['grqa']
        loss.backward()
        return loss, [float(parameter.grad.abs().sum()) for name, parameter in parameters.items()
                      if name == learns or name.startswith(pixels) and name.endswith('weight')]

    loss, gradients = gradient(0.4)
    assert loss == 0 and not any(gradients) and grqa.seen.all() and grqa.queries.any()
    loss, gradients = gradient(0.5)
    assert loss != 0 and len(gradients) > 1 and all(gradients)


def test_what_is_aligned_are_the_factors_of_the_masks():
    model = lively(config(queries='texts'))
    with mask_factors(model) as found, torch.no_grad():
        masks = model(torch.randn(1, 3, *model.config.input_size))[-1].masks
    product = torch.einsum('bqd,bdhw->bqhw', found['queries'], found['pixels'])
    torch.testing.assert_close(product, masks, rtol=1e-4, atol=1e-4)
    found.clear()
    model(torch.randn(1, 3, *model.config.input_size))
    assert not found


def test_it_changes_nothing_before_its_start_and_resumes_where_it_was(tmp_path, monkeypatch):
    recipe = light_recipe(tmp_path, steps=3, save_every=2)
    on = ['loss.grqa_weight=1', 'loss.grqa_start=0']
    for name, changes in (('off', []), ('late', [*on, 'loss.grqa_start=0.9']), ('on', on)):
        assert run(recipe, tmp_path / name, changes=changes) == 0
    off, late, with_it = (load_file(tmp_path / name / FINAL) for name in ('off', 'late', 'on'))
    assert all(torch.equal(off[key], late[key]) for key in off)
    assert off.keys() == late.keys() == with_it.keys()
    assert any(not torch.equal(off[key], with_it[key]) for key in off)
    assert not any(key.startswith('grqa.') for key in load_file(tmp_path / 'off' / LAST))

    with power_failure_after_saving(monkeypatch):
        assert run(recipe, tmp_path / 'part', changes=on) == 1
    assert run(recipe, tmp_path / 'part', resume=True, changes=on) == 0
    straight, resumed = (load_file(tmp_path / name / LAST) for name in ('on', 'part'))
    assert {'grqa.prototypes', 'grqa.seen', 'grqa.queries'} <= straight.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_run_that_began_without_it_can_go_on_with_it(tmp_path, monkeypatch):
    recipe = light_recipe(tmp_path, steps=4, save_every=2)
    with power_failure_after_saving(monkeypatch):
        assert run(recipe, tmp_path / 'out') == 1
    assert run(recipe, tmp_path / 'out', resume=True, changes=['loss.grqa_weight=1']) == 0
    assert load_file(tmp_path / 'out' / LAST)['grqa.seen'].any()


@pytest.mark.parametrize('wrong', [{'grqa_weight': -1.0}, {'grqa_start': 1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match='loss.grqa_start be in'):
        LossConfig(**wrong)
