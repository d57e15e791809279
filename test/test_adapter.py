# SPDX-License-Identifier: Apache-2.0
"""Tokens and their links against the formulas, written out."""

from dgtl_core.config import AdapterConfig
from dgtl_core.model.adapter import Adapter, AllTextLink, mask_link_matrix, PresentTextLink
from no_wait import NoWait
import pytest
import torch
import torch.nn.functional as F


def adapter(rank=4, text_link=None, hidden=24, dim=32):
    torch.manual_seed(0)
    config = AdapterConfig(num_tokens=10, rank=rank)
    made = Adapter(config, dim, 3, 16, hidden, text_link)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.5)
    return made


def present(width=32):
    link = PresentTextLink(5, width)
    link.texts.normal_()
    return link.train()


@pytest.mark.parametrize('rank', [0, 4])
def test_tokens_are_full_or_a_product(rank):
    made = adapter(rank)
    assert made.tokens().shape == (3, 10, 32)
    if rank:
        torch.testing.assert_close(made.tokens()[1], made.tokens_a[1] @ made.tokens_b[1])
    else:
        assert made.tokens() is made.tokens_full


def test_initial_values_are_those_of_the_released_code():
    torch.manual_seed(0)
    made = Adapter(AdapterConfig(), 1024, 24, 16, 256, None)
    bound = (6 / (3 * 16 ** 2 + (1024 * 16) ** 0.5)) ** 0.5
    for part in (made.tokens_a, made.tokens_b):
        assert 0.99 * bound < part.abs().max() <= bound
        assert abs(part.mean()) < 0.01 * bound * 5
    full = Adapter(AdapterConfig(rank=0), 1024, 24, 16, 256, None)
    bound = (6 / (3 * 16 ** 2 + 1024)) ** 0.5
    assert 0.99 * bound < full.tokens_full.abs().max() <= bound
    assert made.scale.item() == pytest.approx(0.001)
    assert sum(p.numel() for p in made.parameters()) == 2_990_081


def test_a_link_that_starts_at_zero_leaves_the_features_as_they_are():
    config = AdapterConfig(num_tokens=10, rank=4, zero_start=True, scale=1.0)
    made = Adapter(config, 32, 3, 16, 24, None)
    features, tokens = torch.randn(2, 7, 32), made.tokens()[0]
    assert made(features, tokens, made.values(tokens)).equal(features)


def test_queries_of_normalised_fresh_tokens_differ_and_others_hardly_do():
    """Mean cosine between two queries, without what all of them share."""
    def alike(query_norm):
        torch.manual_seed(0)
        made = Adapter(AdapterConfig(query_norm=query_norm), 256, 6, 16, 96, None)
        queries = F.normalize(made.queries(made.tokens()), dim=-1)
        return float((queries @ queries.T).mean().detach())

    assert alike(False) > 0.9 and alike(True) < 0.5


def test_feature_link_is_the_formula():
    made = adapter()
    features, tokens = torch.randn(2, 7, 32), made.tokens()[1]
    share = torch.softmax(features @ tokens.T / 32 ** 0.5, dim=-1)
    kept = torch.zeros_like(features)
    for m in range(1, 10):  # token 0 is left out of the sum
        value = made.token_value.weight @ tokens[m] + made.token_value.bias
        kept = kept + share[..., m:m + 1] * value
    delta = (kept + features) @ made.delta.weight.T + made.delta.bias
    found = made(features, tokens, made.values(tokens))
    torch.testing.assert_close(found, features + made.scale * delta)


def test_queries_interleave_maximum_mean_and_last():
    made = adapter()
    tokens = made.tokens()
    x = tokens @ made.query_transform.weight.T + made.query_transform.bias
    merged = torch.empty(10, 3 * 24)
    merged[:, 0::3], merged[:, 1::3], merged[:, 2::3] = x.max(0)[0], x.mean(0), x[2]
    expected = merged @ made.query_merge.weight.T + made.query_merge.bias
    torch.testing.assert_close(made.queries(tokens), expected)


