# SPDX-License-Identifier: Apache-2.0
"""EoMT's published form: the same numbers as transformers' model, and what is refused."""

from dgtl_core.folding.fold import fold
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.eomt import segmenter_from_eomt
import pytest
from small_segmenter import normalised, street
import torch
from training.import_weights import main

transformers = pytest.importorskip('transformers')
SIZE, QUERIES, CLASSES = 96, 7, 5


@pytest.fixture(scope='module')
def published():
    torch.manual_seed(0)
    model = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(
        hidden_size=128, num_hidden_layers=5, num_attention_heads=2, image_size=SIZE,
        num_blocks=2, num_queries=QUERIES, num_labels=CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.attn_mask_probs.zero_()  # as at the end of every published training
    return model.eval()


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
