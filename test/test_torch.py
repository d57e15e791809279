# SPDX-License-Identifier: Apache-2.0
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.predictor import ModelError, Predictor
from dgtl_core.runtime import torch as backend
from dgtl_core.runtime.backend import open_backend
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.torch import TorchBackend
import numpy as np
import pytest
from small_segmenter import normalised, small_config, small_segmenter, street
import torch


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    config = small_config('dgtl-dinov2-s')
    picture = street(config.input_size)
    model = small_segmenter(config, picture)
    path = tmp_path_factory.mktemp('model') / 'model.safetensors'
    save_checkpoint(path, model, config, source='test')
    return path, model, picture


def test_labels_are_those_of_the_segmenter(checkpoint):
    path, model, picture = checkpoint
    predict = Predictor.load(path, device='cpu')
    assert predict.backend_name == 'torch (fp32, cpu)'
    fixed = Predictor.load(path, device='cpu', precision='fp32')
    assert fixed.backend_name == predict.backend_name
    assert predict.input_size == model.config.input_size
    assert predict.classes.entries == model.config.classes.entries
    labels, confidence = predict(picture)
    with torch.no_grad():
        scores = model.scores(normalised(picture, model.config))[0]
    assert len(np.unique(labels)) >= 3
    assert (labels == scores.argmax(0).numpy()).mean() > 0.999
    expected = (scores.max(0).values / scores.sum(0) * 255).numpy()
    assert np.abs(confidence - expected).mean() < 1


def test_a_batch_equals_its_pictures(checkpoint):
    path, _, picture = checkpoint
    run = TorchBackend(path, RunOptions(device='cpu'))
    labels, *_ = run(np.stack([picture, picture[:, ::-1]]))
    assert (labels[0] == run(picture[None])[0][0]).mean() > 0.999
    assert (labels[1] != labels[0]).any()


def test_bfloat16_is_offered_where_the_cpu_has_it(checkpoint, monkeypatch):
    path, _, picture = checkpoint
    monkeypatch.setattr(backend, 'cpu_has_bfloat16', lambda: False)
    with pytest.raises(ModelError, match='neither AMX nor AVX512-BF16'):
        TorchBackend(path, RunOptions(device='cpu', precision='bf16'))
    monkeypatch.setattr(backend, 'cpu_has_bfloat16', lambda: True)
    run = open_backend(path, RunOptions(device='cpu', precision='bf16'))
    assert run.name == 'torch (bf16, cpu)'
    labels = run(picture[None]).labels
    assert labels.shape == (1, *picture.shape[:2]) and labels.dtype == np.uint8
    exact = TorchBackend(path, RunOptions(device='cpu'))(picture[None]).labels
    assert (labels == exact).mean() > 0.4  # random weights; a trained model is held to 0.99


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_missing_gpu_is_said(checkpoint):
    with pytest.raises(ModelError, match='PyTorch sees 0 CUDA devices.*"cpu"'):
        TorchBackend(checkpoint[0], RunOptions(device='cuda'))


def test_unknown_precision(checkpoint):
    with pytest.raises(ModelError, match="'fp32', 'fp16', 'bf16'.*'int8'"):
        TorchBackend(checkpoint[0], RunOptions(device='cpu', precision='int8'))


def test_float16_is_for_gpus(checkpoint):
    with pytest.raises(ModelError, match='float16 is slower than float32 on a CPU; use .*"fp32"'):
        Predictor.load(checkpoint[0], device='cpu', precision='fp16')


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_labels_as_eager_does(checkpoint):
    path, _, picture = checkpoint
    predict = Predictor.load(path, device='cpu', compiled=True)
    assert predict.backend_name == 'torch (compiled fp32, cpu)'
    expected = Predictor.load(path, device='cpu')(picture)
    labels, confidence = predict(picture)
    assert (labels == expected.labels).mean() > 0.999
    assert np.abs(confidence.astype(int) - expected.confidence).mean() < 0.5
