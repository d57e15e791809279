# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('sensor_msgs', exc_type=ImportError)
from dgtl_ros.points.cloud import CloudError, organised, read_xyz, with_labels
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

pytestmark = pytest.mark.ros


def scene(height=3, width=4):
    generator = np.random.default_rng(5)
    points = generator.normal(size=(3, height, width)).astype(np.float32)
    points[:, 0, 0] = np.nan
    rgb = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels, confidence = generator.integers(0, 256, (2, height, width), dtype=np.uint8)
    return points, rgb, labels, confidence


def records(msg):
    """Read a cloud field by field with NumPy's own records, as a foreign reader would."""
    kinds = {PointField.FLOAT32: 'f4', PointField.FLOAT64: 'f8', PointField.UINT8: 'u1',
             PointField.UINT16: 'u2'}
    kind = np.dtype({
        'names': [f.name for f in msg.fields], 'offsets': [f.offset for f in msg.fields],
        'formats': [('>' if msg.is_bigendian else '<') + kinds[f.datatype] for f in msg.fields],
        'itemsize': msg.point_step})
    return np.frombuffer(bytes(msg.data), kind).reshape(msg.height, msg.width)


def test_an_organised_cloud_holds_what_was_given():
    points, rgb, labels, confidence = scene()
    msg = organised(points, rgb, labels, confidence, Header(frame_id='camera'))
    assert (msg.height, msg.width, msg.row_step) == (3, 4, 4 * msg.point_step)
    assert not msg.is_dense and msg.header.frame_id == 'camera'
    found = records(msg)
    for axis, name in enumerate('xyz'):
        np.testing.assert_array_equal(found[name], points[axis])
    np.testing.assert_array_equal(found['label'], labels)
    np.testing.assert_array_equal(found['confidence'], confidence)
    packed = np.ascontiguousarray(found['rgb']).view(np.uint32)
    for shift, channel in ((16, 0), (8, 1), (0, 2)):
        np.testing.assert_array_equal(packed >> shift & 255, rgb[..., channel])
    np.testing.assert_array_equal(read_xyz(msg), points.reshape(3, -1))


def test_without_colour_and_confidence():
    points, _, labels, _ = scene()
    found = records(organised(points, None, labels, None, Header()))
    assert (found['confidence'] == 255).all() and (found['rgb'] == 0).all()


def lidar(count=5, bigendian=False, padding=0):
    """A cloud as a driver makes it: float64 y first, an intensity, rows with a padding."""
    order = '>' if bigendian else '<'
    kind = np.dtype([('y', order + 'f8'), ('x', order + 'f4'), ('i', order + 'u2'),
                     ('z', order + 'f4'), ('pad', 'u1', (1,))])
    values = np.zeros((2, count), kind)
    values['x'], values['y'], values['z'] = np.arange(2 * count).reshape(1, 2, count) + \
        np.array([100, 200, 300])[:, None, None]
    values['i'] = 7
    msg = PointCloud2(height=2, width=count, point_step=kind.itemsize, is_bigendian=bigendian,
                      row_step=kind.itemsize * count + padding, is_dense=True)
    kinds = {'y': PointField.FLOAT64, 'x': PointField.FLOAT32, 'i': PointField.UINT16,
             'z': PointField.FLOAT32}
    msg.fields = [PointField(name=n, offset=kind.fields[n][1], datatype=k, count=1)
                  for n, k in kinds.items()]
    msg.data.frombytes(b''.join(row.tobytes() + b'\xee' * padding for row in values))
    return msg


@pytest.mark.parametrize('bigendian', [False, True])
@pytest.mark.parametrize('padding', [0, 3])
def test_foreign_layouts_are_read_and_kept(bigendian, padding):
    msg = lidar(bigendian=bigendian, padding=padding)
    np.testing.assert_array_equal(read_xyz(msg), np.arange(10) + [[100], [200], [300]])
    labels = np.arange(10, dtype=np.uint8)
    out = with_labels(msg, labels, labels + np.uint8(50))
    found = records(out)
    np.testing.assert_array_equal(found['label'].reshape(-1), labels)
    np.testing.assert_array_equal(found['confidence'].reshape(-1), labels + 50)
    assert (found['i'] == 7).all() and found['y'][1, 4] == 209
    assert out.point_step % 4 == 0 and out.is_dense


def damage(msg, **values):
    for name, value in values.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize('msg, text', [
    (damage(lidar(), width=6), 'do not fit into a row of 95'),
    (damage(lidar(), height=3), 'truncated'),
    (damage(lidar(), row_step=4), 'row of 4: correct point_step and row_step'),
    (damage(lidar(), width=1 << 30, height=1 << 30), 'at most'),
    (damage(lidar(), fields=lidar().fields[:2]), 'x, y and z'),
    (damage(lidar(), point_step=8, row_step=40), 'beyond'),
])
def test_a_cloud_that_lies_is_refused(msg, text):
    with pytest.raises(CloudError, match=text):
        read_xyz(msg)


@pytest.mark.parametrize('changes', [
    {'width': 0}, {'height': 0}, {'width': 0, 'height': 0, 'point_step': 0, 'fields': []}])
def test_a_cloud_of_nothing_stays_one(changes):
    msg = damage(lidar(), data=b'', row_step=0, **changes)
    assert read_xyz(msg).shape == (3, 0)
    out = with_labels(msg, *np.empty((2, 0), np.uint8))
    assert (out.height, out.width, len(out.data)) == (msg.height, msg.width, 0)
    assert [field.name for field in out.fields][-2:] == ['label', 'confidence']


def test_one_row_needs_no_row_step():
    msg = damage(lidar(), height=1, row_step=0)
    np.testing.assert_array_equal(read_xyz(msg), np.arange(5) + [[100], [200], [300]])
    found = records(with_labels(msg, *np.full((2, 5), 9, np.uint8)))
    assert (found['label'] == 9).all() and (found['i'] == 7).all()


@pytest.mark.filterwarnings('error')
def test_numbers_beyond_float32_are_far_away_without_a_warning():
    msg = lidar()
    np.ndarray(1, '<f8', msg.data)[0] = 1e300  # y comes first
    assert read_xyz(msg)[1, 0] == np.inf


def test_a_cloud_with_labels_gets_none_again():
    labels = np.zeros(10, np.uint8)
    with pytest.raises(CloudError, match='already'):
        with_labels(with_labels(lidar(), labels, labels), labels, labels)
