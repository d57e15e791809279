# SPDX-License-Identifier: Apache-2.0
"""The mask decoder against Hugging Face's on the same weights, and the semantic scores."""

from dgtl_core.config import HeadConfig
from dgtl_core.model.mask_decoder import (
    attention_mask,
    MaskDecoder,
    MaskLogits,
    semantic_scores,
)
import pytest
import torch
import torch.nn.functional as F

CONFIG = HeadConfig(
    hidden_dim=32, num_heads=4, num_queries=7, queries='learned', decoder_layers=4,
    decoder_feedforward=64)


def decoder(config=CONFIG):
    torch.manual_seed(0)
    made = MaskDecoder(config, num_classes=5).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return made


def inputs():
    torch.manual_seed(1)
    memories = [torch.randn(2, 32, 2 ** i, 3 * 2 ** i) for i in (1, 2, 3)]
    return torch.randn(2, 32, 16, 24), memories


def to_hugging_face(state):
    """Our names to those of Mask2FormerTransformerModule."""
    result = {}
    for key, value in state.items():
        if key.startswith(('class_head',)):
            continue
        for mine, theirs in (
                ('query_position', 'queries_embedder'), ('query_content', 'queries_features'),
                ('level_embedding', 'level_embed'), ('layers.', 'decoder.layers.'),
                ('cross_attention.in_proj.', 'cross_attn.in_proj_'),
                ('cross_attention.', 'cross_attn.'), ('self_attention.', 'self_attn.'),
                ('.norm1.', '.cross_attn_layer_norm.'), ('.norm2.', '.self_attn_layer_norm.'),
                ('.norm3.', '.final_layer_norm.'), ('.linear1.', '.fc1.'), ('.linear2.', '.fc2.')):
            key = key.replace(mine, theirs)
        if key.startswith('norm.'):
            key = f'decoder.layernorm.{key[5:]}'
        if key.startswith('mask_head.'):
            _, index, kind = key.split('.')
            key = f'decoder.mask_predictor.mask_embedder.{int(index) // 2}.0.{kind}'
        if '.self_attn.in_proj.' in key:
            for part, name in zip(value.chunk(3), 'qkv'):
                result[key.replace('in_proj', f'{name}_proj')] = part
        else:
            result[key] = value
    return result


def test_equals_hugging_face():
    pytest.importorskip('transformers')
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former as other

    ours = decoder()
    theirs = other.Mask2FormerTransformerModule(32, Mask2FormerConfig(
        feature_size=32, mask_feature_size=32, hidden_dim=32, decoder_layers=5,
        num_attention_heads=4, dim_feedforward=64, num_queries=7, dropout=0.0)).eval()
    theirs.load_state_dict(to_hugging_face(ours.state_dict()))
    mask_features, memories = inputs()
    with torch.no_grad():
        layers = ours(mask_features, memories, None, None)
        expected = theirs(memories, mask_features)
    assert len(layers) == len(expected.masks_queries_logits) == 5
    for layer, masks, states in zip(
            layers, expected.masks_queries_logits, expected.intermediate_hidden_states):
        torch.testing.assert_close(layer.masks, masks, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            layer.classes, ours.class_head(states.transpose(0, 1)), rtol=1e-4, atol=1e-4)


def test_last_only_gives_the_last_layer():
    ours, (mask_features, memories) = decoder(), inputs()
    with torch.no_grad():
        full = ours(mask_features, memories, None, None)
        last = ours(mask_features, memories, None, None, last_only=True)
    assert len(last) == 1
    assert torch.equal(last[0].masks, full[-1].masks)
    assert torch.equal(last[0].classes, full[-1].classes)


def test_mask_link_changes_the_outputs_and_not_the_attention():
    ours, (mask_features, memories) = decoder(), inputs()
    link = torch.eye(7) + torch.randn(7, 7)
    with torch.no_grad():
        plain = ours(mask_features, memories, None, None)
        linked = ours(mask_features, memories, None, link)
    for before, after in zip(plain, linked):
        assert torch.equal(before.classes, after.classes)
        torch.testing.assert_close(
            after.masks, torch.einsum('pq,bqhw->bphw', link, before.masks), rtol=1e-4, atol=1e-4)


def test_queries_from_tokens_are_position_and_projected_content():
    config = HeadConfig(
        hidden_dim=32, num_heads=4, num_queries=7, decoder_layers=1, decoder_feedforward=64)
    ours, (mask_features, memories) = decoder(config), inputs()
    queries, seen = torch.randn(7, 32), []
    ours.layers[0].register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    with torch.no_grad():
        ours(mask_features, memories, queries, None)
        torch.testing.assert_close(seen[0][1], ours.query_content(queries))
    assert torch.equal(seen[1][1], queries)


def test_attention_mask_opens_where_the_mask_is_and_everywhere_without_one():
    features = torch.tensor([[[1.0, -1.0, 0.0]]])
    embedding = torch.tensor([[[2.0], [-1.0], [0.0]]])
    allowed = attention_mask(embedding, features)
    assert allowed.tolist() == [[[True, False, True], [False, True, True], [True, True, True]]]
    nowhere = attention_mask(torch.tensor([[[-1.0]]]), torch.tensor([[[1.0, 2.0]]]))
    assert nowhere.tolist() == [[[True, True]]]


def test_masks_of_a_coarse_grid_come_from_resized_features():
    """Resizing and the product with the embedding change places."""
    mask_features, _ = inputs()
    embedding = torch.randn(2, 7, 32)
    masks = torch.einsum('bqd,bdhw->bqhw', embedding, mask_features)
    expected = F.interpolate(masks, size=(4, 6), mode='bilinear', align_corners=False) < 0
    coarse = F.interpolate(mask_features, size=(4, 6), mode='bilinear', align_corners=False)
    found = ~attention_mask(embedding, coarse.flatten(2))
    blocked = expected.flatten(2)
    blocked = blocked & ~blocked.all(-1, keepdim=True)
    assert torch.equal(found, blocked)


def logits():
    torch.manual_seed(2)
    return MaskLogits(torch.randn(2, 5, 4), torch.randn(2, 5, 6, 8) * 3)


def test_semantic_scores_are_the_formula():
    given = logits()
    masks = F.interpolate(given.masks, size=(12, 20), mode='bilinear', align_corners=False)
    expected = torch.zeros(2, 3, 12, 20)
    for q in range(5):
        share = given.classes[:, q].exp() / given.classes[:, q].exp().sum(1, keepdim=True)
        for c in range(3):  # the last class is "no object"
            expected[:, c] += share[:, c, None, None] / (1 + (-masks[:, q]).exp())
    torch.testing.assert_close(semantic_scores(given, (12, 20)), expected)


def test_scores_do_not_depend_on_query_order():
    given = logits()
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = MaskLogits(*(x[:, order] for x in given))
    torch.testing.assert_close(semantic_scores(shuffled, (6, 8)), semantic_scores(given, (6, 8)))


def test_no_gradient_flows_through_the_attention_masks():
    ours, (mask_features, memories) = decoder(), inputs()
    mask_features.requires_grad_()
    last = ours(mask_features, memories, None, None)[-1]
    last.classes.square().sum().backward()
    # the classes depend on the mask features through the attention masks alone
    assert mask_features.grad is None or not mask_features.grad.any()
