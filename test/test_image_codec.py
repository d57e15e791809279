# SPDX-License-Identifier: Apache-2.0
"""Pictures in messages: every encoding is read, and what cannot be is refused in words."""

from array import array
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2 messages')
from coloured_picture import quarters, remarks
from dgtl_core.encodings import ENCODINGS, ImageError, view
from dgtl_core.picture_header import MAX_PIXELS
from dgtl_ros.image_codec import jpeg, mono8, rgb8, to_rgb
from sensor_msgs.msg import Image
from std_msgs.msg import Header

pytestmark = pytest.mark.ros


@pytest.fixture
def picture():
    return quarters()


def message(encoding, rows, width=24, height=16, step=None, big=0):
    rows = np.ascontiguousarray(rows)
    msg = Image(encoding=encoding, width=width, height=height, is_bigendian=big,
                step=rows.shape[1] if step is None else step)
    msg.data.frombytes(rows.tobytes())
    return msg


def rows_of(pixels, padding=0):
    flat = pixels.reshape(pixels.shape[0], -1)
    return np.pad(flat, ((0, 0), (0, padding)), constant_values=77)


@pytest.mark.parametrize('padding', [0, 1, 13])
@pytest.mark.parametrize('encoding, order', [
    ('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 0]), ('bgra8', [2, 1, 0, 0])])
def test_colour_order_and_row_padding(picture, encoding, order, padding):
    msg = message(encoding, rows_of(picture[:, :, order], padding))
    np.testing.assert_array_equal(to_rgb(msg), picture)


@pytest.mark.parametrize('padding', [0, 6])
def test_rgb8_is_a_view(picture, padding):
    msg = message('rgb8', rows_of(picture, padding))
    rgb = to_rgb(msg)
    msg.data[0] = 9
    assert rgb[0, 0, 0] == 9


@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize('encoding', ['rgb16', 'bgr16', 'rgba16', 'bgra16', 'mono16'])
def test_sixteen_bits_keep_the_high_byte(picture, encoding, big):
    order = {'r': [0, 1, 2], 'b': [2, 1, 0], 'm': [0]}[encoding[0]] + [0] * ('a' in encoding)
    wide = picture[:, :, order].astype('>u2' if big else '<u2', order='C') * 256 + 99
    rows = rows_of(np.ascontiguousarray(wide.astype('>u2' if big else '<u2')).view(np.uint8))
    want = np.repeat(picture[:, :, :1], 3, 2) if encoding == 'mono16' else picture
    np.testing.assert_array_equal(to_rgb(message(encoding, rows, big=big)), want)


def test_mono8(picture):
    rgb = to_rgb(message('mono8', rows_of(picture[:, :, 1], 3)))
    np.testing.assert_array_equal(rgb, np.repeat(picture[:, :, 1:2], 3, 2))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_patterns_are_named_by_their_first_two_rows(picture, pattern, bits):
    plane = np.empty(picture.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        plane[i // 2::2, i % 2::2] = picture[i // 2::2, i % 2::2, 'rgb'.index(letter)]
    rows = plane if bits == 8 else rows_of((plane.astype('<u2') * 256).view(np.uint8))
    rgb = to_rgb(message(f'bayer_{pattern}{bits}', rows))
    for y, x in ((3, 5), (3, 18), (12, 5), (12, 18)):  # away from the seams: flat, so exact
        np.testing.assert_array_equal(rgb[y, x], picture[y, x])


def yuv(picture):
    """BT.601 with the range 16..235, as cameras send it."""
    r, g, b = np.moveaxis(picture.astype(float), 2, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return [np.round(p).astype(np.uint8) for p in (y, u, v)]


@pytest.mark.parametrize('encoding', ['uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2'])
@pytest.mark.parametrize('padding', [0, 4])
def test_packed_yuv(picture, encoding, padding):
    y, u, v = yuv(picture)
    color = np.stack([u[:, ::2], v[:, ::2]], 2).reshape(y.shape)
    luma_first = encoding in ('yuyv', 'yuv422_yuy2')
    pairs = np.stack([y, color] if luma_first else [color, y], 2)
    rgb = to_rgb(message(encoding, rows_of(pairs, padding)))
    assert np.abs(rgb.astype(int) - picture).max() <= 4


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
@pytest.mark.parametrize('padding', [0, 8])
def test_planar_yuv(picture, encoding, padding):
    y, u, v = yuv(picture)
    pair = [u, v] if encoding == 'nv12' else [v, u]
    color = np.stack([p[::2, ::2] for p in pair], 2).reshape(8, 24)
    rgb = to_rgb(message(encoding, rows_of(np.vstack([y, color]), padding)))
    assert np.abs(rgb.astype(int) - picture).max() <= 4


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_listed_encoding_is_read_and_refuses_too_little_data(encoding):
    rows = {'nv12': 24, 'nv21': 24, 'i420': 24, 'nv24': 48}.get(encoding, 16)
    step = 24 * {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'rgb16': 6, 'bgr16': 6,
                 'rgba16': 8, 'bgra16': 8}.get(
                     encoding, 1 if rows > 16 or encoding.endswith('8') else 2)
    rows = np.full((rows, step), 100, np.uint8)
    rgb = to_rgb(message(encoding, rows))
    assert rgb.shape == (16, 24, 3) and rgb.dtype == np.uint8
    short = message(encoding, rows)
    short.data = short.data[:-1]
    with pytest.raises(ImageError, match=r'truncated.*needs \d+ bytes, got \d+'):
        to_rgb(short)
    with pytest.raises(ImageError, match='step .* too small'):
        to_rgb(message(encoding, rows, step=step - 1))


@pytest.mark.parametrize('padding', [0, 8])
def test_full_planes_of_colour(picture, padding):
    y, u, v = yuv(picture)
    color = np.stack([u, v], 2).reshape(16, 48)
    rows = np.concatenate([rows_of(y, padding).ravel(), rows_of(color, 2 * padding).ravel()])
    rgb = to_rgb(message('nv24', rows.reshape(-1, 24 + padding)))
    assert np.abs(rgb.astype(int) - picture).max() <= 4


@pytest.mark.parametrize('padding', [0, 8])
def test_a_plane_for_each_colour(picture, padding):
    y, u, v = yuv(picture)
    small = [rows_of(np.ascontiguousarray(p[::2, ::2]), padding // 2).ravel() for p in (u, v)]
    rows = np.concatenate([rows_of(y, padding).ravel(), *small]).reshape(-1, 24 + padding)
    rgb = to_rgb(message('i420', rows))
    assert rgb.shape == picture.shape and np.abs(rgb.astype(int) - picture).max() <= 4


@pytest.mark.parametrize('encoding, read_as', [
    ('8UC1', 'mono8'), ('8UC3', 'bgr8'), ('8UC4', 'bgra8'), ('16UC1', 'mono16')])
def test_encodings_that_say_nothing_are_read_with_a_remark(encoding, read_as):
    channels = int(encoding[-1]) * (2 if encoding.startswith('16') else 1)
    rows = np.arange(16 * 24 * channels, dtype=np.uint8).reshape(16, 24 * channels)
    rgb, said = remarks(message(encoding, rows))
    plain, none = remarks(message(read_as, rows))
    np.testing.assert_array_equal(rgb, plain)
    assert [kind for kind, _ in said] == [encoding] and not none
    assert f'read as {read_as}' in said[0][1] and 'input_encoding' in said[0][1]


class StandInForCvBridge:
    """The signature of cv_bridge.CvBridge; what it does with a picture is made up."""

    def __init__(self, answer):
        self._answer = answer

    def CvBridge(self):
        return self

    def imgmsg_to_cv2(self, img_msg, desired_encoding='passthrough'):
        assert desired_encoding == 'rgb8' and img_msg.encoding == 'yuv9'
        return self._answer(img_msg)


def test_other_encodings_go_through_cv_bridge_where_it_is_installed(picture, monkeypatch):
    msg = message('yuv9', rows_of(picture))
    monkeypatch.setitem(sys.modules, 'cv_bridge', StandInForCvBridge(lambda _: picture))
    np.testing.assert_array_equal(to_rgb(msg), picture)
    monkeypatch.setitem(sys.modules, 'cv_bridge', StandInForCvBridge(lambda _: picture[:, 1:]))
    with pytest.raises(ImageError, match=r'yuv9.*cv_bridge made uint8 of shape \(16, 23, 3\)'):
        to_rgb(msg)
    monkeypatch.setitem(sys.modules, 'cv_bridge', StandInForCvBridge(lambda _: {}['yuv9']))
    with pytest.raises(ImageError, match='cannot convert it either .KeyError'):
        to_rgb(msg)
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # not installed
    with pytest.raises(ImageError, match="'yuv9' is not supported: .* or install cv_bridge"):
        to_rgb(msg)


def test_missing_padding_of_the_last_row_is_no_truncation(picture):
    msg = message('rgb8', rows_of(picture, 8))
    msg.data = msg.data[:-8]
    np.testing.assert_array_equal(to_rgb(msg), picture)


@pytest.mark.parametrize('encoding', ['', '8', '16', 'RGB8', 'rgb', 'rgb32', '32FC1', '16UC3',
                                      'bayer_rggb', 'jpeg', 'rgb08'])
def test_unknown_encoding_names_the_allowed_ones(encoding):
    with pytest.raises(ImageError, match='not supported: use one of .*bgr8.*camera driver'):
        to_rgb(message(encoding, np.zeros((16, 24 * 8), np.uint8)))


@pytest.mark.parametrize('size', [(0, 24), (16, 0), (0, 0), (2**32 - 1, 2**32 - 1),
                                  (MAX_PIXELS, 2)])
def test_impossible_sizes(size):
    msg = message('rgb8', np.zeros((16, 72), np.uint8), height=size[0], width=size[1])
    with pytest.raises(ImageError, match='impossible'):
        to_rgb(msg)


@pytest.mark.parametrize('encoding, height, width', [
    ('yuyv', 16, 23), ('nv12', 15, 24), ('nv21', 16, 23), ('bayer_rggb8', 1, 24)])
def test_sizes_that_an_encoding_cannot_have(encoding, height, width):
    msg = message(encoding, np.zeros((40, 96), np.uint8), height=height, width=width)
    with pytest.raises(ImageError, match='even|at least 2x2'):
        to_rgb(msg)


def test_messages_keep_header_size_and_bytes(picture):
    header = Header(frame_id='camera_optical')
    header.stamp.sec, header.stamp.nanosec = 12, 345
    for msg, channels in ((mono8(picture[:, ::2, 1], header), 1), (rgb8(picture, header), 3)):
        assert (msg.header, msg.height, msg.is_bigendian) == (header, 16, 0)
        assert msg.step == msg.width * channels == len(msg.data) // 16
    np.testing.assert_array_equal(to_rgb(rgb8(picture, header)), picture)
    np.testing.assert_array_equal(
        to_rgb(mono8(picture[:, ::2, 1], header))[:, :, 0], picture[:, ::2, 1])


def test_jpeg_round_trip(picture):
    msg = jpeg(picture, Header(frame_id='x'), 95)
    assert msg.header.frame_id == 'x' and 'jpeg' in msg.format
    assert np.abs(to_rgb(msg).astype(int) - picture)[2:6, 2:9].max() <= 24
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert len(jpeg(noise, Header(), 10).data) < len(jpeg(noise, Header(), 90).data)


def test_filling_a_message_copies_and_does_not_loop():
    pixels = np.zeros((1080, 1920), np.uint8)
    copy = min(timed(pixels.tobytes) for _ in range(5))
    build = min(timed(mono8, pixels, Header()) for _ in range(5))
    assert build < 30 * copy + 2e-3, 'element by element it takes hundreds of copies'


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def test_data_that_lies_on_a_gpu_is_refused_in_words():
    """As rclpy of Lyrical gives it where a subscription asks for another memory than the CPU's."""
    class Buffer:  # like rosidl_buffer.Buffer: no buffer protocol
        def __len__(self):
            return 12

    message = SimpleNamespace(height=2, width=2, encoding='rgb8', step=6, is_bigendian=0,
                              data=Buffer(), header=Header())
    with pytest.raises(ImageError, match='Buffer.*acceptable_buffer_backends'):
        to_rgb(message)


def test_data_of_every_kind_is_a_view_without_a_copy():
    for data in (array('B', [1, 2]), bytearray([1, 2]), np.array([1, 2], np.uint8)):
        seen = view(data)
        data[0] = 9
        assert seen.tolist() == [9, 2]
    assert view(b'').size == view(array('B')).size == 0
