# SPDX-License-Identifier: Apache-2.0
"""EoMT's published forms: the same numbers as transformers' model, and what is refused."""

import re

from dgtl_core.folding.fold import fold
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.eomt import segmenter_from_eomt
from dgtl_core.model.mask_decoder import semantic_scores
from dgtl_core.zoo.convert import to_checkpoint
from dgtl_core.zoo.entries import find_entry
import pytest
from small_segmenter import normalised, street
import torch
from training.import_weights import main

transformers = pytest.importorskip('transformers')
SIZE, QUERIES, CLASSES = 96, 7, 5


def untrained(classes=CLASSES):
    """An EoMT of transformers with random weights."""
    torch.manual_seed(0)
    model = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(
        hidden_size=128, num_hidden_layers=5, num_attention_heads=2, image_size=SIZE,
        num_blocks=2, num_queries=QUERIES, num_labels=classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.attn_mask_probs.zero_()  # as at the end of every published training
    return model.eval()


@pytest.fixture(scope='module')
def published():
    return untrained()


# Of transformers' own conversion (convert_eomt_to_hf.py), the other way round.
AUTHORS = (
    (r'embeddings\.cls_token', 'encoder.backbone.cls_token'),
    (r'embeddings\.register_tokens', 'encoder.backbone.reg_token'),
    (r'embeddings\.position_embeddings\.weight', 'encoder.backbone.pos_embed'),
    (r'embeddings\.patch_embeddings\.projection', 'encoder.backbone.patch_embed.proj'),
    (r'layers\.(\d+)\.attention\.out_proj', r'encoder.backbone.blocks.\1.attn.proj'),
    (r'layers\.(\d+)\.attention\.qkv', r'encoder.backbone.blocks.\1.attn.qkv'),
    (r'layers\.(\d+)\.layer_scale(\d)\.lambda1', r'encoder.backbone.blocks.\1.ls\2.gamma'),
    (r'layers\.', 'encoder.backbone.blocks.'), (r'layernorm\.', 'encoder.backbone.norm.'),
    (r'query\.', 'q.'), (r'class_predictor', 'class_head'),
    (r'upscale_block\.block\.(\d+)\.layernorm2d', r'upscale.\1.norm'),
    (r'upscale_block\.block', 'upscale'), (r'mask_head\.fc1', 'mask_head.0'),
    (r'mask_head\.fc2', 'mask_head.2'), (r'mask_head\.fc3', 'mask_head.4'))


def as_its_authors_store_it(state):
    fused = {}
    for key, value in state.items():
        if key.startswith('criterion.'):
            fused[key] = value
            continue
        if '.q_proj.' in key:
            value = torch.cat([state[key.replace('.q_proj.', f'.{p}_proj.')] for p in 'qkv'])
        elif '.k_proj.' in key or '.v_proj.' in key:
            continue
        key = key.replace('.q_proj.', '.qkv.')
        for pattern, theirs in AUTHORS:
            key, count = re.subn(r'\A' + pattern, theirs, key)
            if count:
                break
        fused[f'network.{key}'] = value[None] if key.endswith('pos_embed') else value
    fused['network.encoder.pixel_mean'] = torch.zeros(1, 3, 1, 1)
    return fused


def test_the_file_of_the_authors_gives_the_same_model(published):
    ours = segmenter_from_eomt(published.state_dict())
    model = segmenter_from_eomt(as_its_authors_store_it(published.state_dict()))
    assert model.config == ours.config
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)


def test_a_cut_file_of_the_authors_is_refused_by_their_names(published):
    state = as_its_authors_store_it(published.state_dict())
    del state['network.encoder.backbone.blocks.1.attn.qkv.weight']
    with pytest.raises(ValueError, match=r'1 missing \(network.encoder.backbone.blocks.1.attn'):
        segmenter_from_eomt(state)


def close(actual, expected):
    assert (actual - expected).norm() / expected.norm() < 1e-5


def test_the_numbers_are_those_of_transformers(published):
    model = segmenter_from_eomt(published.state_dict())
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, found = published(images), model.predict(images)
    close(found.masks, expected.masks_queries_logits)
    close(found.classes, expected.class_queries_logits)


def test_everything_is_read_from_the_shapes(published):
    config = segmenter_from_eomt(published.state_dict()).config
    assert (config.backbone.name, config.backbone.sizes) == ('dinov2-reg', (128, 5, 2))
    assert config.input_size == config.window_stride == config.backbone.img_size == (SIZE, SIZE)
    assert (config.head.num_blocks, config.head.num_queries) == (2, QUERIES)
    assert (config.num_classes, config.method) == (CLASSES, 'eomt')


# The published config.json: width, blocks, heads, side, queries, blocks with queries, classes.
FORMS = {
    'dinov2-s-reg': (384, 12, 6, 640, 200, 3, 133),
    'dinov2-b-reg': (768, 12, 12, 640, 200, 3, 133),
    'dinov2-l-reg': (1024, 24, 16, 512, 100, 4, 150)}


def of_form(name):
    width, depth, heads, side, queries, blocks, classes = FORMS[name]
    return transformers.EomtConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=side,
        num_queries=queries, num_blocks=blocks, num_labels=classes)


