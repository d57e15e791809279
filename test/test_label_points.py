# SPDX-License-Identifier: Apache-2.0
import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
from dgtl_core.points import PinholeCamera
from dgtl_ros.image_codec import mono8, rgb8
from dgtl_ros.points.cloud import CloudError, organised, read_xyz
from dgtl_ros.points.labelling import Labelling, read_depth
from dgtl_ros.points.settings import PointsSettings
from dgtl_ros.points.transforms import StaticTransform
from ros_world import PATIENCE, qos, stamp_of, World
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, RegionOfInterest
from std_msgs.msg import Header
from test_cloud import records

pytestmark = pytest.mark.ros
SIZE = (48, 64)


def camera_info(header=None, size=SIZE):
    info = CameraInfo(header=header or Header(), height=size[0], width=size[1],
                      distortion_model='plumb_bob', d=[0.0] * 5)
    info.k = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]
    return info


def depth_image(millimetres, header=None, bigendian=False):
    order = '>' if bigendian else '<'
    data = millimetres.astype(order + 'u2')
    msg = Image(header=header or Header(), height=data.shape[0], width=data.shape[1],
                encoding='16UC1', step=2 * data.shape[1], is_bigendian=bigendian)
    msg.data.frombytes(data.tobytes())
    return msg


def pictures(header=None):
    """Return labels, confidence and a depth in millimetres, as arrays."""
    generator = np.random.default_rng(8)
    labels, confidence = generator.integers(0, 19, (2, *SIZE), dtype=np.uint8)
    return labels, confidence, generator.integers(500, 9000, SIZE, dtype=np.uint16)


def messages(**changes):
    labels, confidence, depth = pictures()
    given = {'segmentation': mono8(labels, Header()), 'depth': depth_image(depth),
             'segmentation/confidence': mono8(confidence, Header()), **changes}
    return {name: message for name, message in given.items() if message is not None}


def test_depth_becomes_a_cloud_with_the_labels_of_its_pixels():
    labels, confidence, depth = pictures()
    rgb = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    label = Labelling(PointsSettings(use_color=True), None)
    found = records(label(messages(image=rgb8(rgb, Header())), camera_info()))
    np.testing.assert_array_equal(found['label'], labels)
    np.testing.assert_array_equal(found['confidence'], confidence)
    np.testing.assert_allclose(found['z'], depth / 1000, rtol=1e-6)
    columns = np.arange(64)[None]
    np.testing.assert_allclose(found['x'], (columns - 31.5) / 60 * depth / 1000, rtol=1e-5)
    red = np.ascontiguousarray(found['rgb']).view(np.uint32) >> 16
    np.testing.assert_array_equal(red, rgb[..., 0])


def test_depth_of_either_byte_order():
    depth = pictures()[2]
    np.testing.assert_array_equal(read_depth(depth_image(depth, bigendian=True)), depth)


def test_a_camera_that_cuts_its_picture_sees_the_points_where_they_are():
    label = Labelling(PointsSettings(use_confidence=False), None)
    whole = records(label(messages(), camera_info()))
    larger = camera_info(size=(100, 200))
    larger.k[2] += 40
    larger.k[5] += 20
    larger.roi = RegionOfInterest(x_offset=40, y_offset=20, width=SIZE[1], height=SIZE[0])
    part = records(label(messages(), larger))
    for axis in 'xyz':
        np.testing.assert_allclose(part[axis], whole[axis])


def test_small_labels_are_enlarged_and_foreign_ones_refused():
    label = Labelling(PointsSettings(use_confidence=False), None)
    small = pictures()[0][::2, ::2].copy()
    found = records(label(messages(segmentation=mono8(small, Header())), camera_info()))
    np.testing.assert_array_equal(found['label'][1::2, 1::2], small)
    with pytest.raises(CloudError, match='same part of the world'):
        label(messages(segmentation=mono8(small[:10].copy(), Header())), camera_info())


@pytest.mark.parametrize('changes, info, text', [
    ({}, None, 'CameraInfo'),
    ({'segmentation': rgb8(np.zeros((*SIZE, 3), np.uint8), Header())}, camera_info(), 'mono8'),
    ({'depth': mono8(pictures()[0], Header())}, camera_info(), '16UC1'),
    ({}, camera_info(size=(10, 10)), 'CameraInfo|confidence|same part'),
    ({'segmentation/confidence': mono8(np.zeros((9, 9), np.uint8), Header())}, camera_info(),
     'confidence'),
])
def test_what_cannot_be_labelled_is_said(changes, info, text):
    label = Labelling(PointsSettings(), None)
    with pytest.raises(ValueError, match=text):
        label(messages(**changes), info)


