# SPDX-License-Identifier: Apache-2.0
import cv2
from dgtl_core.pictures import write_image
from dgtl_core.processing import (
    as_mounted,
    mask_out,
    place,
    read_mask,
    to_input,
    to_source,
    upright,
    windows,
)
import numpy as np
import pytest

SIZES = [
    ((72, 128), (32, 64)), ((100, 60), (32, 64)), ((480, 640), (256, 512)), ((7, 5), (32, 32))]


def ramp(size):
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32)
    red, green = 200 * (y + .5) / size[0], 200 * (x + .5) / size[1]
    return np.stack([red, green, 0 * red], -1).astype(np.uint8)


@pytest.mark.parametrize('mode', ['stretch', 'letterbox', 'crop'])
@pytest.mark.parametrize('source, target', SIZES)
def test_a_pixel_comes_back_to_where_it_was(source, target, mode):
    image, placement = ramp(source), place(source, target, mode)
    seen = to_input(image, placement)
    assert seen.shape == (*target, 3) and seen.dtype == np.uint8 and seen.flags.c_contiguous
    for channel in (0, 1):
        back = to_source(np.ascontiguousarray(seen[..., channel]), placement)
        assert back.shape == source
        y0, y1, x0, x1 = placement.outer
        off = np.abs(back[y0:y1, x0:x1].astype(int) - image[y0:y1, x0:x1, channel])
        step = max(200 / source[channel], 200 / min(target))  # one pixel of either grid
        assert off.max() <= step + 2


def test_letterbox_keeps_the_aspect_ratio_and_pads_with_grey():
    placement = place((100, 100), (32, 64), 'letterbox')
    assert placement.inner == (0, 32, 16, 48)
    seen = to_input(np.full((100, 100, 3), 7, np.uint8), placement)
    assert (seen[:, 16:48] == 7).all() and (seen[:, :16] == (124, 116, 104)).all()


def test_what_a_crop_cuts_away_comes_back_unlabelled():
    placement = place((100, 100), (32, 64), 'crop')
    assert placement.outer == (25, 75, 0, 100)
    back = to_source(np.zeros((32, 64), np.uint8), placement)
    assert (back[25:75] == 0).all() and (back[:25] == 255).all() and (back[75:] == 255).all()


@pytest.mark.skipif(cv2.__version__ < '4.6', reason='OpenCV 4.5 resizes such pictures wrongly')
@pytest.mark.parametrize('source', [(1, 40000), (40000, 1), (3, 5000), (1, 1)])
@pytest.mark.parametrize('output', [(32, 64), (8, 16), (1, 1), (480, 640)])
def test_a_very_long_picture_gets_labels_from_where_it_lay(source, output):
    placement = place(source, (32, 64), 'letterbox')
    y0, y1, x0, x1 = placement.inner
    labels = np.zeros(output, np.uint8)
    labels[(y0 + y1) * output[0] // 64, (x0 + x1) * output[1] // 128] = 7  # its middle
    back = to_source(labels, placement)
    assert back.shape == source and (back == 7).any()


def test_no_copy_where_nothing_is_to_be_done():
    image = ramp((32, 64))
    assert np.shares_memory(to_input(image, place((32, 64), (32, 64), 'stretch')), image)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="stretch.*got 'squash'"):
        place((10, 10), (10, 10), 'squash')


@pytest.mark.parametrize('size, expected', [
    ((512, 700), [(0, 512, 0, 512), (0, 512, 188, 700)]),
    ((512, 1024), [(0, 512, 0, 512), (0, 512, 341, 853), (0, 512, 512, 1024)]),
    ((512, 512), [(0, 512, 0, 512)]),
    ((300, 512), [(0, 300, 0, 512)]),
])
def test_windows_follow_the_released_arithmetic(size, expected):
    assert windows(size, (512, 512), (341, 341)) == expected


@pytest.mark.parametrize('size, crop, stride, corners', [  # the sets of VLTSeg
    ((512, 1024), 512, 426, [(0, 0), (0, 426), (0, 512)]),
    ((1024, 2048), 1024, 768, [(0, 0), (0, 768), (0, 1024)]),
    ((540, 960), 512, 426, [(0, 0), (0, 426), (0, 448), (28, 0), (28, 426), (28, 448)]),
])
def test_windows_of_other_strides(size, crop, stride, corners):
    found = windows(size, (crop, crop), (stride, stride))
    assert found == [(y, y + crop, x, x + crop) for y, x in corners]


@pytest.mark.parametrize('size', [(540, 960), (1024, 2048), (513, 513), (64, 64)])
def test_windows_cover_every_pixel(size):
    seen = np.zeros(size, int)
    for y0, y1, x0, x1 in windows(size, (512, 512), (426, 426)):
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1


def test_a_stride_beyond_the_crop_is_refused():
    with pytest.raises(ValueError, match='stride'):
        windows((100, 100), (32, 32), (33, 32))


@pytest.mark.parametrize('rotation', [0, 90, 180, 270])
def test_a_turned_picture_comes_back(rotation):
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    turned = upright(image, rotation)
    np.testing.assert_array_equal(turned, np.rot90(image, -rotation // 90))
    np.testing.assert_array_equal(as_mounted(turned[:, :, 0].copy(), rotation), image[:, :, 0])


def test_another_rotation_is_refused():
    with pytest.raises(ValueError, match=r'must be one of \[0, 90, 180, 270\] degrees, got 45'):
        upright(np.zeros((4, 6, 3), np.uint8), 45)


def test_an_ego_mask_is_never_judged(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[2:] = 255
    write_image(tmp_path / 'ego.png', mask)
    labels, confidence = mask_out(
        np.ones((4, 6), np.uint8), np.full((4, 6), 200, np.uint8), read_mask(tmp_path / 'ego.png'))
    assert (labels[:2] == 1).all() and (labels[2:] == 255).all()
    assert (confidence[:2] == 200).all() and (confidence[2:] == 0).all()
    with pytest.raises(ValueError, match='ego mask has 6x4 pixels and the picture 6x5'):
        mask_out(np.ones((5, 6), np.uint8), np.ones((5, 6), np.uint8), mask == 255)
    write_image(tmp_path / 'grey.png', mask // 2)
    with pytest.raises(ValueError, match='must be black and white'):
        read_mask(tmp_path / 'grey.png')
