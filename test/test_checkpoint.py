# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: complete, exact, and refused in words where they are not."""

import json

from dgtl_core.config import preset
from dgtl_core.learning.optim import build_optimizer, OptimConfig
from dgtl_core.model.checkpoint import (
    load_matching,
    load_segmenter,
    read_header,
    restore,
    save_checkpoint,
)
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model_file import KEY, ModelError
from dgtl_core.strict import override
import pytest
from safetensors.torch import load_file, save_file
from small_recipe import MODEL
import torch


@pytest.fixture
def config():
    return override(preset('dgtl-mini'), MODEL)


def trained(config, seed=0, steps=2):
    """Return a model after a few steps, and its optimizer."""
    torch.manual_seed(seed)
    model = Segmenter(config)
    optimizer = build_optimizer(model, OptimConfig(lr=1e-2))
    for _ in range(steps):
        layers = model(torch.randn(1, 3, 32, 64))
        sum(x.sum() for layer in layers for x in layer).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_model_comes_back_with_its_configuration(config, tmp_path):
    model, _ = trained(config)
    save_checkpoint(tmp_path / 'a.safetensors', model, config, source='a test', commit='abc')
    loaded, same = load_segmenter(tmp_path / 'a.safetensors')
    assert same == config and not loaded.training
    assert equal(loaded.state_dict(), model.state_dict())
    header = read_header(tmp_path / 'a.safetensors')
    assert header['source'] == 'a test' and header['commit'] == 'abc' and header['format'] == 1
    assert [entry['name'] for entry in header['classes']] == list(config.classes.names)
    assert list(tmp_path.iterdir()) == [tmp_path / 'a.safetensors']


def test_files_outside_are_not_needed_to_load(config, tmp_path):
    model, _ = trained(config, steps=0)
    here = override(config, {'backbone': {'weights': 'gone.safetensors'}})
    save_checkpoint(tmp_path / 'a.safetensors', model, here)
    assert load_segmenter(tmp_path / 'a.safetensors')[1].backbone.weights == ''


def test_optimizer_comes_back_exactly(config, tmp_path):
    path = tmp_path / 'a.safetensors'
    model, optimizer = trained(config)
    save_checkpoint(path, model, config, optimizer=optimizer, training={'step': 2})
    other, fresh = trained(config, seed=1, steps=0)
    assert restore(path, other, fresh) is None
    for first, second in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        for a, b in zip(first['params'], second['params'], strict=True):
            assert torch.equal(a, b) and equal(optimizer.state[a], fresh.state[b])
    # and both go on alike
    for one, its in ((model, optimizer), (other, fresh)):
        torch.manual_seed(9)
        sum(x.sum() for layer in one(torch.randn(1, 3, 32, 64)) for x in layer).backward()
        its.step()
    assert equal(model.state_dict(), other.state_dict())


def test_average_is_the_model_and_training_goes_on_from_the_raw_weights(config, tmp_path):
    path = tmp_path / 'a.safetensors'
    model, optimizer = trained(config)
    average = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    save_checkpoint(path, model, config, optimizer=optimizer, average=average)
    assert equal(load_segmenter(path)[0].state_dict(), average)
    other, fresh = trained(config, seed=1, steps=0)
    kept = restore(path, other, fresh)
    assert kept is not None and equal(kept, average)
    assert equal(other.state_dict(), model.state_dict())
    save_checkpoint(path, model, config, average=average)  # the result: weights alone
    assert all(key.startswith('model.') for key in load_file(path))


def test_training_cannot_go_on_from_weights_alone(config, tmp_path):
    model, optimizer = trained(config, steps=0)
    save_checkpoint(tmp_path / 'a.safetensors', model, config)
    with pytest.raises(ModelError, match='no optimizer state'):
        restore(tmp_path / 'a.safetensors', model, optimizer)


def test_failed_write_leaves_the_former_file_and_nothing_else(config, tmp_path):
    path = tmp_path / 'a.safetensors'
    model, _ = trained(config, steps=0)
    save_checkpoint(path, model, config)
    before = path.read_bytes()
    with pytest.raises(TypeError):  # what JSON cannot hold
        save_checkpoint(path, model, config, training={'step': object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match='cannot write|No such file'):
        save_checkpoint(tmp_path / 'none' / 'a.safetensors', model, config)


def test_start_from_another_model_as_far_as_it_fits(config, tmp_path):
    path = tmp_path / 'a.safetensors'
    model, _ = trained(config)
    save_checkpoint(path, model, config)
    wider = override(config, {'head': {'decoder_feedforward': 128}})
    other = Segmenter(wider)
    fresh = load_matching(path, other)
    assert 'mask_decoder.layers.0.linear1.weight' in fresh
    assert not [name for name in fresh if 'linear' not in name]
    assert torch.equal(other.adapter.tokens_a, model.adapter.tokens_a)
    path = tmp_path / 'b.safetensors'
    save_file({'model.nothing': torch.zeros(1)}, path, {KEY: json.dumps(
        read_header(tmp_path / 'a.safetensors'))})
    with pytest.raises(ModelError, match='no tensor of'):
        load_matching(path, other)


def test_wrong_files_are_refused_in_words(config, tmp_path):
    with pytest.raises(ModelError, match='there is no file'):
        read_header(tmp_path / 'none.safetensors')
    with pytest.raises(ModelError, match='is a folder, not a checkpoint'):
        read_header(tmp_path)
    (tmp_path / 'text.safetensors').write_text('hello')
    with pytest.raises(ModelError, match='is not a .safetensors file, or is cut short .*copy it'):
        read_header(tmp_path / 'text.safetensors')
    save_file({'x': torch.zeros(1)}, tmp_path / 'bare.safetensors')
    with pytest.raises(ModelError, match='has no "dgtl" metadata.*import_weights'):
        load_segmenter(tmp_path / 'bare.safetensors')
    model, _ = trained(config, steps=0)
    save_checkpoint(tmp_path / 'a.safetensors', model, config)
    header = read_header(tmp_path / 'a.safetensors')
    tensors = load_file(tmp_path / 'a.safetensors')
    del tensors['model.adapter.scale']
    save_file(tensors, tmp_path / 'b.safetensors', {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match=r'does not fit: 1 missing \(adapter.scale\)'):
        load_segmenter(tmp_path / 'b.safetensors')
    save_file({'model.x': torch.zeros(1), 'model.adapter.scale': torch.zeros(7)},
              tmp_path / 'b.safetensors', {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match=(
            r'\d+ missing .*; 1 unexpected \(x\); 1 of another shape \(adapter')) as caught:
        load_segmenter(tmp_path / 'b.safetensors')
    assert len(str(caught.value)) < 500
    for key, value in (('input_size', [32, 32]), ('classes', header['classes'][:-1])):
        save_file(tensors, tmp_path / 'd.safetensors', {KEY: json.dumps({**header, key: value})})
        with pytest.raises(ModelError, match='says two things of its input size or classes'):
            load_segmenter(tmp_path / 'd.safetensors')
    header['config']['head']['num_querys'] = 3
    save_file(tensors, tmp_path / 'c.safetensors', {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match='did you mean num_queries'):
        load_segmenter(tmp_path / 'c.safetensors')
