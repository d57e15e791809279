# SPDX-License-Identifier: Apache-2.0
"""The embedded model's training, for a moment, at a small size."""

import json
import time

from dgtl_core.config import preset
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.text import ClassTexts, save_texts
from dgtl_core.streetworld import StreetWorld
import numpy as np
import torch
from training.drawing import PictureStore
from training.mini import main

SMALL = ('{"input_size": [64, 128], "backbone": {"img_size": [64, 128], "embed_dim": 64, '
         '"num_heads": 2}, "head": {"upscale": [32, 32, 32]}}')


def test_it_learns_until_the_time_is_over_and_leaves_a_checkpoint(tmp_path, capsys):
    names = preset('dgtl-rt-mini').classes.names
    texts = tmp_path / 'texts.npz'
    save_texts(texts, ClassTexts(torch.randn(len(names), 512), names, ''))
    begin = time.monotonic()
    assert main(['--texts', str(texts), '--out', str(tmp_path / 'out'), '--minutes', '1',
                 '--batch', '2', '--keep', '16', '--workers', '1', '--device', 'cpu', '--tests',
                 '1', '--test', 'streetworld:clear,count=2', '--set', SMALL]) == 0
    assert 50 < time.monotonic() - begin
    said = capsys.readouterr().out
    assert 'step 1, 2 crops' in said and "'streetworld:clear,count=2'" in said
    _, config = load_segmenter(tmp_path / 'out' / 'model.safetensors')
    assert config.input_size == (64, 128)
    log = json.loads((tmp_path / 'out' / 'log.json').read_text())
    assert log['steps'] >= 1 and log['pictures'] >= 16


def test_no_texts_are_said_before_anything_is_drawn(tmp_path, capsys):
    assert main(['--texts', str(tmp_path / 'none.npz'), '--out', str(tmp_path)]) == 1
    assert 'there are no class texts at' in capsys.readouterr().err


def test_the_store_keeps_the_latest_and_shows_rare_classes_more_often():
    store = PictureStore((64, 128), 32, 19, torch.device('cpu'), workers=1, chunk=8)
    store.take(at_least=48)
    assert store.drawn >= 48 and store.counts.sum() > 0
    torch.manual_seed(0)
    images, labels = store.sample(64)
    assert images.shape == (64, 3, 64, 128) and labels.shape == (64, 64, 128)
    assert len({x.numpy().tobytes() for x in images}) > 8


def test_variety_changes_the_picture_and_not_what_it_was_without_it():
    plain, varied = (StreetWorld(seed=5, size=(64, 128), variety=v) for v in (False, True))
    first = plain.picture(3)
    assert np.array_equal(first.image, StreetWorld(seed=5, size=(64, 128)).picture(3).image)
    other = varied.picture(3)
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(other.image, varied.picture(3).image)
    assert set(np.unique(other.labels)) <= {*range(19), 255}
