# SPDX-License-Identifier: Apache-2.0
"""Views and cameras for a whole batch."""

from dgtl_core.data.batch_transforms import another_camera, another_view
import torch


def batch(count=16, height=64, width=128):
    """Return pictures whose red is the label, so that the two can be compared anywhere."""
    torch.manual_seed(0)
    labels = torch.zeros(count, height, width, dtype=torch.uint8)
    labels[:, :, width // 2:] = 1
    labels[:, height // 2:] += 2
    images = torch.full((count, 3, height, width), 100, dtype=torch.uint8)
    images[:, 0] = 60 * labels
    return images, labels


def test_labels_move_with_their_picture():
    images, labels = batch()
    seen, ids = another_view(images, labels)
    assert seen.shape == images.shape and ids.shape == labels.shape and ids.dtype == torch.uint8
    known = ids != 255
    assert 0.6 < known.float().mean() < 1
    said = (seen[:, 0] * 255 / 60).round()
    assert (said[known] == ids[known]).float().mean() > 0.97  # but for the borders
    assert set(ids[known].tolist()) == {0, 1, 2, 3}


def test_some_pictures_stay_whole_and_some_are_mirrored():
    images, labels = batch(64)
    _, ids = another_view(images, labels)
    whole = [torch.equal(x, labels[0]) for x in ids]
    mirrored = [torch.equal(x, labels[0].flip(-1)) for x in ids]
    assert 2 < sum(whole) < 20 and 2 < sum(mirrored) < 20


def test_cameras_differ_from_picture_to_picture_and_give_what_eight_bits_hold():
    images, _ = batch(24)
    images = images.float() / 255
    found = another_camera(images)
    assert found.shape == images.shape and 0 <= found.min() and found.max() <= 1
    torch.testing.assert_close(found * 255, (found * 255).round(), rtol=0, atol=1e-3)
    means = found.mean((1, 2, 3))
    assert means.std() > 0.05 and len(means.unique()) > 12
    kept = [(a - b).abs().max() < 0.003 for a, b in zip(found, images)]
    assert 0 < sum(kept) < 16


def test_the_same_seed_gives_the_same_pictures():
    images, labels = batch(4)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(another_camera(another_view(images, labels)[0]))
    assert torch.equal(*found)