def test_mask_link_matrix_is_applied_over_queries():
    tokens, masks = torch.randn(3, 10, 32), torch.randn(10, 50)
    mean = tokens.mean(0)
    expected = masks + mean @ (mean.T @ masks)
    torch.testing.assert_close(mask_link_matrix(tokens) @ masks, expected, rtol=1e-4, atol=1e-4)


def test_released_text_link_takes_the_classes_of_the_whole_batch():
    link, tokens = present(), torch.randn(3, 10, 32)
    labels = torch.tensor([[[3, 3], [255, 3]], [[0, 255], [0, 0]]], dtype=torch.uint8)
    texts = link.texts[[0, 3]]
    torch.testing.assert_close(link(tokens, labels), tokens + (tokens @ texts.T) @ texts)


def test_released_text_link_does_nothing_for_one_picture_ignored_pixels_or_inference():
    link, tokens = present(), torch.randn(3, 10, 32)
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    assert torch.equal(link(tokens, labels[:1]), tokens)
    assert torch.equal(link(tokens, labels + 255), tokens)
    assert not torch.equal(link(tokens, labels), tokens)
    assert torch.equal(link.eval()(tokens, labels), tokens)
    assert torch.equal(link(tokens, None), tokens)


def test_released_text_link_never_waits_for_the_device(monkeypatch):
    link, tokens = present(), torch.randn(3, 10, 32, requires_grad=True)
    labels = torch.randint(0, 5, (2, 4, 4), dtype=torch.uint8)
    expected = link(tokens, labels)
    monkeypatch.setattr(PresentTextLink, '_check', lambda *_: None)  # for CPUs, see below
    with NoWait():
        found = link(tokens, labels)
        found.sum().backward()
    torch.testing.assert_close(found, expected)


def test_released_text_link_looks_at_labels_on_a_cpu_alone():
    link = present().to('meta')  # nothing can be looked at there
    tokens, labels = (torch.empty(size, device='meta') for size in ((3, 10, 32), (2, 4, 4)))
    assert link(tokens, labels.to(torch.uint8)).shape == tokens.shape


@pytest.mark.parametrize('labels, message', [
    (None, r'call model\(images, labels\)'),
    (torch.full((2, 4, 4), 5), r'labels must be in 0..4 or 255, got \[5\]'),
    (torch.full((2, 4, 4), -1), r'labels must be in 0..4 or 255, got \[-1\]')])
def test_released_text_link_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        present()(torch.randn(3, 10, 32), labels)


def test_released_text_link_needs_texts():
    link = PresentTextLink(5, 32).train()
    with pytest.raises(ValueError, match='needs class texts'):
        link(torch.randn(3, 10, 32), torch.zeros(2, 4, 4))


@pytest.mark.parametrize('width', [32, 20])
def test_link_with_all_texts_is_the_formula(width):
    torch.manual_seed(0)
    link, tokens = AllTextLink(5, width, 32), torch.randn(3, 10, 32)
    link.texts.normal_()
    link.gain.data.fill_(0.7)
    assert (link.project is None) == (width == 32)
    texts = link.texts if width == 32 else link.texts @ link.project.weight.T
    expected = tokens.clone()
    for index in range(3):
        for m in range(10):
            cosine = torch.stack([F.cosine_similarity(tokens[index, m], t, dim=0) for t in texts])
            share = torch.softmax(cosine / 0.07, dim=0)
            for c in range(5):
                expected[index, m] += 0.7 * share[c] * texts[c] / texts[c].norm()
    torch.testing.assert_close(link(tokens, None), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(link.eval()(tokens, None), expected, rtol=1e-4, atol=1e-5)
    loss = link.train()(tokens, None).square().sum()
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in link.parameters())


def test_link_with_all_texts_does_not_depend_on_the_length_of_a_text():
    link, tokens = AllTextLink(5, 32, 32), torch.randn(3, 10, 32)
    link.texts.normal_()
    before = link(tokens, None)
    link.texts *= torch.rand(5, 1) + 0.5
    torch.testing.assert_close(link(tokens, None), before)


def test_adapter_passes_tokens_on_without_a_text_link():
    made = adapter()
    tokens = made.tokens()
    assert made.linked_tokens(tokens, None) is tokens
