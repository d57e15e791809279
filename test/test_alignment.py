# SPDX-License-Identifier: Apache-2.0
"""Token-text alignment: recorded numbers for the released form, meaning for ours."""

import json
from pathlib import Path
import zlib

from dgtl_core.config import preset
from dgtl_core.learning.alignment import kmeans, released_alignment, similarity_alignment
from dgtl_core.learning.losses import LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.points import RandomPoints
from dgtl_core.model.adapter import PresentTextLink
from dgtl_core.model.mask_decoder import MaskLogits
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import override
from no_wait import NoWait
import numpy as np
import pytest
from small_recipe import MODEL
import torch

GOLDEN = Path(__file__).parent / 'golden' / 'learning'


def drawn(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = np.random.default_rng([zlib.crc32(key.encode()), seed])
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


@pytest.fixture(scope='module')
def recorded():
    with np.load(GOLDEN / 'pcloss.npz') as file:
        data = dict(file)
    meta = json.loads(data.pop('meta_json').tobytes())
    tokens = 0.05 * drawn('pcloss/G', (meta['q'], 1024), meta['seed'])
    layers = [
        MaskLogits(torch.zeros(2, 100, 20), (3 * drawn(
            f'pcloss/mask{i}', (meta['B'], meta['q'], *size), meta['seed'])).requires_grad_())
        for i, size in enumerate(meta['sizes'])]
    return data, layers, tokens


def test_released_alignment_equals_the_recorded_one(recorded):
    data, layers, tokens = recorded
    tokens = tokens.clone().requires_grad_()
    centroids, texts = (torch.from_numpy(data[key]) for key in ('kmeans_centers', 'text'))
    loss = 0.01 * released_alignment(layers, tokens, texts, centroids)
    assert loss.item() == pytest.approx(float(data['loss']), rel=1e-5)
    loss.backward()
    assert tokens.grad is None
    for i, layer in enumerate(layers):
        checksum = data[f'grad_mask{i}_checksum'][1]
        assert layer.masks.grad.double().abs().sum().item() == pytest.approx(checksum, rel=1e-4)


def test_tokens_get_no_gradient_through_their_own_clusters(recorded):
    data, layers, tokens = recorded
    tokens = tokens.clone().requires_grad_()
    released_alignment(layers[:1], tokens, torch.from_numpy(data['text'])).backward()
    assert tokens.grad is None


def test_own_centroids_are_about_as_good_as_the_recorded_ones(recorded):
    data, _, tokens = recorded

    def spread(centroids):
        return torch.cdist(tokens, centroids).min(1).values.square().sum().item()
    recorded_spread = spread(torch.from_numpy(data['kmeans_centers']))
    assert recorded_spread == pytest.approx(float(data['kmeans_inertia']), rel=1e-4)
    assert spread(kmeans(tokens, 19)) < 1.05 * recorded_spread


def test_kmeans_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(5, 16)
    rows = centres.repeat(8, 1) + 0.1 * torch.randn(40, 16, generator=generator)
    distance = torch.cdist(centres, kmeans(rows, 5))
    assert distance.min(1).values.max() < 0.2


def test_released_alignment_says_where_it_cannot_work():
    layer = MaskLogits(torch.zeros(1, 5, 4), torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="got widths 192 and 192; use alignment 'similarity'"):
        released_alignment([layer], torch.zeros(5, 192), torch.zeros(3, 192))


def world(seed: int = 0):
    """Return three classes in three stripes, with features, tokens and texts to match."""
    directions = torch.linalg.qr(torch.randn(
        16, 16, generator=torch.Generator().manual_seed(seed)))[0]
    stripes = torch.arange(3).repeat_interleave(4)[None, :, None].expand(1, 12, 12)
    features = directions[stripes].permute(0, 3, 1, 2)
    masks = torch.stack([torch.where(stripes == k, 8.0, -8.0) for k in range(3)], 1)
    classes = torch.full((1, 3, 4), -8.0)
    classes[0, range(3), range(3)] = 8
    return MaskLogits(classes, masks), features, directions


def test_similarity_is_zero_where_tokens_agree_with_texts_and_not_elsewhere():
    layer, features, directions = world()
    agreeing = similarity_alignment(layer, features, directions[:3], directions[:3])
    swapped = similarity_alignment(layer, features, directions[[1, 0, 2]], directions[:3])
    assert agreeing.item() == pytest.approx(0, abs=1e-5)
    assert swapped.item() > 1


def test_similarity_teaches_the_tokens_which_class_they_stand_for():
    layer, features, directions = world()
    tokens = torch.randn(3, 16, generator=torch.Generator().manual_seed(7)).requires_grad_()
    optimizer = torch.optim.Adam([tokens], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        similarity_alignment(layer, features, tokens, directions[:3]).backward()
        optimizer.step()
    # each token is now nearer to the features of its own class than to those of any other
    nearest = torch.nn.functional.normalize(tokens, dim=1) @ directions[:3].T
    assert nearest.argmax(1).tolist() == [0, 1, 2]


def test_a_wait_would_be_noticed():
    with NoWait(), pytest.raises(AssertionError, match='_local_scalar_dense'):
        torch.zeros(1).sum().item()
    with NoWait(), pytest.raises(AssertionError, match='nonzero|index'):
        torch.zeros(3)[torch.tensor([True, False, True])].sum()


def test_alignments_do_not_wait_for_the_device(recorded):
    data, layers, tokens = recorded
    texts = torch.from_numpy(data['text'])
    features = torch.randn(2, 1024, 4, 6)
    with NoWait():
        loss = released_alignment(layers, tokens, texts)
        loss = loss + similarity_alignment(layers[-1], features, tokens, texts)
        loss.backward()


@pytest.mark.parametrize(('link', 'alignment', 'width'), [
    ('present', 'released', 64), ('all', 'similarity', 32), ('all', 'off', 32), ('off', 'off', 0)])
def test_whole_objective_waits_for_nothing_but_the_matcher(link, alignment, width, monkeypatch):
    monkeypatch.setattr(PresentTextLink, '_check', lambda *_: None)  # it looks on a CPU alone
    adapter = {**MODEL['adapter'], 'text_link': link}
    torch.manual_seed(0)
    model = Segmenter(override(preset('dgtl-mini'), {
        **MODEL, 'adapter': adapter, 'text': {'width': width}})).train()
    if width:
        model.set_texts(torch.randn(19, width))
    objective = Objective(model, LossConfig(num_points=32, alignment=alignment))
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    labels = torch.randint(0, 19, (2, 32, 64)).to(torch.uint8)
    points = RandomPoints([1, 2], torch.device('cpu'))
    with NoWait():
        losses = objective(images, labels, points)
        torch.stack([x.sum() for x in losses.values()]).sum().backward()
    assert ('align' in losses) == (alignment != 'off')
    if alignment == 'similarity':
        model.zero_grad()
        objective(images, labels, points)['align'].backward()
        assert model.adapter.tokens_a.grad.abs().sum() > 0
        assert model.adapter.text_link.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('alignment', ['released', 'similarity'])
def test_objective_takes_the_mean_token_and_a_hundredth_of_the_alignment(alignment):
    torch.manual_seed(0)
    model = Segmenter(override(preset('dgtl-mini'), {
        **MODEL, 'adapter': {**MODEL['adapter'], 'text_link': 'present'},
        'text': {'width': 64}})).train()
    model.set_texts(torch.randn(19, 64))
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    labels = torch.randint(0, 19, (2, 32, 64)).to(torch.uint8)
    with torch.no_grad():
        losses = Objective(model, LossConfig(num_points=8, alignment=alignment))(
            images, labels, RandomPoints([1, 2], torch.device('cpu')))
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.config.mean, model.config.std))
        seen = []
        model.backbone.register_forward_hook(lambda _, __, out: seen.extend(out))
        layers = model((images - mean) / std, labels)
    tokens, texts = model.adapter.tokens().mean(0), model.adapter.text_link.texts
    expected = released_alignment(layers, tokens, texts) if alignment == 'released' else (
        similarity_alignment(layers[-1], seen[-1], tokens, texts))
    assert losses['align'].item() == pytest.approx(0.01 * expected.item(), rel=1e-4)


@pytest.mark.parametrize(('link', 'width'), [('present', 64), ('all', 32)])
def test_text_link_without_texts_is_refused_before_the_first_step(link, width):
    model = Segmenter(override(preset('dgtl-mini'), {
        **MODEL, 'adapter': {**MODEL['adapter'], 'text_link': link}, 'text': {'width': width}}))
    with pytest.raises(ValueError, match=f"text_link '{link}' learns with class texts.*text.file"):
        Objective(model, LossConfig())
    model.set_texts(torch.ones(19, width))
    Objective(model, LossConfig())


def test_alignment_needs_texts():
    model = Segmenter(override(preset('dgtl-mini'), MODEL))
    with pytest.raises(ValueError, match='needs a model with tokens and texts'):
        Objective(model, LossConfig(alignment='similarity'))
