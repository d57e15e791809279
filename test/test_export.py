# SPDX-License-Identifier: Apache-2.0
"""training.export on 50 real pictures: where the numbers of docs/deploy.md come from."""

import os
from pathlib import Path

from dgtl_core.data.catalog import open_pictures
from dgtl_core.export.onnx import agreement, export_onnx, run_file, run_torch
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model_file import ModelMetadata
from dgtl_core.predictor import default_model
from dgtl_core.processing import place, to_input
import numpy as np
import pytest
from small_segmenter import small_config, small_segmenter
from training.comparison import as_trained

pytestmark = [pytest.mark.parity, pytest.mark.timeout(1800)]


@pytest.fixture(scope='module')
def camvid(shared):
    data = open_pictures(f'camvid:{shared / "data/camvid_day"},split=test')
    return [data[i * len(data) // 50] for i in range(50)]


def sized(pictures, size):
    return [np.ascontiguousarray(to_input(p.image, place(p.labels.shape, size, 'stretch')))
            for p in pictures]


@pytest.mark.parametrize('name', ['dgtl-dinov2-l', 'rein-dinov2-l', 'vltseg-eva02-l'])
def test_onnx_runtime_labels_as_torch_does(name, camvid, tmp_path):
    config = small_config(name)
    pictures = sized(camvid, config.input_size)
    network = LabelNetwork(
        fold(small_segmenter(config, pictures[0]), config.input_size), config.input_size).eval()
    metadata = ModelMetadata(
        name=name, classes=config.classes, input_size=config.input_size, method=config.method,
        backbone=config.backbone.name)
    same, _ = export_onnx(
        network, tmp_path / 'm.onnx', metadata, pictures, min_agreement=0)
    print(f'\n{name}: {same}')
    assert same.labels >= 0.999 and same.pictures == 50
    assert len(np.unique(run_torch(network, pictures[:1])[0][0])) >= 3


def test_the_embedded_model_labels_as_its_checkpoint_does(camvid):
    """$DGTL_MINI_CHECKPOINT: the result of `make train-mini` that was exported."""
    if 'DGTL_MINI_CHECKPOINT' not in os.environ:
        pytest.skip('DGTL_MINI_CHECKPOINT is not set')
    segmenter, config = load_segmenter(Path(os.environ['DGTL_MINI_CHECKPOINT']))
    size, truths = config.input_size, [picture.labels for picture in camvid]
    pictures = sized(camvid, size)
    network = LabelNetwork(fold(segmenter, size), size).eval()
    trained = as_trained(segmenter, network, size, pictures)
    folded = agreement(run_torch(network, pictures), trained, len(config.classes), truths)
    shipped = agreement(run_file(default_model(), pictures), trained, len(config.classes), truths)
    print(f'\nfolded: {folded}\nembedded: {shipped}')
    assert folded.labels >= 0.9999 and shipped.labels >= 0.999
