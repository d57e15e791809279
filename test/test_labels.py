# SPDX-License-Identifier: Apache-2.0
import math

from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.prediction import Prediction
from dgtl_core.folding.signature import ENTROPY, signature
from dgtl_core.folding.temperature import Temperature
import pytest
import torch
from torch import nn
import torch.nn.functional as F

SIZE, CLASSES = (32, 48), 5


class Found(nn.Module):
    """A network whose predictions are made of the picture's first pixel and a seed."""

    size = SIZE

    def __init__(self, with_classes, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        queries = 7 if with_classes else CLASSES
        # Smooth on the mask grid, as masks are.
        masks = F.interpolate(
            torch.randn(1, queries, 4, 6, generator=random) * 4, size=(8, 12), mode='bilinear')
        self.masks = masks
        self.classes = (torch.randn(1, queries, CLASSES + 1, generator=random) * 2
                        if with_classes else None)
        self.middle = torch.randn(1, 24, 6, generator=random)
        self.last = torch.randn(1, 24, 6, generator=random)

    def forward(self, pictures):
        shift = pictures[:, :1, :1, :1].float() / 255
        batch = len(pictures)
        return Prediction(
            None if self.classes is None else self.classes.expand(batch, -1, -1),
            self.masks * (1 + shift), self.middle + shift[..., 0], self.last - shift[..., 0])


def pictures(*values):
    return torch.stack([torch.full((*SIZE, 3), value, dtype=torch.uint8) for value in values])


def test_logits_of_classes_give_the_labels_of_a_softmax_at_full_size():
    for seed in range(5):
        network = Found(False, seed)
        labels, confidence, _ = LabelNetwork(network, SIZE)(pictures(0, 255))
        full = F.interpolate(
            network(pictures(0, 255)).masks, size=SIZE, mode='bilinear').softmax(dim=1)
        best, expected = full.max(dim=1)
        assert torch.equal(labels, expected.to(torch.uint8))
        off = (best * 255 - confidence).abs().mean()
        assert off < 12, 'a picture that is all borders; inside of objects there is no difference'


def test_the_graph_of_class_logits_has_no_softmax_at_full_size():
    network = LabelNetwork(Found(False), SIZE)
    program = torch.export.export(network, (pictures(0),))
    large = {str(node.target) for node in program.graph.nodes
             if node.op == 'call_function' and 'val' in node.meta
             and getattr(node.meta['val'], 'shape', ())[1:] == (CLASSES, *SIZE)}
    assert large and not [name for name in large if 'softmax' in name or 'exp' in name]


@pytest.mark.parametrize('with_classes', [True, False])
def test_signature_holds_what_it_says(with_classes):
    network = Found(with_classes)
    network.masks.fill_(-20)
    network.masks[:, 2] = 20  # everywhere the third mask
    if with_classes:
        network.classes = torch.full((1, 7, CLASSES + 1), -9.0)
        network.classes[:, :, 3] = 9
    found = signature(network(pictures(0)))
    assert found.shape == (1, 2 + CLASSES + 6 + 6) and found.dtype == torch.float32
    entropy, largest, *shares = found[0, :2 + CLASSES].tolist()
    assert entropy == pytest.approx(0, abs=1e-3) and largest == pytest.approx(1, abs=1e-3)
    assert shares.index(max(shares)) == (3 if with_classes else 2)
    middle = found[0, -12:-6]
    torch.testing.assert_close(middle, F.normalize(network.middle[0].mean(0), dim=0))
    network.masks.fill_(0)
    if with_classes:
        network.classes.fill_(0)
    entropy, largest = signature(network(pictures(0)))[0, :2].tolist()
    assert entropy == pytest.approx(1, abs=1e-3) and largest == pytest.approx(1 / CLASSES)
    assert math.isclose(float(found[0, -6:].norm()), 1, rel_tol=1e-5)


def test_signature_of_windows_is_their_mean_and_pictures_keep_theirs():
    network = Found(True)
    wide = torch.cat((pictures(10, 90), pictures(200, 250)), dim=2)
    whole = LabelNetwork(network, (SIZE[0], 2 * SIZE[1]), stride=SIZE)
    _, _, both = whole(wide)
    for row, (left, right) in enumerate(((10, 200), (90, 250))):
        expected = signature(network(pictures(left, right))).mean(dim=0)
        torch.testing.assert_close(both[row], expected)


@pytest.mark.parametrize('with_classes', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_temperature_changes_the_confidence_alone_and_as_its_formula_says(with_classes, seed):
    network = LabelNetwork(Found(with_classes, seed), SIZE)
    shown = pictures(0, 255)
    labels, plain, seen = network(shown)
    scores = network.scores(shown)
    network.temperature = Temperature(1.0, 4.0)
    after, confidence, same = network(shown)
    assert torch.equal(labels, after) and torch.equal(seen, same)
    logits = scores.clamp_min(1e-12).log() if with_classes else scores
    temperature = 1 + 3 * seen[:, ENTROPY]
    assert 1.2 < float(temperature.min()) and float(temperature.max()) < 4
    expected = (logits / temperature[:, None, None, None]).softmax(dim=1).amax(dim=1)
    # inside of regions; on borders the coarse grid differs
    off = (expected * 255 - confidence).abs()
    assert off.median() < 4 and off.mean() < 10
    assert confidence.float().mean() < plain.float().mean() - 10


@pytest.mark.parametrize('with_classes', [True, False])
def test_temperature_of_one_is_none(with_classes):
    network = LabelNetwork(Found(with_classes), SIZE)
    _, plain, _ = network(pictures(0))
    network.temperature = Temperature(1.0, 1.0)
    _, confidence, _ = network(pictures(0))
    assert (plain.int() - confidence.int()).abs().float().median() <= 3


def test_windows_have_temperatures_of_their_own():
    wide = torch.cat((pictures(10), pictures(250)), dim=2)
    whole = LabelNetwork(Found(False), (SIZE[0], 2 * SIZE[1]), stride=SIZE)
    alone = LabelNetwork(Found(False), SIZE)
    whole.temperature = alone.temperature = Temperature(0.5, 5.0)
    _, confidence, _ = whole(wide)
    for part, picture in zip(confidence.split(SIZE[1], dim=2), (pictures(10), pictures(250))):
        assert torch.equal(part, alone(picture)[1])


def test_the_graph_with_a_temperature_has_no_exponential_at_full_size():
    for with_classes in (True, False):
        network = LabelNetwork(Found(with_classes), SIZE)
        network.temperature = Temperature(1.0, 4.0)
        program = torch.export.export(network, (pictures(0),))
        large = {str(node.target) for node in program.graph.nodes
                 if node.op == 'call_function' and 'val' in node.meta
                 and getattr(node.meta['val'], 'shape', ())[1:] in (
                     (CLASSES, *SIZE), (CLASSES + 1, *SIZE))}
        assert large and not [n for n in large if any(w in n for w in ('softmax', 'exp.', 'log'))]
