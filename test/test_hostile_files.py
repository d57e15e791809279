# SPDX-License-Identifier: Apache-2.0
"""
Files that are damaged or made to harm: each reader has one kind of error, and bounded memory.

Property tests change good files, cut them, and write what nobody meant.
"""

import io
import json
import logging
import os
import struct
import zipfile

import cv2
from dgtl_core.classes import ClassSet
from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.data.labels import DataError, read_colors, read_ids
from dgtl_core.model.backbone_weights import read_state_dict
from dgtl_core.model.checkpoint import load_segmenter, read_header, save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import ClassTexts, load_texts, save_texts
from dgtl_core.model_file import KEY, ModelError
from dgtl_core.picture_header import PictureError
from dgtl_core.picture_header import read_header as picture_header
from dgtl_core.pictures import read_image
from dgtl_core.strict import from_dict, override, to_dict
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
from safetensors.torch import load_file, save_file
from small_recipe import MODEL
import torch
import yaml

ONCE = settings(  # the same examples every time; more and others: HYPOTHESIS_MAX=5000
    max_examples=int(os.environ.get('HYPOTHESIS_MAX', 60)), deadline=None, database=None,
    derandomize='HYPOTHESIS_MAX' not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def png(mode='L'):
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 19, (16, 24)).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(buffer, 'PNG')
    return buffer.getvalue()


def picture(suffix):
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


@st.composite
def damaged(draw, good):
    """Some bytes changed, a piece cut out, or the end missing."""
    data = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
    if draw(st.booleans()):
        del data[start:start + length]
    return bytes(data[:start] if draw(st.integers(0, 3)) == 0 else data)


@ONCE
@given(data=damaged([png(), png('P'), png('RGB'), png('1')]) | st.binary(max_size=200))
def test_label_pictures_are_read_or_refused_in_words(data, tmp_path):
    file = tmp_path / 'x.png'
    file.write_bytes(data)
    for read in (read_ids, lambda f: read_colors(f, [(0, 0, 0, 0), (9, 9, 9, 1)])):
        try:
            ids = read(file)
        except DataError as error:
            assert 'x.png' in str(error)
        else:
            assert ids.ndim == 2 and ids.size <= 1 << 26


@ONCE
@given(data=damaged([picture(s) for s in ('.jpg', '.png', '.bmp', '.ppm', '.tif', '.webp')])
       | st.binary(max_size=200))
def test_pictures_are_read_or_refused_in_words(data, tmp_path):
    try:
        picture_header(data)
    except PictureError:
        pass
    file = tmp_path / 'x.jpg'
    file.write_bytes(data)
    try:
        image = read_image(file)
    except PictureError as error:
        assert 'x.jpg' in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape[2] == 3


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=5) | st.integers(), inner, max_size=3), max_leaves=8)


@ONCE
@given(ids=PLAIN, colors=PLAIN, name=PLAIN)
def test_class_files_are_read_or_refused_in_words(ids, colors, name, tmp_path):
    file = tmp_path / 'classes.yaml'
    entry = {'id': 0, 'name': 'road', 'color': [1, 2, 3]}
    content = {'name': name, 'classes': [entry], 'ids': ids, 'colors': colors}
    file.write_text(yaml.safe_dump(content), encoding='utf-8')
    try:
        classes = ClassSet.from_yaml(file)
    except ValueError as error:
        assert 'classes.yaml' in str(error)
    else:
        assert classes.names == ('road',)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'good.safetensors'
    config = override(preset('dgtl-mini'), MODEL)
    torch.manual_seed(0)
    save_checkpoint(path, Segmenter(config), config)
    return path


def with_header(path, out, header):
    save_file(load_file(path), out, {KEY: header if isinstance(header, str)
                                     else json.dumps(header)})
    return out


@ONCE
@given(key=st.sampled_from(['config', 'classes', 'input_size', 'format', 'name']), value=PLAIN)
def test_headers_of_checkpoints_are_read_or_refused_in_words(key, value, checkpoint, tmp_path):
    changed = with_header(checkpoint, tmp_path / 'x.safetensors',
                          {**read_header(checkpoint), key: value})
    try:
        load_segmenter(changed)
    except ModelError as error:
        assert 'x.safetensors' in str(error)


@pytest.mark.parametrize('change', [
    {'backbone': {'embed_dim': 2**20}}, {'backbone': {'depth': 10**7}},
    {'backbone': {'embed_dim': 2**40}}, {'head': {'decoder_feedforward': 10**9}},
    {'head': {'decoder_layers': 10**6}}, {'head': {'hidden_dim': 2**24}},
    {'backbone': {'img_size': [2**24, 2**24]}}, {'head': {'num_queries': 10**9},
                                                 'adapter': {'num_tokens': 10**9}}])
def test_configuration_that_asks_for_terabytes_is_refused_by_arithmetic(
        change, checkpoint, tmp_path, monkeypatch):
    header = read_header(checkpoint)
    config = to_dict(override(from_dict(SegmenterConfig, header['config']), change))
    wrong = with_header(checkpoint, tmp_path / 'x.safetensors', {**header, 'config': config})
    made = []
    start = Segmenter.__init__

    def watched(self, config):
        made.append(torch.empty(0).device.type)
        start(self, config)

    monkeypatch.setattr(Segmenter, '__init__', watched)
    with pytest.raises(ModelError, match='x.safetensors'):
        load_segmenter(wrong)
    assert set(made) <= {'meta'}, 'no memory was taken for it'