def test_an_organised_cloud_gets_the_labels_beside_what_it_has():
    labels, confidence, depth = pictures()
    camera = PinholeCamera(SIZE, 60.0, 60.0, 31.5, 23.5)
    points = np.concatenate([camera.rays * depth / 1000, depth[None] / 1000]).astype(np.float32)
    cloud = organised(points, None, labels, None, Header(frame_id='depth'))
    cloud.fields = cloud.fields[:4]  # without ours
    label = Labelling(PointsSettings(source='cloud'), None)
    out = label(messages(points=cloud), None)
    found = records(out)
    np.testing.assert_array_equal(found['label'], labels)
    np.testing.assert_array_equal(found['confidence'], confidence)
    np.testing.assert_array_equal(found['x'], points[0])
    cloud.height, cloud.width, cloud.row_step = 1, cloud.width * cloud.height, 0
    with pytest.raises(CloudError, match='not organised'):
        label(messages(points=cloud), None)


def test_a_lidar_with_other_axes_is_projected():
    """The lidar looks along x with z up and stands 10 cm above the camera."""
    turned = '0 -0.1 0 0.5 -0.5 0.5 0.5'
    label = Labelling(PointsSettings(source='lidar', extrinsic=turned), StaticTransform(turned))
    points = np.zeros((3, 1, 3), np.float32)
    points[:, 0, 0] = [6.0, 1.0, -0.1]   # left, on the camera's height
    points[:, 0, 1] = [6.0, -1.0, -0.1]  # right
    points[:, 0, 2] = [-6.0, 0.0, 0.1]  # behind
    cloud = organised(points, None, np.zeros((1, 3), np.uint8), None, Header())
    cloud.fields = cloud.fields[:4]
    labels = np.zeros(SIZE, np.uint8)
    labels[:, :32], labels[:, 32:] = 3, 4
    found = records(label(messages(points=cloud, segmentation=mono8(labels, Header())),
                          camera_info()))
    assert found['label'].tolist() == [[3, 4, 255]]
    assert found['confidence'][0, 2] == 0


@pytest.mark.parametrize('source', ['cloud', 'lidar'])
@pytest.mark.parametrize('size', [(1, 0), (0, 64), (48, 0)])
def test_a_cloud_without_points_is_passed_on(source, size):
    """It is what a lidar sends that sees nothing; no calibration and no transform are needed."""
    label = Labelling(PointsSettings(source=source), None)
    cloud = PointCloud2(header=Header(frame_id='lidar'), height=size[0], width=size[1])
    out = label(messages(points=cloud), None)
    assert (out.height, out.width, out.header.frame_id) == (*size, 'lidar')
    assert [field.name for field in out.fields] == ['label', 'confidence']


@pytest.mark.filterwarnings('error')
def test_points_that_are_no_numbers_are_seen_by_nobody_without_a_warning():
    still = '0 0 0 0 0 0'
    label = Labelling(PointsSettings(source='lidar', extrinsic=still), StaticTransform(still))
    points = np.full((3, 1, 4), [[[np.nan, np.inf, 3e38, 0]]], np.float32)
    points[2, 0, 3] = 5
    cloud = organised(points, None, np.zeros((1, 4), np.uint8), None, Header())
    cloud.fields = cloud.fields[:4]
    labels = mono8(np.full(SIZE, 6, np.uint8), Header())
    found = records(label(messages(points=cloud, segmentation=labels), camera_info()))
    assert found['label'].tolist() == [[255, 255, 255, 6]]


def test_a_camera_without_rays_is_said():
    still = '0 0 0 0 0 0'
    label = Labelling(PointsSettings(source='lidar', extrinsic=still), StaticTransform(still))
    cloud = organised(np.ones((3, 1, 1), np.float32), None, np.zeros((1, 1), np.uint8), None,
                      Header())
    cloud.fields = cloud.fields[:4]
    info = camera_info()
    info.k[0] = info.k[4] = 1e-40
    with pytest.raises(ValueError, match='no rays.*calibrate it again'):
        label(messages(points=cloud), info)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp('world')) as world:
        yield world


