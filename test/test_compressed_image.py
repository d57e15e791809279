# SPDX-License-Identifier: Apache-2.0
"""Compressed pictures in messages: cut, damaged, turned, mosaics and bombs."""

import sys
import time
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2 messages')
from coloured_picture import quarters, remarks
from dgtl_core.encodings import DAMAGED, ImageError
from dgtl_ros.image_codec import rgb8, to_rgb
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

pytestmark = pytest.mark.ros


@pytest.fixture
def picture():
    return quarters()


def compressed(suffix, picture, name='jpeg'):
    data = cv2.imencode(suffix, picture[:, :, ::-1])[1].tobytes()
    msg = CompressedImage(format=name)
    msg.data.frombytes(data)
    return msg


@pytest.mark.parametrize('suffix, tolerance', [('.png', 0), ('.jpg', 24)])
def test_compressed(picture, suffix, tolerance):
    rgb = to_rgb(compressed(suffix, picture))
    inner = np.abs(rgb.astype(int) - picture)[2:6, 2:9]
    assert rgb.shape == picture.shape and inner.max() <= tolerance


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('kept', [0.0, 0.02, 0.3, 0.9])
def test_truncated_compressed_picture_is_an_error_not_a_grey_area(suffix, kept):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    msg = compressed(suffix, noise)
    msg.data = msg.data[:int(len(msg.data) * kept)]
    with pytest.raises(ImageError, match='cut short|neither'):
        to_rgb(msg)


def test_padding_after_a_compressed_picture_is_allowed(picture):
    msg = compressed('.jpg', picture)
    msg.data.frombytes(bytes(500))
    assert to_rgb(msg).shape == picture.shape


def test_garbage_inside_a_compressed_picture():
    msg = CompressedImage(format='png')
    msg.data.frombytes(b'\x89PNG\r\n\x1a\n' + bytes(8) + b'\0\0\0\x10\0\0\0\x10' + bytes(40)
                       + b'IEND')
    with pytest.raises(ImageError, match='damaged'):
        to_rgb(msg)


def test_compressed_bomb_is_refused_before_it_is_decoded(picture):
    msg = compressed('.png', picture)
    msg.data[16:24] = type(msg.data)('B', b'\0\1\0\0\0\1\0\0')  # 65536 x 65536
    msg.data[29:33] = type(msg.data)('B', zlib.crc32(msg.data[12:29]).to_bytes(4, 'big'))
    start = time.monotonic()
    with pytest.raises(ImageError, match='65536x65536 is refused'):
        to_rgb(msg)
    assert time.monotonic() - start < 0.1