def test_header_that_is_nested_deeply_is_refused(checkpoint, tmp_path):
    header = json.dumps(read_header(checkpoint))
    deep = header.replace('"config": {', '"config": {"x": ' + '[' * 5000 + ']' * 5000 + ', ', 1)
    with pytest.raises(ModelError, match='x.safetensors'):
        load_segmenter(with_header(checkpoint, tmp_path / 'x.safetensors', deep))


def pth(**options):
    buffer = io.BytesIO()
    torch.save({'a.weight': torch.arange(6.).view(2, 3), 'a.bias': torch.zeros(2)}, buffer,
               **options)
    return buffer.getvalue()


@ONCE
@given(data=damaged([pth(), pth(_use_new_zipfile_serialization=False)])
       | st.binary(max_size=100))
def test_weights_are_read_or_refused_in_words(data, tmp_path):
    file = tmp_path / 'x.pth'
    file.write_bytes(data)
    try:
        state = read_state_dict(file)
    except ValueError as error:
        assert 'x.pth' in str(error)
        assert 'weights_only' not in str(error), 'nobody is told to run what is in a file'
    else:
        assert all(isinstance(value, torch.Tensor) for value in state.values())


def texts(tmp_path):
    file = tmp_path / 'good.npz'
    save_texts(file, ClassTexts(torch.ones(2, 4), ('road', 'sky'), 'made up'))
    return file.read_bytes()


@ONCE
@given(data=st.data())
def test_texts_are_read_or_refused_in_words(data, tmp_path):
    file = tmp_path / 'x.npz'
    file.write_bytes(data.draw(damaged([texts(tmp_path)]) | st.binary(max_size=100)))
    try:
        found = load_texts(file)
    except ValueError as error:
        assert 'x.npz' in str(error)
    else:
        assert found.embeddings.ndim == 2


def npy(shape, descr='<f4', body=b''):
    header = repr({'descr': descr, 'fortran_order': False, 'shape': shape}).encode() + b'\n'
    return b'\x93NUMPY\1\0' + struct.pack('<H', len(header)) + header + body


@pytest.mark.parametrize('array', [
    npy((10**12, 4)), npy((2**62, 4)), npy((2, 4), '|O'), npy((2, 4)), npy((-1,)), b'', b'\x93NUM',
    npy('x'), npy((2,), '<q9')])
def test_arrays_of_impossible_sizes_are_refused(array, tmp_path):
    file = tmp_path / 'x.npz'
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('embeddings.npy', array)
        archive.writestr('classes.npy', array)
    with pytest.raises(ValueError, match='x.npz holds no class texts'):
        load_texts(file)


def test_archive_of_too_many_bytes_is_refused(tmp_path):
    file = tmp_path / 'x.npz'
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('embeddings.npy', 'w') as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
    assert file.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match='are more than texts have'):
        load_texts(file)


INSIDE = {'blocks.0.weight': torch.ones(2), 'norm.bias': torch.zeros(2)}


def named(prefix, value=1.0):
    return {f'{prefix}{key}': tensor * value for key, tensor in INSIDE.items()}


@pytest.mark.parametrize('saved', [
    named('module.'), named('model.'), named('_orig_mod.'), named('model._orig_mod.'),
    named('module.model.'), {'n_averaged': torch.tensor(3), **named('module.')},
    {'blocks._orig_mod.0.weight': INSIDE['blocks.0.weight'], 'norm.bias': INSIDE['norm.bias']},
    {'state_dict': named('model.')}, {'model': named('module.'), 'epoch': 3}])
def test_names_of_training_wrappers_are_taken_off(saved, tmp_path):
    torch.save(saved, tmp_path / 'x.pth')
    found = read_state_dict(tmp_path / 'x.pth')
    assert found.keys() == INSIDE.keys()
    assert all(torch.equal(found[key], INSIDE[key]) for key in INSIDE)


@pytest.mark.parametrize('saved', [
    {'state_dict': named('', 5), 'state_dict_ema': INSIDE}, {'model_ema': named('module.')},
    {'model': named('', 5), 'model_ema': INSIDE}, {'ema': named('module.'), 'epoch': 3},
    {'state_dict': {**named('model.', 5), **named('model_ema.module.')}}])
def test_moving_average_is_taken_and_named(saved, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    torch.save(saved, tmp_path / 'x.pth')
    found = read_state_dict(tmp_path / 'x.pth')
    assert found.keys() == INSIDE.keys()
    assert all(torch.equal(found[key], INSIDE[key]) for key in INSIDE)
    if len(saved) > 1 or 'state_dict' in saved:
        assert 'the moving average' in caplog.text


def test_own_checkpoint_of_a_compiled_model_loads(checkpoint, tmp_path):
    state = {key.replace('model.', 'model._orig_mod.', 1): value
             for key, value in load_file(checkpoint).items()}
    save_file(state, tmp_path / 'x.safetensors', {KEY: json.dumps(read_header(checkpoint))})
    model, _ = load_segmenter(tmp_path / 'x.safetensors')
    expected, _ = load_segmenter(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(
        model.state_dict().values(), expected.state_dict().values(), strict=True))
