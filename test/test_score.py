# SPDX-License-Identifier: Apache-2.0
"""Scores: known labels give known numbers."""

from dgtl_core.classes import CITYSCAPES
from dgtl_core.data.datasets import LabelledPicture, NO_SIZES
from dgtl_core.evaluation.score import score
from dgtl_core.learning.processes import Processes
from dgtl_core.predictor import Segmentation
import numpy as np
import pytest
from small_recipe import write_pictures
from untrained_model import evaluate, save_untrained


class Drawn:
    """Four pictures whose labels are a number each; the picture says which."""

    name = 'drawn'
    classes = CITYSCAPES
    protocol_sizes = NO_SIZES

    def __len__(self):
        return 4

    def __getitem__(self, index):
        labels = np.full((10, 20), index, np.uint8)
        labels[:, :5] = 255
        image = np.full((10, 20, 3), index, np.uint8)
        return LabelledPicture(image, labels, f'drawn/{index}')


def read_off(image, sizes):
    return Segmentation(image[..., 0].copy(), np.full(image.shape[:2], 200, np.uint8))


def test_right_labels_score_one_and_unlabelled_pixels_do_not_count():
    found = score(read_off, Drawn())
    assert found.matrix.mean_iou() == 1 and found.pictures == 4
    assert found.matrix.counts.sum() == 4 * 150


def test_one_wrong_picture_of_four_is_the_worst_and_costs_what_it_should():
    def mistaken(image, sizes):
        found = read_off(image, sizes)
        return found._replace(labels=np.zeros_like(found.labels)) if found.labels[0, 0] == 2 \
            else found
    found = score(mistaken, Drawn(), keep_worst=2)
    entry = found.summary('drawn')
    # class 0: half of what is called 0 is 2; class 2 is never found
    assert entry['iou'][:4] == [0.5, 1.0, 0.0, 1.0] and entry['iou'][4] is None
    assert entry['miou'] == pytest.approx(2.5 / 4) and entry['accuracy'] == 0.75
    assert [picture.name for _, picture, _ in found.worst][0] == 'drawn/2'
    assert len(found.worst) == 2 and found.worst[0][0] == 0
    # every pixel says 200 of 255, and three of four are right
    sure = entry['confidence']
    assert sure['ece'] == pytest.approx(200 / 255 - 0.75) and sure['auroc'] == 0.5
    assert sure['bins'][11] == {
        'confidence': pytest.approx(200 / 255), 'right': 0.75, 'pixels': 600}
    assert sure['risk_coverage'] == [[1.0, 0.25]]


def test_picture_without_a_truth_is_not_among_the_worst():
    class Blank(Drawn):
        def __getitem__(self, index):
            picture = super().__getitem__(index)
            return picture._replace(labels=np.full_like(picture.labels, 255)) if index < 2 \
                else picture
    found = score(read_off, Blank(), keep_worst=3)
    assert [(miou, picture.name) for miou, picture, _ in found.worst] == [
        (1.0, 'drawn/2'), (1.0, 'drawn/3')]


def test_shares_of_the_pictures_add_up():
    class Alone(Processes):
        def add_up(self, values):
            pass

        def collect(self, value):
            return [value]

    parts = [score(read_off, Drawn(), 3, processes=Alone(rank, 2)) for rank in (0, 1)]
    assert [part.pictures for part in parts] == [2, 1]
    whole = score(read_off, Drawn(), 3)
    assert np.array_equal(sum(part.matrix.counts for part in parts), whole.matrix.counts)
    assert np.array_equal(
        sum(part.reliability.counts for part in parts), whole.reliability.counts)


def test_changed_pictures_keep_their_truth():
    found = score(read_off, Drawn(), change=lambda picture, index: np.zeros_like(picture.image))
    assert found.summary('drawn')['iou'][:4] == [0.25, 0.0, 0.0, 0.0]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory)


def test_report_shows_a_name_that_looks_like_a_formula(checkpoint):
    folder, _ = checkpoint
    write_pictures(folder / 'a$b_{$x', count=1, size=(48, 96))
    page = folder / 'formula.html'
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/a$b_{{$x', '--device', 'cpu',
                    '--corrupt', 'fog', '--severity', '1', '--report', page) == 0
    assert 'a$b_{$x' in page.read_text()


def test_own_folder_called_like_a_public_set_keeps_its_size(tmp_path):
    from dgtl_core.data.catalog import open_pictures
    write_pictures(tmp_path / 'muses', count=1, size=(1080, 1920))
    pictures = open_pictures(f'folder:{tmp_path}/muses')
    assert pictures.name == 'muses' and not pictures.protocol_sizes
