# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from builtin_interfaces.msg import Time
from dgtl_core.encodings import ImageError
from dgtl_ros.cdr_image import read_image
from dgtl_ros.image_codec import rgb8, to_rgb
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

pytestmark = pytest.mark.ros
IMAGE = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)


def message(frame_id='camera', encoding='rgb8'):
    made = rgb8(IMAGE, Header(frame_id=frame_id, stamp=Time(sec=-5, nanosec=7)))
    made.encoding, made.is_bigendian = encoding, 1
    return made


@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'camera_optical', 'kamera_\u00fc'])
@pytest.mark.parametrize('encoding', ['rgb8', 'mono16', 'bayer_rggb8', 'nv12'])
def test_every_field_at_every_alignment(frame_id, encoding):
    made = message(frame_id, encoding)
    read = read_image(serialize_message(made))
    assert read.header == made.header
    assert read[1:6] == (5, 7, encoding, 1, 21)
    assert bytes(read.data) == IMAGE.tobytes()


def test_the_picture_is_a_view_of_the_bytes_that_came():
    raw = bytearray(serialize_message(message()))
    image = to_rgb(read_image(raw))
    np.testing.assert_array_equal(image, IMAGE)
    raw[-1] ^= 255
    assert image[-1, -1, -1] == IMAGE[-1, -1, -1] ^ 255


def test_big_endian():
    raw = (b'\0\0\0\0' + (3).to_bytes(4, 'big') + (9).to_bytes(4, 'big')
           + (2).to_bytes(4, 'big') + b'c\0\0\0' + (1).to_bytes(4, 'big')
           + (2).to_bytes(4, 'big')
           + (6).to_bytes(4, 'big') + b'mono8\0' + b'\1\0' + (2).to_bytes(4, 'big')
           + (2).to_bytes(4, 'big') + b'\x10\x20')
    read = read_image(raw)
    assert (read.header.stamp.sec, read.header.stamp.nanosec) == (3, 9)
    assert read.header.frame_id == 'c' and read.encoding == 'mono8' and read.is_bigendian == 1
    assert (read.height, read.width, read.step, bytes(read.data)) == (1, 2, 2, b'\x10\x20')


def test_cut_short_at_any_byte_is_an_error_that_says_so():
    raw = serialize_message(message())
    for size in range(len(raw) - len(IMAGE.tobytes())):
        with pytest.raises(ImageError, match='is no image|serializes in another way'):
            read_image(raw[:size])
    with pytest.raises(ImageError, match='is truncated'):
        to_rgb(read_image(raw[:-50]))


def test_lengths_that_cannot_be():
    raw = bytearray(serialize_message(message()))
    raw[12:16] = (1 << 31).to_bytes(4, 'little')
    with pytest.raises(ImageError, match='is no image'):
        read_image(bytes(raw))


def test_text_that_is_none():
    raw = serialize_message(message()).replace(b'rgb8', b'\xff\xfe\xfd\xfc')
    with pytest.raises(ImageError, match='encoding .* is not supported'):
        to_rgb(read_image(raw))
    raw = serialize_message(message('kamera')).replace(b'kamera', b'k\xffmera')
    assert read_image(raw).header.frame_id == 'k\ufffdmera', 'as rclpy reads it'


def test_another_serialization_is_refused_with_the_way_out():
    raw = serialize_message(message())
    with pytest.raises(ImageError, match='set raw_subscription to false'):
        read_image(b'\0\3' + raw[2:])
