# SPDX-License-Identifier: Apache-2.0
from dgtl_core.metrics import ConfusionMatrix
import numpy as np
import pytest


def test_iou_by_hand():
    matrix = ConfusionMatrix(4)
    truth = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    labels = np.array([[0, 0, 1, 1, 255, 2]], np.uint8)
    matrix.update(labels, truth)
    # class 0: 2 hits, 1 miss; class 1: 1 hit, 1 false, 1 unlabelled; 2 and 3 never occur
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 1 / 3, np.nan, np.nan])
    assert matrix.mean_iou() == pytest.approx(0.5)
    assert matrix.accuracy() == pytest.approx(3 / 5)


def test_pictures_add_up():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 5, (2, 8, 16, 16)).astype(np.uint8)
    one, many = ConfusionMatrix(5), ConfusionMatrix(5)
    one.update(labels, truth)
    for a, b in zip(labels, truth):
        many.update(a, b)
    np.testing.assert_array_equal(one.counts, many.counts)
    assert one.counts.sum() == truth.size


def test_perfect_and_empty():
    matrix = ConfusionMatrix(3)
    assert np.isnan(matrix.mean_iou()) and np.isnan(matrix.accuracy())
    truth = np.array([0, 1, 2, 255], np.uint8)
    matrix.update(truth, truth)
    assert matrix.mean_iou() == 1


@pytest.mark.parametrize('labels, truth, message', [
    ([0, 1], [0], 'same shape'), ([3], [0], 'labels holds id 3'), ([0], [7], 'truth holds id 7')])
def test_bad_input_is_refused(labels, truth, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(np.array(labels, np.uint8), np.array(truth, np.uint8))


def test_as_many_classes_as_a_class_file_can_have_are_counted():
    matrix = ConfusionMatrix(255)
    truth = np.arange(256).astype(np.uint8)
    labels = truth.copy()
    labels[7] = 255
    matrix.update(labels, truth)
    assert matrix.counts.sum() == 255 and matrix.counts[7, 255] == 1
    assert matrix.mean_iou() == pytest.approx(254 / 255)
    for count in (0, 256):
        with pytest.raises(ValueError, match=r'num_classes must be in 1..255'):
            ConfusionMatrix(count)
