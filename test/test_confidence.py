# SPDX-License-Identifier: Apache-2.0
"""A fitted temperature is the one that the labels were drawn with, and goes into the file."""

import shutil

from dgtl_core.config import preset
from dgtl_core.data.datasets import LabelledPicture
from dgtl_core.domain import domain_of
from dgtl_core.export.confidence import fit_temperature, untold
from dgtl_core.export.onnx import run_torch
from dgtl_core.folding.fold import fold
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.prediction import Prediction
from dgtl_core.folding.temperature import Temperature
from dgtl_core.model.checkpoint import load_segmenter, save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.predictor import onnx_metadata, Predictor
from dgtl_core.reliability import Reliability
from dgtl_core.strict import override
import numpy as np
import pytest
from small_recipe import MODEL, write_pictures
from small_segmenter import street
import torch
from torch import nn
from training.export import main

SIZE, CLASSES = (64, 64), 4


class Exaggerates(nn.Module):
    """Its logits are those of the colours, times the temperature that would mend them."""

    size = SIZE
    true_temperature = 3.0

    def forward(self, pictures):
        colours = pictures[:, ::2, ::2].float().permute(0, 3, 1, 2) / 255
        masks = torch.cat((colours, 1 - colours.mean(1, keepdim=True)), 1) * 3
        features = torch.ones(len(pictures), 4, 2)
        return Prediction(None, masks * self.true_temperature, features, features)


def drawn(number):
    """A picture whose labels are drawn from the distribution that its colours say."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    network = Exaggerates()
    found = network(torch.from_numpy(image)[None]).masks[0] / network.true_temperature
    shares = found.softmax(0).flatten(1).T.numpy().cumsum(1)
    labels = (rng.random((len(shares), 1)) > shares).sum(1).clip(0, 3).reshape(32, 32)
    return LabelledPicture(image, labels.astype(np.uint8).repeat(2, 0).repeat(2, 1), str(number))


def ece(network, pictures):
    found = Reliability()
    for picture in pictures:
        labels, confidence, _ = network(torch.from_numpy(picture.image)[None])
        found.update(labels[0].numpy(), confidence[0].numpy(), picture.labels)
    return found.ece()


def test_the_temperature_is_the_one_that_mends_the_confidence(monkeypatch):
    monkeypatch.setattr('dgtl_core.export.confidence.COPIES', 0)
    network = LabelNetwork(Exaggerates(), SIZE)
    others = [drawn(number) for number in range(100, 110)]
    before = ece(network, others)
    network.temperature = fit_temperature(network, map(drawn, range(30)))
    with torch.no_grad():
        entropy = torch.stack([network(torch.from_numpy(p.image)[None])[2][:, 0] for p in others])
    assert float(network.temperature.of(entropy).mean()) == pytest.approx(3, rel=0.1)
    after = ece(network, others)
    assert before > 0.2 and after < 0.05


def test_copies_are_seen_too_and_unlabelled_pixels_are_not(monkeypatch):
    seen = []
    monkeypatch.setattr('dgtl_core.export.confidence.corrupt', lambda image, kind, severity, seed:
                        seen.append((kind, severity)) or image)
    network = LabelNetwork(Exaggerates(), SIZE)
    fit_temperature(network, map(drawn, range(9)))
    assert len(seen) == len(set(seen)) == 27, 'nine corruptions, each at all of its severities'
    blank = drawn(0)._replace(labels=np.full(SIZE, 255, np.uint8))
    with pytest.raises(ValueError, match='0 pixels with a label are too few'):
        fit_temperature(network, [blank])


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A file with a temperature and a domain, and the arguments that made it."""
    place = tmp_path_factory.mktemp('export')
    config = override(preset('dgtl-mini'), MODEL)
    torch.manual_seed(0)
    save_checkpoint(place / 'model.safetensors', Segmenter(config).eval(), config)
    write_pictures(place / 'boxes', count=24)
    write_pictures(place / 'few', count=3)
    arguments = [str(place / 'model.safetensors'), '--count', '1',
                 '--pictures', str(place / 'boxes' / 'images')]
    assert main([*arguments, str(place / 'own.onnx'), '--domain', str(place / 'boxes' / 'images'),
                 '--calibrate', 'streetworld:clear,height=32,width=64,count=2']) == 0
    return place, arguments


def test_an_exported_file_applies_its_temperature_and_knows_its_domain(exported):
    place, _ = exported
    said = onnx_metadata(place / 'own.onnx')
    assert said.temperature['data'] == 'streetworld:clear,height=32,width=64,count=2'
    assert sum(drive.pictures for drive in domain_of(said).drives) == 24
    assert len(said.to_json()) < 256 << 10
    segmenter, config = load_segmenter(place / 'model.safetensors')
    network = LabelNetwork(fold(segmenter, config.input_size), config.input_size).eval()
    image = street((32, 64), 5)
    [(labels, plain)] = run_torch(network, [image])
    network.temperature = Temperature(
        said.temperature['certain'], said.temperature['uncertain'])
    [(_, expected)] = run_torch(network, [image])
    found = Predictor.load(place / 'own.onnx', device='cpu')(image)
    np.testing.assert_array_equal(found.labels, labels)
    assert np.abs(found.confidence.astype(int) - expected).max() <= 1
    assert np.abs(found.confidence.astype(int) - plain).max() > 1


@pytest.mark.parametrize(('options', 'message'), [
    (['--calibrate', 'streetworld:fgo'], "no condition 'fgo'"),
    (['--calibrate', 'folder:{place}/boxes'], 'they must be equal'),
    (['--domain', '{place}/none'], "there is no '"),
    (['--domain', '{place}/few/images'], '3 pictures: too few'),
])
def test_what_cannot_be_fitted_on_leaves_no_file(exported, options, message, capsys, monkeypatch):
    place, arguments = exported
    monkeypatch.setattr('training.export.export_onnx', lambda network, path, *_, **__: (
        shutil.copy(place / 'own.onnx', path), None))
    out = place / 'new.onnx'
    given = [option.format(place=place) for option in options]
    assert main([*arguments, str(out), *given]) == 1
    assert message in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(('fitted', 'ends'), [
    (Temperature(0.9, 4.8), []), (Temperature(0.05, 1.4), ['a picture is certain']),
    (Temperature(0.05, 20.0), ['a picture is certain', 'nothing is certain'])])
def test_a_temperature_that_the_pictures_do_not_tell_is_said(fitted, ends):
    said = untold(fitted)
    assert len(said) == len(ends)
    assert all(f'where {end}' in text and '30 or more' in text for end, text in zip(ends, said))
