# SPDX-License-Identifier: Apache-2.0
from dgtl_core.classes import CITYSCAPES, ClassSet, SegmentationClass
from dgtl_core.visualize import colorize, legend, overlay, sheet, title
import numpy as np
import pytest


def test_colorize_uses_the_palette():
    colors = colorize(np.array([[0, 10, 255]], np.uint8), CITYSCAPES)
    assert colors.tolist() == [[[128, 64, 128], [70, 130, 180], [0, 0, 0]]]


def test_overlay_blends_classes_and_leaves_the_unlabelled():
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[13, 255]], np.uint8)
    assert overlay(image, labels, CITYSCAPES, 0.5).tolist() == [[[50, 50, 121], [100, 100, 100]]]
    assert overlay(image, labels, CITYSCAPES, 0.0).tolist() == image.tolist()


def test_overlay_refuses_other_sizes_and_alphas():
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match='differ in size'):
        overlay(image, np.zeros((2, 3), np.uint8), CITYSCAPES)
    with pytest.raises(ValueError, match='alpha'):
        overlay(image, np.zeros((2, 2), np.uint8), CITYSCAPES, 1.5)


def test_sheet_places_every_picture():
    red, blue = np.zeros((2, 50, 100, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    page = sheet([[red, blue], [blue]], titles=['a', 'b'], row_titles=['x', 'y'], width=100)
    assert page.shape == (2 * (50 + 22), 200, 3)
    assert page[40, 50].tolist() == [255, 0, 0] and page[40, 150].tolist() == [0, 0, 255]
    assert page[112, 50].tolist() == [0, 0, 255] and page[112, 150].tolist() == [24, 24, 24]
    with pytest.raises(ValueError, match='at least one'):
        sheet([])


def test_title_and_legend_draw_something():
    image = np.zeros((10, 80, 3), np.uint8)
    assert title(image, 'fog').shape == (32, 80, 3) and title(image, 'fog')[:22].max() > 200
    picture = legend(CITYSCAPES)
    assert all((picture == entry.color).all(-1).any() for entry in CITYSCAPES)


def test_a_legend_of_many_classes_uses_the_width_that_there_is():
    many = ClassSet('many', tuple(
        SegmentationClass(id=i, name=f'class {i}', color=(i, 99, 7)) for i in range(150)))
    assert legend(many, 384).shape == (1000, 384, 3)
    wide = legend(many, 1280)
    assert wide.shape == (500, 1280, 3)
    assert all((wide == entry.color).all(-1).any() for entry in many)


def test_text_that_is_none_is_drawn_as_an_escape():
    assert title(np.zeros((10, 200, 3), np.uint8), 'no \udcff text')[:22].max() > 200