@pytest.mark.parametrize('turn', range(1, 9))
def test_rotation_in_the_file_is_ignored_with_a_remark(picture, turn):
    msg = compressed('.jpg', picture)
    plain = to_rgb(msg)
    exif = b'\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0%c' % turn
    data = msg.data.tobytes()
    msg.data = type(msg.data)('B', data[:2] + exif + bytes(6) + data[2:])
    rgb, said = remarks(msg)
    np.testing.assert_array_equal(rgb, plain)
    assert len(said) == (turn != 1)
    assert all(f'Exif orientation {turn} ' in text for _, text in said)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_mosaic_inside_a_compressed_picture_is_demosaiced_as_its_format_says(suffix, pattern):
    """As compressed_image_transport sends it: PNG, and JPEG with jpeg_compress_bayer."""
    color = 130, 40, 10
    mosaic = np.empty((48, 64), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2::2, i % 2::2] = color['rgb'.index(letter)]
    data = cv2.imencode(suffix, mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    kind = 'png compressed ' if suffix == '.png' else f'jpeg compressed bayer_{pattern}8'
    msg = CompressedImage(format=f'bayer_{pattern}8; {kind}')
    msg.data.frombytes(data)
    assert np.abs(to_rgb(msg)[20, 20].astype(int) - color).max() <= (0 if suffix == '.png' else 6)
    if suffix == '.png':
        wide = cv2.imencode('.png', mosaic.astype(np.uint16) * 256 + 7)[1].tobytes()
        msg = CompressedImage(format=f'bayer_{pattern}16; png compressed ')
        msg.data.frombytes(wide)
        np.testing.assert_array_equal(to_rgb(msg)[20, 20], color)


@pytest.mark.parametrize('form, gray, fits', [
    ('bayer_rggb8; jpeg compressed bayer_rggb8', False, False),
    ('bayer_rggb8; jpeg compressed bgr8', False, True),  # demosaiced before it was compressed
    ('rgb8; jpeg compressed bgr8', True, False), ('mono8; jpeg compressed ', False, False),
    ('mono8; jpeg compressed ', True, True), ('jpeg', True, True), ('jpeg', False, True),
    ('', True, True), ('yuv422; jpeg compressed bgr8', False, True)])
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_a_format_that_contradicts_the_data_is_an_error(picture, form, gray, fits, suffix):
    msg = CompressedImage(format=form)
    msg.data.frombytes(cv2.imencode(suffix, picture[:, :, 0] if gray else picture)[1].tobytes())
    if fits:
        assert to_rgb(msg).shape == picture.shape
        return
    with pytest.raises(ImageError, match='its format states .* correct the format'):
        to_rgb(msg)


def test_a_jpeg_that_is_damaged_inside_is_a_picture_with_a_remark():
    pytest.importorskip('simplejpeg')
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    msg = compressed('.jpg', noise)
    assert not remarks(msg)[1]
    middle = len(msg.data) // 2
    msg.data[middle:middle + 300] = type(msg.data)('B', bytes(300))
    rgb, said = remarks(msg)
    assert rgb.shape == noise.shape
    assert [kind for kind, _ in said] == [DAMAGED]


def test_a_camera_with_a_loose_cable_does_not_fill_the_log(capfd):
    """Decoders in C write to standard error on their own, once for each picture."""
    pytest.importorskip('simplejpeg')
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    for suffix, broken in (('.jpg', None), ('.png', 'the checksum of IDAT is wrong')):
        for at in np.random.default_rng(1).integers(1000, 10_000, 20):
            msg = compressed(suffix, noise)
            msg.data[int(at)] ^= 0x55
            if broken is None:
                assert to_rgb(msg).shape == noise.shape
            else:
                with pytest.raises(ImageError, match=broken):
                    to_rgb(msg)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('flags', [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
@pytest.mark.parametrize('gray', [False, True])
def test_both_decoders_give_the_same_pixels(flags, gray, monkeypatch):
    pytest.importorskip('simplejpeg')
    noise = np.random.default_rng(0).integers(0, 255, (75, 130, 3), np.uint8)
    msg = CompressedImage(format='jpeg')
    msg.data.frombytes(cv2.imencode('.jpg', noise[:, :, 0] if gray else noise, flags)[1].tobytes())
    fast = to_rgb(msg)
    monkeypatch.setitem(sys.modules, 'simplejpeg', None)
    np.testing.assert_array_equal(fast, to_rgb(msg))


def test_the_largest_picture_is_a_matter_of_a_parameter(picture):
    for msg in (rgb8(picture, Header()), compressed('.png', picture), compressed('.jpg', picture)):
        assert to_rgb(msg, max_pixels=16 * 24).shape == picture.shape
        with pytest.raises(ImageError, match=r'24x16 .* at most 383'):
            to_rgb(msg, max_pixels=16 * 24 - 1)


def test_scans_are_work_and_their_number_is_bounded():
    side = 512
    plain = cv2.imencode('.jpg', np.zeros((side, side), np.uint8), [
        cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    parts = plain.split(b'\xff\xda')
    for scans, most, fits in ((10, side * side, True), (20, side * side, False),
                              (20, 4 * side * side, True), (100, 1 << 26, False)):
        msg = CompressedImage(format='jpeg')
        msg.data.frombytes(b'\xff\xda'.join(
            [*parts[:-1], *[parts[-2]] * (scans - len(parts) + 1), parts[-1]]))
        if fits:
            assert to_rgb(msg, '', most).shape == (side, side, 3)
        else:
            with pytest.raises(ImageError, match=f'with {scans} scans'):
                to_rgb(msg, '', most)


@pytest.mark.parametrize('data', [
    b'\xff\xd8' + b'\xff' * 10**6, b'\xff\xd8' + b'\xff\xfe\0\2' * 500_000,
    b'\xff\xd8\xff\xe1\0\x10Exif\0\0MM\0*' + bytes(10**6),
    b'\x89PNG\r\n\x1a\n' + bytes(12) * 200_000], ids=['fill', 'segments', 'exif', 'chunks'])
def test_looking_at_a_header_takes_no_time(data):
    msg = CompressedImage(format='jpeg')
    msg.data.frombytes(data)
    start = time.monotonic()
    with pytest.raises(ImageError):
        to_rgb(msg)
    assert time.monotonic() - start < 1.0