@pytest.mark.parametrize('name', FORMS)
def test_the_published_forms_are_those_of_their_backbones(name):
    with torch.device('meta'):
        published = transformers.EomtForUniversalSegmentation(of_form(name)).state_dict()
    config = segmenter_from_eomt({  # of no memory before they are joined
        key: torch.zeros(()).expand(value.shape) for key, value in published.items()}).config
    _, _, _, side, queries, blocks, classes = FORMS[name]
    assert (config.backbone.name, config.backbone.patch_size) == (name, 16)
    assert config.input_size == (side, side) and config.num_classes == classes
    assert (config.head.num_queries, config.head.num_blocks) == (queries, blocks)
    processor = transformers.EomtImageProcessor()
    assert config.mean == pytest.approx([255 * value for value in processor.image_mean])
    assert config.std == pytest.approx([255 * value for value in processor.image_std])


def test_a_small_coco_model_gives_the_labels_of_transformers():
    torch.manual_seed(0)
    published = transformers.EomtForUniversalSegmentation(of_form('dinov2-s-reg')).eval()
    with torch.no_grad():
        published.attn_mask_probs.zero_()
        published.class_predictor.weight.normal_(std=0.3)  # so that the queries differ
    model = segmenter_from_eomt(published.state_dict())
    images = torch.randn(1, 3, 640, 640)
    with torch.no_grad():
        outputs = published(images)
        scores = semantic_scores(model.predict(images), (640, 640))
    close(model.predict(images).masks, outputs.masks_queries_logits)
    expected, = transformers.EomtImageProcessor().post_process_semantic_segmentation(
        outputs, [(640, 640)], {'shortest_edge': 640, 'longest_edge': 640})
    assert len(expected.unique()) > 3
    assert (scores.argmax(1)[0] == expected).float().mean() > 0.999


def test_folded_gives_the_same(published):
    model, picture = segmenter_from_eomt(published.state_dict()), street((SIZE, SIZE))
    with torch.no_grad():
        plain = model.predict(normalised(picture, model.config))
        quick = fold(model, (SIZE, SIZE))(torch.from_numpy(picture)[None])
    assert (quick.masks - plain.masks).norm() / plain.masks.norm() < 1e-4


def test_the_command_imports_a_file_and_the_checkpoint_gives_the_same(published, tmp_path):
    published.save_pretrained(tmp_path)
    out = tmp_path / 'eomt.safetensors'
    source = str(tmp_path / 'model.safetensors')
    assert main(['--method', 'eomt', '--adapter', source, str(out)]) == 0
    model, config = load_segmenter(out)
    assert config.name == 'eomt-dinov2-reg'
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        close(model.predict(images).masks, published(images).masks_queries_logits)


@pytest.mark.parametrize('name, count, some', [
    ('eomt-ade20k-l-512', 150, {2: 'sky', 6: 'road', 149: 'flag'}),
    ('eomt-coco-s-640', 133, {0: 'person', 100: 'road', 119: 'sky-other-merged'})])
def test_fetched_weights_know_the_names_of_their_classes(tmp_path, name, count, some):
    torch.save(as_its_authors_store_it(untrained(count).state_dict()), tmp_path / 'it.bin')
    out = tmp_path / 'out.safetensors'
    to_checkpoint(find_entry(name), {name: tmp_path / 'it.bin'}, out, 'a test')
    classes = load_segmenter(out)[1].classes
    assert len(classes) == count and {i: classes.names[i] for i in some} == some
    torch.save(as_its_authors_store_it(untrained(7).state_dict()), tmp_path / 'it.bin')
    with pytest.raises(ValueError, match=f'the checkpoint has 7 classes, .* has {count}'):
        to_checkpoint(find_entry(name), {name: tmp_path / 'it.bin'}, out, 'a test')


def test_the_command_says_which_options_do_not_go_with_it(published, tmp_path, capsys):
    published.save_pretrained(tmp_path)
    source = str(tmp_path / 'model.safetensors')
    arguments = ['--method', 'eomt', '--adapter', source, str(tmp_path / 'out.safetensors')]
    assert main([*arguments, '--image-size', '64', '--backbone', source]) == 1
    assert 'leave out --backbone and --image-size' in capsys.readouterr().err


@pytest.mark.parametrize('spoil, message', [
    (lambda state: state.pop('query.weight'), 'has no query.weight: expected an EoMT on DINOv2'),
    (lambda state: state['attn_mask_probs'].fill_(0.5), r'masks its attention .*\[0.5, 0.5\]'),
    (lambda state: state.pop('layers.1.norm1.bias'), r'1 missing \(layers.1.norm1.bias\)'),
    (lambda state: state.pop('layers.1.attention.k_proj.bias'),
     r'1 missing \(layers.1.attention.k_proj.bias\)'),
    (lambda state: state.update({'layers.1.mlp.gate.weight': torch.zeros(1)}),
     r'1 unexpected \(layers.1.mlp.gate.weight\)'),
    (lambda state: state.update({'embeddings.position_embeddings.weight': torch.zeros(7, 128)}),
     'must be a square grid, got 7 places')])
def test_another_network_is_refused_by_its_published_names(published, spoil, message):
    state = {key: value.clone() for key, value in published.state_dict().items()}
    spoil(state)
    with pytest.raises(ValueError, match=message):
        segmenter_from_eomt(state)
