# SPDX-License-Identifier: Apache-2.0
"""Every way in which a picture becomes labels: whole, in windows, by a network or a file."""

from dgtl_core.data import catalog
from dgtl_core.data.datasets import NO_SIZES
from dgtl_core.evaluation.protocols import fitted, labeler_of_file, labeler_of_model
from dgtl_core.predictor import Segmentation
import numpy as np
import pytest
import torch
from untrained_model import save_untrained

SIZES = {'cityscapes': catalog._CITY, 'mapillary-rein': catalog._CITY, 'bdd100k': catalog._BDD,
         'acdc-fog': catalog._FULL_HD, 'dark-zurich': catalog._FULL_HD}


@pytest.mark.parametrize(('name', 'protocol', 'size', 'expected'), [
    ('cityscapes', 'low', (1024, 2048), (512, 1024)),
    ('cityscapes', 'high', (1024, 2048), (1024, 2048)),
    ('mapillary-rein', 'low', (1200, 1600), (512, 683)),
    ('bdd100k', 'low', (720, 1280), (720, 1280)),
    ('bdd100k', 'vltseg', (720, 1280), (512, 910)),
    ('acdc-fog', 'high', (1080, 1920), (540, 960)),
    ('acdc-fog', 'vltseg', (1080, 1920), (540, 960)),
    ('dark-zurich', 'low', (1080, 1920), (540, 960)),
    ('cityscapes', 'slide', (1024, 2048), (1024, 2048)),
    # smaller than a window of 512: enlarged until it covers one, whatever the protocol
    ('camvid', 'low', (360, 480), (512, 683)),
    ('own', 'slide', (1000, 375), (1365, 512)),
    ('own', 'slide', (512, 600), (512, 600)),
])
def test_protocols_fit_pictures_into_their_sizes(name, protocol, size, expected):
    image = np.zeros((*size, 3), np.uint8)
    assert fitted(image, SIZES.get(name, NO_SIZES), protocol, (512, 512)).shape[:2] == expected


@pytest.mark.parametrize(('name', 'size', 'expected'), [
    ('cityscapes', (1024, 2048), (1024, 2048)), ('bdd100k', (720, 1280), (1024, 1820)),
    ('acdc-fog', (1080, 1920), (1080, 1920))])
def test_vltseg_of_1024_pixels_sees_twice_the_sizes(name, size, expected):
    image = np.zeros((*size, 3), np.uint8)
    assert fitted(image, SIZES[name], 'vltseg', (1024, 1024)).shape[:2] == expected


class WindowPredictor:
    """Labels a window with its first value; the right half of a window is less sure."""

    input_size = (6, 6)

    def many(self, images):
        assert all(image.shape == (6, 6, 3) for image in images)
        return [Segmentation(image[..., 0].copy(), np.repeat(
            np.array([[200, 200, 200, 100, 100, 100]], np.uint8), 6, 0)) for image in images]


def test_windows_of_a_model_file_cover_the_picture():
    image = np.arange(11 * 17, dtype=np.uint8).reshape(11, 17, 1).repeat(3, 2)
    labels = labeler_of_file(WindowPredictor(), 'slide')(image, NO_SIZES).labels
    assert np.array_equal(labels, image[..., 0])


@pytest.mark.parametrize(('sure_side', 'expected'), [
    (1, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), (-1, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1])])
def test_more_confident_window_wins_where_two_overlap(sure_side, expected):
    class Counting(WindowPredictor):
        def many(self, images):
            return [Segmentation(np.full((6, 6), i, np.uint8), part.confidence[:, ::sure_side])
                    for i, part in enumerate(super().many(images))]
    labels = labeler_of_file(Counting(), 'slide')(np.zeros((6, 10, 3), np.uint8), NO_SIZES).labels
    # windows at 0..5 and 4..9: in columns 4 and 5 one of them is sure, the other is not
    assert labels[0].tolist() == expected


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory)


def test_model_labels_whole_pictures_and_windows(checkpoint):
    _, model = checkpoint
    device = torch.device('cpu')
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3)).astype(np.uint8)
    whole = labeler_of_model(model, device, torch.float32, 'whole')(image, NO_SIZES).labels
    slid = labeler_of_model(model, device, torch.float32, 'slide')(image, NO_SIZES).labels
    assert whole.shape == slid.shape == (48, 96) and max(whole.max(), slid.max()) < 4
    # a picture smaller than the window, and no whole number of patches, is enlarged
    for protocol in ('whole', 'slide'):
        label = labeler_of_model(model, device, torch.float32, protocol)
        assert label(image[:29, :90], NO_SIZES).labels.shape == (29, 90)
    # at the model's own size there is one window, and nothing is resized
    small = image[:32, :64]
    both = [labeler_of_model(model, device, torch.float32, protocol)(small, NO_SIZES).labels
            for protocol in ('whole', 'slide')]
    assert np.array_equal(*both)


class Drawing:
    """In the place of a network: keeps what it is shown and gives scores drawn once."""

    def __init__(self, config):
        self.config, self.seen = config, []

    def scores(self, images):
        self.seen.append(images)
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 4, *images.shape[-2:], generator=generator)


def test_network_is_shown_normalised_rgb(checkpoint):
    _, model = checkpoint
    drawing = Drawing(model.config)
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    for protocol in ('whole', 'slide'):
        labeler_of_model(drawing, torch.device('cpu'), torch.float32, protocol)(image, NO_SIZES)
        expected = (image - np.array(model.config.mean)) / np.array(model.config.std)
        np.testing.assert_allclose(
            drawing.seen.pop()[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_scores_and_not_labels_are_brought_back_to_the_pictures_size(checkpoint):
    _, model = checkpoint
    drawing = Drawing(model.config)
    label = labeler_of_model(drawing, torch.device('cpu'), torch.float32, 'slide')
    # enlarged to one window of 32 x 64
    found = label(np.zeros((16, 32, 3), np.uint8), NO_SIZES).labels
    scores = drawing.scores(torch.zeros(1, 3, 32, 64))
    expected = torch.nn.functional.interpolate(scores, (16, 32), mode='bilinear').argmax(1)[0]
    assert np.array_equal(found, expected.numpy())
