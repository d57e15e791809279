# SPDX-License-Identifier: Apache-2.0
"""Calibration and detection figures: known by hand, and equal to what every pixel alone gives."""

from dgtl_core.reliability import Reliability
import numpy as np
import pytest


def counted(confidence, right):
    found = Reliability()
    found.update(np.where(right, 1, 0), np.array(confidence, np.uint8), np.ones(len(right), int))
    return found


# four pixels: sure and right, sure and wrong, half sure and right, unsure and wrong
FOUR = counted([255, 204, 102, 51], [True, False, True, False])


def test_four_pixels_by_hand():
    # confidences 1, .8, .4, .2 each in a bin of its own
    assert FOUR.ece() == pytest.approx((0 + 0.8 + 0.6 + 0.2) / 4)
    # of four pairs of a right and a wrong pixel one is in the wrong order
    assert FOUR.auroc() == pytest.approx(3 / 4)
    # the three surest hold all right pixels, and one of two wrong ones
    assert FOUR.fpr95() == pytest.approx(1 / 2)
    assert FOUR.aupr_success() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert FOUR.aupr_error() == pytest.approx((1 / 1 + 2 / 3) / 2)
    coverage, risk = FOUR.risk_coverage()
    np.testing.assert_allclose(coverage, [1 / 4, 2 / 4, 3 / 4, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])


def test_bins_are_as_wide_and_hold_their_ends():
    confidence, right, pixels = counted([0, 16, 17, 254, 255], [False] * 3 + [True] * 2).bins()
    assert pixels.tolist() == [2, 1, *[0] * 12, 2]
    np.testing.assert_allclose(confidence[[0, 1, 14]], [8 / 255, 17 / 255, 254.5 / 255])
    assert right[0] == 0 and np.isnan(right[5]) and right[14] == 1


def test_a_calibrated_pixel_is_right_as_often_as_it_says():
    found = counted([204] * 10, [True] * 8 + [False] * 2)
    assert found.ece() == pytest.approx(0, abs=1e-12)
    assert found.auroc() == 0.5 and found.fpr95() == 1
    assert found.aupr_success() == pytest.approx(0.8)
    assert found.aurc() == pytest.approx(0.2)


@pytest.mark.parametrize('seed', range(4))
def test_figures_are_those_of_every_pixel_alone(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 256, 300) // (1 + 30 * (seed % 2))  # many equal, or few
    right = rng.random(300) < confidence / 300
    found = counted(confidence, right)
    yes, no = confidence[right], confidence[~right]
    pairs = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
    assert found.auroc() == pytest.approx(pairs)
    levels = [level for level in range(256) if (yes >= level).mean() >= 0.95]
    assert found.fpr95() == pytest.approx((no >= max(levels)).mean())
    assert found.aupr_success() == pytest.approx(np.mean([
        right[confidence >= level].mean() for level in yes]))
    assert found.aupr_error() == pytest.approx(np.mean([
        1 - right[confidence <= level].mean() for level in no]))
    place = np.minimum(confidence / 255 * 15 + 1e-9, 14).astype(int)
    assert found.ece() == pytest.approx(sum(
        abs((confidence[place == b] / 255 - right[place == b]).sum()) for b in set(place)) / 300)
    # of equals any order is possible: the mean over many, of pixels that are many
    risks = []
    for _ in range(200):
        order = np.lexsort((rng.random(300), -confidence))
        risks.append((np.cumsum(~right[order]) / np.arange(1, 301)).mean())
    assert found.aurc() == pytest.approx(np.mean(risks), abs=0.01)


def test_pictures_add_up_and_unknown_pixels_do_not_count():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 3, (2, 4, 8, 8)).astype(np.uint8)
    confidence = rng.integers(0, 256, (4, 8, 8)).astype(np.uint8)
    truth[0], labels[1] = 255, 255
    one, many = Reliability(), Reliability()
    one.update(labels, confidence, truth)
    for picture in zip(labels, confidence, truth):
        many.update(*picture)
    np.testing.assert_array_equal(one.counts, many.counts)
    assert one.counts.sum() == 3 * 64 and one.counts[:, 1].sum() == (labels == truth)[2:].sum()


def test_what_is_not_defined_is_nan():
    nothing, right = Reliability(), counted([200], [True])
    figures = (Reliability.ece, Reliability.auroc, Reliability.fpr95, Reliability.aupr_success,
               Reliability.aupr_error, Reliability.aurc)
    assert all(np.isnan(figure(nothing)) for figure in figures)
    assert np.isnan(right.auroc()) and np.isnan(right.fpr95()) and np.isnan(right.aupr_error())
    assert right.aupr_success() == 1 and right.aurc() == 0
    assert len(nothing.risk_coverage()[0]) == 0


def test_bad_input_is_refused():
    ids = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match='must have one shape'):
        Reliability().update(ids, ids[:2], ids)
    with pytest.raises(ValueError, match='float64 and truth'):
        Reliability().update(ids, np.zeros(3), ids)
