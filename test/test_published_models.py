# SPDX-License-Identifier: Apache-2.0
"""Published files become models that run, and a CLIP gives the texts of classes."""

import hashlib
import os

from dgtl_core.cli.fetch import main
from dgtl_core.predictor import onnx_metadata, Predictor
from dgtl_core.zoo import fetch as fetching
from dgtl_core.zoo.cache import fetched_file, weights_folder
from dgtl_core.zoo.entries import Entry
import numpy as np
import pytest
from small_zoo import BASE, MODEL, offering


@pytest.fixture
def zoo(server, tmp_path, monkeypatch):
    yield from offering(server, tmp_path, monkeypatch)


def openai_clip(path):
    """A CLIP as OpenAI publishes it, small: a TorchScript archive; return its text tensors."""
    from test_text import clip_shapes
    import torch

    state = {key.removeprefix('backbone.reins.clip_model.'): torch.randn(shape) * 0.05
             for key, shape in clip_shapes(64, 1, 49408, 32).items()}
    whole = torch.nn.Module()
    for key, value in {**state, 'visual.conv1.weight': torch.zeros(1)}.items():
        *parents, name = key.split('.')
        module = whole
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_parameter(name, torch.nn.Parameter(value.half()))
    torch.jit.save(torch.jit.script(whole), path)
    return {key: value.half().float() for key, value in state.items()}


def test_a_clip_gives_the_texts_of_classes(zoo, server, tmp_path, capsys):
    torch = pytest.importorskip('torch')
    open_clip = pytest.importorskip('open_clip')
    from dgtl_core.model.text import encode_clip_text, load_texts

    state = openai_clip(tmp_path / 'x.pt')
    server.files['/RN50.pt'] = (tmp_path / 'x.pt').read_bytes()
    text = {'kind': 'text', 'backbone': 'RN50', 'url': f'{server.url}/RN50.pt',
            'sha256': hashlib.sha256(server.files['/RN50.pt']).hexdigest()}
    zoo(text, {'kind': 'backbone', 'needs': None, 'method': None})
    (tmp_path / 'mine.yaml').write_text(
        'classes: [{id: 0, name: way, color: [0, 0, 0], prompts: [road, street]}]')
    assert main(['base', '--classes', str(tmp_path / 'mine.yaml')]) == 0
    path = weights_folder() / 'base' / 'mine.npz'
    assert f'--set model.text.file={path}' in capsys.readouterr().out
    found = load_texts(path, ['way'])
    assert found.embeddings.shape == (1, 32) and text['sha256'] in found.provenance
    one = encode_clip_text(state, open_clip.tokenize(['a photo of a street.']))[0]
    assert torch.cosine_similarity(one, found.embeddings[0], dim=0) > 0.5
    assert abs(float(found.embeddings.norm()) - 1) < 1e-5
    assert main(['base']) == 0  # it is here
    assert len(load_texts(path.with_name('cityscapes.npz')).classes) == 19
    clip = fetched_file('base')
    clip.write_bytes(clip.read_bytes()[:-1] + b'x')
    with pytest.raises(ValueError, match='is not the published RN50.pt'):
        main(['base'])


def test_published_files_become_a_model_that_runs(server, tmp_path, monkeypatch):
    """The whole way with small weights: two .pth files, checkpoint, .onnx, Predictor by name."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxscript')
    from test_import_weights import facebook
    from test_lora import soma_file

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name, state in (('base', facebook()), ('soma', {'state_dict': soma_file()})):
        torch.save(state, tmp_path / 'x.pth')
        server.files[f'/{name}.pth'] = (tmp_path / 'x.pth').read_bytes()
    base = Entry(**BASE, url=f'{server.url}/base.pth')
    model = Entry(**MODEL, url=f'{server.url}/soma.pth')
    plan = fetching.Plan(entry=model, parts=(base, model))
    path = fetching.fetch(plan)
    said = onnx_metadata(path)
    assert (said.name, said.method, said.input_size) == ('tiny-soma', 'mask2former', (64, 64))
    assert hashlib.sha256(server.files['/soma.pth']).hexdigest() in said.source
    predict = Predictor.load('tiny-soma')
    labels = predict(np.zeros((48, 80, 3), np.uint8)).labels
    assert labels.shape == (48, 80) and labels.max() < 5
    assert sorted(os.listdir(path.parent)) == [
        'record.json', 'soma.pth', 'tiny-soma.onnx', 'tiny-soma.safetensors']


def test_an_eomt_of_its_authors_becomes_a_model_that_runs(server, tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxscript')
    pytest.importorskip('transformers')
    from test_eomt import as_its_authors_store_it, untrained

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    torch.save(as_its_authors_store_it(untrained().state_dict()), tmp_path / 'x.bin')
    server.files['/pytorch_model.bin'] = (tmp_path / 'x.bin').read_bytes()
    entry = Entry(name='tiny-eomt', kind='model', method='eomt', backbone='dinov2-reg',
                  trained_on='y', licence='MIT', image_size=1024,
                  url=f'{server.url}/pytorch_model.bin')
    path = fetching.fetch(fetching.Plan(entry=entry, parts=(entry,)))
    said = onnx_metadata(path)
    assert (said.name, said.method, said.input_size) == ('tiny-eomt', 'eomt', (96, 96))
    assert Predictor.load('tiny-eomt')(np.zeros((48, 80, 3), np.uint8)).labels.max() < 5
