# SPDX-License-Identifier: Apache-2.0
"""The embedded model's training, for a moment, at a small size."""

import itertools
import json
from types import SimpleNamespace

from dgtl_core.config import preset
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.model.text import ClassTexts, save_texts
from dgtl_core.streetworld import StreetWorld
import numpy as np
import pytest
import torch
from training.drawing import PictureStore
import training.mini
from training.mini import main

SMALL = ('{"input_size": [64, 128], "backbone": {"img_size": [64, 128], "embed_dim": 64, '
         '"num_heads": 2}, "head": {"upscale": [32, 32, 32]}}')


class DrawnStreets:
    """Stands for the store: two streets that are there at once."""

    counts = torch.ones(19)
    drawn = 2
    closed = []

    def __init__(self, size, *_, **__):
        streets = [StreetWorld(seed=5, size=size).picture(i) for i in range(2)]
        self.images = torch.stack([torch.from_numpy(x.image).permute(2, 0, 1) for x in streets])
        self.labels = torch.stack([torch.from_numpy(x.labels) for x in streets])

    def close(self):
        self.closed.append(self)

    def take(self, at_least=0):
        pass

    def sample(self, batch):
        assert batch == 2
        return self.images, self.labels


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    names = preset('dgtl-rt-mini').classes.names
    texts = tmp_path / 'texts.npz'
    save_texts(texts, ClassTexts(torch.randn(len(names), 512), names, ''))
    monkeypatch.setattr(training.mini, 'PictureStore', DrawnStreets)
    ticks = itertools.count()  # a clock of which each look takes half a second
    monkeypatch.setattr(
        training.mini, 'time', SimpleNamespace(monotonic=lambda: next(ticks) / 2))
    return ['--texts', str(texts), '--out', str(tmp_path / 'out'), '--batch', '2', '--workers',
            '0', '--device', 'cpu', '--tests', '1', '--set', SMALL]


def test_it_learns_until_the_time_is_over_and_leaves_a_checkpoint(arguments, tmp_path, capsys):
    assert main([*arguments, '--minutes', '0.2', '--test', 'streetworld:clear,count=2']) == 0
    said = capsys.readouterr().out
    assert 'step 1, 2 crops' in said and "'streetworld:clear,count=2'" in said
    _, config = load_segmenter(tmp_path / 'out' / 'model.safetensors')
    assert config.input_size == (64, 128)
    log = json.loads((tmp_path / 'out' / 'log.json').read_text())
    assert 15 < log['steps'] < 24 and log['pictures'] == 2
    assert DrawnStreets.closed


def test_where_drawing_takes_all_of_the_time_nothing_is_called_learned(
        arguments, tmp_path, capsys):
    assert main([*arguments, '--minutes', '0.005']) == 1
    assert 'nothing is learned: give more --minutes' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'model.safetensors').exists()


def test_changes_that_are_no_json_are_said(arguments, capsys):
    assert main([*arguments, '--set', '{x']) == 1
    assert 'mini: --set must be JSON, such as' in capsys.readouterr().err


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
    store.close()
    assert not store._fetcher.is_alive()


def test_variety_changes_the_picture_and_not_what_it_was_without_it():
    plain, varied = (StreetWorld(seed=5, size=(64, 128), variety=v) for v in (False, True))
    first = plain.picture(3)
    assert np.array_equal(first.image, StreetWorld(seed=5, size=(64, 128)).picture(3).image)
    other = varied.picture(3)
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(other.image, varied.picture(3).image)
    assert set(np.unique(other.labels)) <= {*range(19), 255}
