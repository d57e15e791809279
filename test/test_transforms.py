# SPDX-License-Identifier: Apache-2.0
"""What augmentation may change and what it must keep."""

from dgtl_core.data.transforms import another_camera, photometric, transform, TransformConfig
from dgtl_core.processing import GREY
import numpy as np
import pytest
import torch


def sample(height=60, width=100):
    """Return a picture whose red and green say where a pixel was; labels are its column / 10."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 2, columns * 2, np.full_like(rows, 128)], -1).astype(np.uint8)
    return image, (columns // 10).astype(np.uint8)


def config(**changes):
    plain = {'crop': (32, 48), 'scale': (1.0, 1.0), 'flip': False, 'photometric': 0.0}
    return TransformConfig(**{**plain, **changes})


def apply(changes, seed=0, **size):
    return transform(*sample(**size), config(**changes), np.random.default_rng(seed))


@pytest.mark.parametrize('seed', range(5))
def test_picture_and_labels_stay_together(seed):
    image, labels = apply({'flip': True, 'scale': (0.8, 2.0)}, seed)
    assert image.shape == (3, 32, 48) and image.dtype == torch.uint8
    assert labels.shape == (32, 48) and labels.dtype == torch.uint8
    inside = labels != 255
    # green holds twice the column that the label came from, whatever the scale and the flip
    column = image[1].float() / 2
    assert (column[inside] / 10 - labels[inside] - 0.5).abs().max() < 0.75


def test_same_seed_same_sample_and_another_seed_another():
    changes = {'flip': True, 'scale': (0.5, 2.0), 'photometric': 1.0}
    first, again, other = (apply(changes, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_beyond_a_small_picture_nothing_is_learned():
    image, labels = apply({}, height=20, width=30)
    assert (labels[20:] == 255).all() and (labels[:, 30:] == 255).all()
    assert (labels[:20, :30] != 255).all()
    # the mean colour, zero for the network; below and to the right also where all else changes
    for changes in ({}, {'flip': True, 'photometric': 1.0, 'corruption': 1.0}):
        for seed in range(4):
            image, labels = apply(changes, seed, height=20, width=30)
            beyond = labels == 255
            assert beyond[20:].all() and beyond[:, 30:].all() and not beyond[:20, :30].any()
            assert (image[:, beyond] == torch.tensor(GREY).view(3, 1)).all()


def test_shorter_side_gets_one_of_the_lengths_and_the_aspect_ratio_stays():
    seen = {(int((x[:, 0] != 255).sum()), int((x[0] != 255).sum())) for x in (
        apply({'short_edge': (30, 45, 60), 'crop': (200, 300), 'scale': (9.0, 9.0),
               'resize': (5, 5)}, seed)[1] for seed in range(30))}
    assert seen == {(30, 50), (45, 75), (60, 100)}


def test_crop_avoids_a_class_that_fills_more_than_three_quarters():
    labels = np.zeros((64, 512), np.uint8)
    labels[:, ::10] = 1  # nine tenths of class 0 in most places
    labels[:, 384::2] = 1  # and half of it in the last quarter
    image = np.zeros((64, 512, 3), np.uint8)

    def share(limit):
        found = [transform(image, labels, config(crop=(64, 64), max_share=limit),
                           np.random.default_rng(seed))[1] for seed in range(40)]
        return np.mean([(x == 0).float().mean() <= 0.75 for x in found])
    # at random one crop in five; ten draws nearly always find one
    assert share(1.0) < 0.4 and share(0.75) > 0.8


def test_ignored_pixels_do_not_count_as_a_class():
    labels = np.full((40, 200), 255, np.uint8)
    labels[:2] = 3
    _, cropped = transform(np.zeros((40, 200, 3), np.uint8), labels, config(crop=(40, 40)),
                           np.random.default_rng(0))
    assert (cropped[:2] == 3).all()


def test_hue_turns_by_thirty_six_degrees_at_most():
    picture = torch.tensor([120, 60, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    turns = []
    for seed in range(300):
        red, green, blue = photometric(
            picture, 1.0, np.random.default_rng(seed))[:, 0, 0].double().tolist()
        turns.append(np.degrees(np.arctan2(3 ** 0.5 * (green - blue), 2 * red - green - blue)))
    assert max(np.abs(turns)) < 39  # colours are whole numbers
    assert min(turns) < -30 and max(turns) > 30


def test_resize_comes_before_scale():
    image, labels = apply({'resize': (120, 100), 'crop': (120, 100)})
    assert (labels != 255).all()
    assert abs(int(image[0, 119, 0]) - 118) <= 1  # the last of 60 rows


def test_scale_covers_its_range():
    widths = set()
    for seed in range(40):
        _, labels = apply({'scale': (0.5, 1.0), 'crop': (60, 100)}, seed)
        widths.add(int((labels[0] != 255).sum()))
    assert min(widths) < 60 and max(widths) > 90


def test_another_camera_changes_light_and_never_the_labels():
    image, _ = sample(64, 96)
    for seed in range(3):
        (plain, truth), (seen, same) = apply({}, seed), apply({'camera': 1.0}, seed)
        assert seen.shape == plain.shape and torch.equal(same, truth)
    found = np.stack([another_camera(image, np.random.default_rng(s)) for s in range(200)])
    assert found.dtype == np.uint8 and found.shape[1:] == image.shape
    means = found.mean((1, 2, 3)) / image.mean()
    assert means.min() < 0.4 and means.max() > 1.25, 'little light, and too much'
    spreads = found.std((1, 2)).mean(1) / image.std((0, 1)).mean()
    assert spreads.min() < 0.3, 'a veil'
    left, right = (half.mean((1, 2, 3)) / plain.mean() for plain, half in (
        (image[:, :48], found[:, :, :48]), (image[:, 48:], found[:, :, 48:])))
    assert np.ptp(np.log(left / right)) > 0.5, 'uneven light'
    unchanged = (found == image).all((1, 2, 3)).mean()
    assert 0 < unchanged < 0.2, 'each change has probability one half'


def test_photometric_keeps_the_shape_and_stays_near():
    picture = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    picture = picture.to(torch.uint8)
    found = [photometric(picture, 1.0, np.random.default_rng(seed)) for seed in range(30)]
    assert all(x.dtype == torch.uint8 and x.shape == picture.shape for x in found)
    assert len({int(x.sum()) for x in found}) > 20
    means = torch.stack([x.float().mean() for x in found])
    assert (means - picture.float().mean()).abs().max() < 100
    weak = torch.stack([photometric(picture, 0.1, np.random.default_rng(seed)).float().mean()
                        for seed in range(30)])
    assert weak.std() < 0.3 * means.std()


def test_corruption_changes_pixels_and_no_label():
    plain = [apply({}, seed) for seed in range(6)]
    changed = [apply({'corruption': 1.0}, seed) for seed in range(6)]
    again = [apply({'corruption': 1.0}, seed) for seed in range(6)]
    for (image, labels), (other, same), (repeated, _) in zip(plain, changed, again, strict=True):
        assert torch.equal(labels, same) and torch.equal(other, repeated)
        assert other.shape == image.shape
    # a weak one may do nothing to a picture as smooth as this
    assert sum(not torch.equal(a[0], b[0]) for a, b in zip(plain, changed, strict=True)) >= 4
    with pytest.raises(ValueError, match='a chance in 0..1'):
        TransformConfig(corruption=2.0)


@pytest.mark.parametrize(('wrong', 'message'), [
    ({'crop': (0, 5)}, 'must be positive'), ({'scale': (2.0, 1.0)}, 'must be positive'),
    ({'scale': (0.0, 1.0)}, 'must be positive'), ({'resize': (0, 5)}, r'two of them or \[0, 0\]'),
    ({'resize': (-5, 5)}, r'two of them or \[0, 0\]'),
    ({'short_edge': (0, 5)}, 'must hold positive lengths'),
    ({'photometric': -1.0}, 'at least 0'), ({'camera': 1.5}, 'camera is a chance in 0..1')])
def test_impossible_values_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TransformConfig(**wrong)