def task(world, space, wanted, timeout=PATIENCE):
    """Wait for a status of the node; return it."""
    def found(array):
        return [s for s in array.status
                if s.name == f'/{space}/label_points: points' and wanted(s)]
    return found(world.diagnostics.wait(found, timeout, first=len(world.diagnostics.items)))[0]


def publish_until(world, node, space, answers, make):
    """Publish sets of messages until the cloud of one comes; return it and the set."""
    limit, sent = time.monotonic() + PATIENCE, {}
    while time.monotonic() < limit:
        header = Header(frame_id='camera', stamp=world.now())
        given = make(header)
        sent[stamp_of(next(iter(given.values())))] = given
        for name, message in given.items():
            node[name].publish(message)
        try:
            cloud = answers.wait(lambda m: stamp_of(m) in sent, 0.4)
            return cloud, sent[stamp_of(cloud)]
        except AssertionError:
            continue
    raise AssertionError(f'no cloud; the node says:\n{space.text()}')


def test_clouds_over_a_real_middleware(world):
    running = world.start('points.label_points', 'arm')
    kinds = {'segmentation': Image, 'segmentation/confidence': Image, 'depth': Image,
             'camera_info': CameraInfo}
    ends = {name: world.node.create_publisher(kind, f'/arm/{name}', qos(True, False, 5))
            for name, kind in kinds.items()}
    clouds = world.listen(PointCloud2, '/arm/segmentation/points')
    labels, confidence, depth = pictures()

    def make(header):
        return {'camera_info': camera_info(header), 'segmentation': mono8(labels, header),
                'segmentation/confidence': mono8(confidence, header),
                'depth': depth_image(depth, header)}

    cloud, _ = publish_until(world, ends, running, clouds, make)
    assert cloud.header.frame_id == 'camera'
    np.testing.assert_array_equal(records(cloud)['label'], labels)
    assert read_xyz(cloud).shape == (3, 48 * 64)
    # A broken depth image is said, and the next good one is answered.
    header = Header(frame_id='camera', stamp=world.now())
    for name, message in {**make(header), 'depth': mono8(labels, header)}.items():
        ends[name].publish(message)
    task(world, 'arm', lambda s: s.level == b'\2' and '16UC1' in s.message)
    publish_until(world, ends, running, clouds, make)
    task(world, 'arm', lambda s: s.level == b'\0' and 'Hz' in s.message)
    assert running.signal(signal.SIGINT)[0] == 0


def test_a_topic_that_falls_silent_is_named(world):
    running = world.start('points.label_points', 'torn', source='cloud', use_confidence=False,
                          input_timeout=1.0)
    ends = {'segmentation': world.node.create_publisher(Image, '/torn/segmentation', 5),
            'points': world.node.create_publisher(PointCloud2, '/torn/points', 5)}
    clouds = world.listen(PointCloud2, '/torn/segmentation/points')

    def make(header):
        return {'segmentation': mono8(pictures()[0], header),
                'points': PointCloud2(header=header, height=1)}  # a sensor that sees nothing

    cloud, _ = publish_until(world, ends, running, clouds, make)
    assert cloud.width == 0
    limit, said = time.monotonic() + PATIENCE, ''
    while 'nothing came on points for' not in said:
        assert time.monotonic() < limit, said
        ends['segmentation'].publish(mono8(pictures()[0], Header(stamp=world.now())))
        try:
            said = task(world, 'torn', lambda s: s.level == b'\2', 0.3).message
        except AssertionError:
            continue
    assert 'nothing came on points for' in said and 'segmentation' not in said


def test_a_silent_topic_is_named(world):
    world.start('points.label_points', 'quiet', input_timeout=0.5, source='cloud')
    status = task(world, 'quiet', lambda s: s.level == b'\2')
    assert 'segmentation' in status.message and 'points' in status.message


def test_without_tf_and_extrinsic_it_says_what_to_do(world):
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('tf2_ros is here')
    code, text = world.start('points.label_points', 'blind', source='lidar').ends()
    assert code == 1 and 'parameter extrinsic' in text


def test_a_wrong_extrinsic_is_refused(world):
    code, text = world.start('points.label_points', 'bent', source='lidar',
                             extrinsic='1 2 3').ends()
    assert code == 2 and 'x y z roll pitch yaw' in text
