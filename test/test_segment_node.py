# SPDX-License-Identifier: Apache-2.0
"""What the node does, picture by picture and transition by transition, as a process."""

from functools import partial
import json
import os
from pathlib import Path
import signal
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.pictures import read_image
from dgtl_ros.image_codec import mono8, rgb8, to_rgb
from rcl_interfaces.srv import GetParameters
from rclpy.serialization import serialize_message
from ros_world import Link, PATIENCE, picture, plane, stamp_of
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import SetBool, Trigger
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).resolve().parent.parent / 'config' / 'segment.yaml'


@pytest.fixture(scope='module')
def link(world, tiny_model, tmp_path_factory):
    """The node with the tiny model and the parameter file that is installed."""
    snapshots = tmp_path_factory.mktemp('snapshots')
    running = world.start('segment_node', 'one', '--ros-args', '--params-file', CONFIG,
                          model_path=tiny_model, snapshot_dir=snapshots, max_image_age=0.0)
    link = Link(world, 'one', running)
    link.answer(picture())
    yield link
    link.close()
    code, _ = running.signal(signal.SIGINT)
    assert code == 0, running.text()


# --- what one node does, picture by picture ------------------------------------------------------


@pytest.mark.parametrize('size', [(32, 64), (48, 36), (720, 1280)])
def test_labels_have_header_size_and_place_of_the_picture(link, size):
    message = link.answer(picture(*size))
    assert message.header.frame_id == 'camera_optical'
    assert (message.encoding, message.height, message.width) == ('mono8', *size)
    assert message.step == size[1] and message.is_bigendian == 0
    labels = plane(message)
    assert labels[0, 0] == labels[-1, 1] == 2 and labels[0, -1] == labels[-1, -2] == 13


def test_colour_order_of_the_camera_is_respected(link):
    header = link.header()
    message = rgb8(np.ascontiguousarray(picture()[:, :, ::-1]), header)
    message.encoding = 'bgr8'
    link.camera.publish(message)
    labels = plane(link.labels.with_stamp(stamp_of(message)))
    assert labels[0, 0] == 2 and labels[0, -1] == 13


def test_bad_messages_are_counted_and_never_fatal(link):
    link.world.call(Trigger, '/one/segmenter/reset_stats', Trigger.Request())
    unknown, short, empty, vast = (rgb8(picture(), link.header()) for _ in range(4))
    unknown.encoding = 'yuv9'
    short.data = short.data[:100]
    empty.height = 0
    vast.height = vast.width = vast.step = 2**31
    no_text = serialize_message(unknown).replace(b'yuv9', b'\xff\xfe\xfd\xfc')
    for number, message in enumerate((unknown, short, empty, vast, no_text), 1):
        link.camera.publish(message)
        # One after the other, so that none of them is superseded.
        link.world.task('one', 'input', lambda v, n=number: v['decode_errors'] == str(n))
    link.answer(picture())
    text = link.running.text()
    assert "image encoding 'yuv9' is not supported: use one of ['bayer_bggr16'" in text
    assert 'Traceback' not in text


def test_a_picture_without_a_stamp_is_no_old_picture(link):
    link.send(picture(), Header(frame_id='none'))
    assert link.labels.wait(lambda m: m.header.frame_id == 'none')


def test_stale_pictures_are_dropped_counted_and_explained(link):
    link.world.call(Trigger, '/one/segmenter/reset_stats', Trigger.Request())
    assert link.world.set_parameters('one', max_image_age=0.5).successful
    old = link.header()
    old.stamp.sec -= 3
    link.send(picture(), old)
    assert link.world.task('one', 'input', lambda v: v['dropped_stale'] == '1')[0].level == b'\x01'
    link.running.wait_for_text('more than max_image_age (0.5 s)')
    assert stamp_of(link.labels.messages[-1]) != (old.stamp.sec, old.stamp.nanosec)
    assert link.world.set_parameters('one', on_stale='process').successful
    link.send(picture(), old)
    assert link.labels.with_stamp((old.stamp.sec, old.stamp.nanosec))
    assert link.world.set_parameters('one', on_stale='drop', max_image_age=0.0).successful


def test_threshold_and_unlabelled_id_change_at_run_time(link):
    assert link.world.set_parameters('one', confidence_threshold=0.5, unlabeled_id=200).successful
    labels = plane(link.answer(picture()))
    assert labels[0, 0] == 200 and labels[0, -1] == 13
    assert link.world.set_parameters('one', confidence_threshold=0.0, unlabeled_id=255).successful
    assert plane(link.answer(picture()))[0, 0] == 2


def test_wrong_parameters_are_refused_as_a_whole_with_the_reason(link):
    result = link.world.set_parameters('one', unlabeled_id=7, on_stale='perhaps')
    assert not result.successful and "on_stale must be one of ['drop', 'process']" in result.reason
    assert plane(link.answer(picture()))[0, 0] == 2
    result = link.world.set_parameters('one', model_path='other.onnx')
    assert not result.successful and 'cleanup' in result.reason


def test_enable_service_stops_and_starts_inference(link):
    assert link.world.call(SetBool, '/one/segmenter/enable', SetBool.Request(data=False)).success
    dropped = stamp_of(Image(header=link.send(picture())))
    assert link.world.task('one', 'input', lambda v: int(v['dropped_disabled']) > 0)
    assert link.world.call(SetBool, '/one/segmenter/enable', SetBool.Request(data=True)).success
    link.answer(picture())
    assert dropped not in map(stamp_of, link.labels.messages)


def test_class_map_reaches_who_comes_late(link):
    inbox = link.world.listen(String, '/one/segmentation/class_map', latched=True)
    data = json.loads(inbox.wait(lambda m: True).data)
    assert ClassSet.from_list('x', data).names == CITYSCAPES.names
    assert data[0] == {'id': 0, 'name': 'road', 'color': [128, 64, 128]}


def test_pictures_for_people_come_when_somebody_subscribes(link):
    image = picture(64, 128)
    seen = {name: link.world.listen(kind, f'/one/{name}', depth=1) for name, kind in (
        ('segmentation/confidence', Image), ('segmentation/overlay', Image),
        ('segmentation/color', Image), ('segmentation/overlay/compressed', CompressedImage),
        ('segmenter/debug/processing_time_ms', Float64),
        ('segmenter/debug/pipeline_latency_ms', Float64))}
    limit = time.monotonic() + PATIENCE
    while not all(inbox.items for inbox in seen.values()):
        assert time.monotonic() < limit, {name: len(inbox.items) for name, inbox in seen.items()}
        header = link.answer(image).header
        time.sleep(0.12)  # the overlay is limited to 10 Hz
    got = {name: inbox.messages[-1] for name, inbox in seen.items()}
    confidence = got['segmentation/confidence']
    assert plane(confidence)[0, 0] == 50 and plane(confidence)[0, -1] == 200
    assert confidence.header.frame_id == header.frame_id
    color = to_rgb(got['segmentation/color'])
    assert tuple(color[0, 0]) == CITYSCAPES[2].color and color.shape == image.shape
    overlay = to_rgb(got['segmentation/overlay']).astype(int)
    np.testing.assert_allclose(overlay[0, 0], (image[0, 0] + np.array(CITYSCAPES[2].color)) / 2,
                               atol=1)
    packed = to_rgb(got['segmentation/overlay/compressed']).astype(int)
    assert np.abs(packed[10, 10] - overlay[10, 10]).max() < 12
    assert 0 < got['segmenter/debug/processing_time_ms'].data < 5000
    assert 0 < got['segmenter/debug/pipeline_latency_ms'].data < 10000


def test_snapshot_holds_picture_labels_and_statistics(link):
    image = picture(40, 80)
    stamp = link.answer(image).header.stamp
    result = link.world.call(Trigger, '/one/segmenter/snapshot', Trigger.Request())
    folder = Path(result.message)
    assert result.success and folder.name == str(stamp.sec * 10**9 + stamp.nanosec)
    np.testing.assert_array_equal(read_image(folder / 'image.png'), image)
    labels = cv2.imread(str(folder / 'labels.png'), cv2.IMREAD_UNCHANGED)
    assert labels[0, 0] == 2 and labels.shape == (40, 80)
    statistics = json.loads((folder / 'statistics.json').read_text())
    assert statistics['model'] == 'tiny' and statistics['counts']['published'] > 0
    assert {p.name for p in folder.iterdir()} == {
        'image.png', 'labels.png', 'confidence.png', 'overlay.jpg', 'statistics.json'}


def test_snapshot_that_cannot_be_written_says_where(link, tmp_path):
    (tmp_path / 'file').touch()
    assert link.world.set_parameters('one', snapshot_dir=str(tmp_path / 'file')).successful
    link.answer(picture())
    result = link.world.call(Trigger, '/one/segmenter/snapshot', Trigger.Request())
    assert not result.success and str(tmp_path / 'file') in result.message
    assert link.world.set_parameters('one', snapshot_dir=str(tmp_path)).successful


def test_diagnostics_know_model_camera_and_rates(link):
    link.answer(picture())
    status, model = link.world.task('one', 'model')
    assert status.name == '/one/segmenter: model' and status.level == b'\x00'
    assert model['name'] == 'tiny' and model['num_classes'] == '19' and len(model['sha256']) == 12
    values = link.world.task('one', 'input', lambda v: v['width'] == '64')[1]
    assert (values['topic'], values['qos_match'], values['publishers']) == (
        '/one/image', 'True', '1')
    assert float(link.world.task('one', 'inference')[1]['latency_ms_p50']) > 0


def test_camera_comes_back_with_other_reliability_size_and_encoding(link):
    world = link.world
    link.close()
    assert world.task('one', 'input', lambda v: v['publishers'] == '0')
    link.camera = world.camera('one', reliable=False)
    answer = link.answer(np.full((24, 18), 40, np.uint8), mono8)
    assert (plane(answer) == 5).all() and (answer.height, answer.width) == (24, 18)
    values = world.task('one', 'input', lambda v: v['qos_offered'] == 'best_effort')[1]
    assert (values['qos_asked'], values['encoding']) == ('best_effort', 'mono8')


def test_quality_of_service_follows_the_parameters_at_each_configuration(world, tiny_model):
    overridden = 'qos_overrides./qos/image.subscription.depth'
    offered = world.node.get_publishers_info_by_topic
    with world.start('segment_node', 'qos', '--ros-args', '-p', f'{overridden}:=3',
                     autostart=False, model_path=tiny_model) as node:
        for reliability in ('reliable', 'best_effort', 'reliable'):
            assert world.set_parameters('qos', qos__output__reliability=reliability).successful
            assert world.change_state('qos', 'configure', 'activate')
            until(lambda wanted=reliability: [
                info.qos_profile.reliability.name.lower() for info in offered('/qos/segmentation')
            ] == [wanted])
            assert world.change_state('qos', 'deactivate', 'cleanup')
        answer = world.call(GetParameters, '/qos/segmenter/get_parameters',
                            GetParameters.Request(names=[overridden]))
        assert answer.values[0].integer_value == 3 and 'Traceback' not in node.text()


def test_lifecycle_edges(world, tiny_model):
    labels = world.listen(Image, '/edges/segmentation')
    with world.start('segment_node', 'edges', autostart=False,
                     max_image_age=0.0, model_path='missing.onnx') as node:
        go, state = partial(world.change_state, 'edges'), partial(world.state, 'edges')
        assert state() == 'unconfigured'
        assert not go('activate'), 'not from unconfigured'
        assert not go('configure') and state() == 'unconfigured'
        node.wait_for_text("no model file at 'missing.onnx'")
        until(lambda: world.task('edges', 'model')[0].level == b'\x02')
        assert world.set_parameters('edges', model_path=str(tiny_model)).successful
        for _ in range(3):
            assert go('configure') and state() == 'inactive'
            assert go('activate') and state() == 'active'
            assert go('deactivate') and state() == 'inactive'
            assert go('activate', 'deactivate')
            until(lambda: world.node.count_publishers('/edges/segmentation') == 1)
            assert go('cleanup') and state() == 'unconfigured'
        assert not go('deactivate')
        assert go('configure', 'activate')
        link = Link(world, 'edges', node)
        short = rgb8(picture(), link.answer(picture()).header)
        short.data = short.data[:100]
        link.send_until(
            short, 'image is truncated: 64x32 rgb8 with step 192 needs 6144 bytes, got '
            '100; check the camera driver')
        assert go('deactivate')
        until(lambda: not link.camera.get_subscription_count())
        unheard = stamp_of(Image(header=link.send(picture())))
        assert go('activate')
        link.answer(picture())
        assert unheard not in map(stamp_of, labels.messages)
        assert go('shutdown') and state() == 'finalized'
        link.close()
        assert node.signal(signal.SIGTERM)[0] == 0
        assert 'Traceback' not in node.text()


def test_repeated_configuration_leaks_nothing(world, tiny_model):
    with world.start('segment_node', 'leaks', autostart=False, model_path=tiny_model) as node:
        sizes = []
        for _ in range(12):
            assert world.change_state('leaks', 'configure', 'activate', 'deactivate', 'cleanup')
            status = Path(f'/proc/{node.process.pid}/status').read_text()
            sizes.append((
                int(status.partition('Threads:')[2].split()[0]),
                len(os.listdir(f'/proc/{node.process.pid}/fd'))))
        # What is just ending may still be there once.
        assert (np.min(sizes[-3:], axis=0) <= np.max(sizes[1:4], axis=0)).all(), sizes


def test_failing_inferences_are_counted_and_deactivate_if_told(world, tmp_path):
    model = write_failing_onnx(tmp_path / 'fails.onnx')
    with world.start('segment_node', 'fails', model_path=model, max_consecutive_errors=3,
                     on_inference_error='deactivate', max_image_age=0.0) as node:
        link = Link(world, 'fails', node)

        def fail(total, in_a_row):
            link.send(picture(right=(255, 0, 0)))
            return world.task('fails', 'inference', lambda v: (
                v['errors_total'], v['consecutive_errors']) == (str(total), str(in_a_row)))

        link.answer(picture())
        fail(1, 1)
        node.wait_for_text('inference failed (1 in a row)')
        fail(2, 2)
        link.answer(picture())
        values = world.task('fails', 'inference', lambda v: v['consecutive_errors'] == '0')[1]
        assert values['errors_total'] == '2' and 'Gather' in values['last_error']
        fail(3, 1)
        fail(4, 2)
        assert world.state('fails') == 'active'
        link.send(picture(right=(255, 0, 0)))  # after the third there are no statuses any more
        node.wait_for_text('3 inferences in a row failed: deactivating')
        assert world.state('fails') == 'inactive'
        until(lambda: world.task('fails', 'model')[0].level == b'\x02')
        assert 'deactivating' in world.task('fails', 'model')[0].message
        assert world.change_state('fails', 'activate')
        link.answer(picture())
        fail(6, 1)
        until(lambda: world.task('fails', 'model')[0].level == b'\x00')
        link.close()
        assert node.signal(signal.SIGINT)[0] == 0


def until(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, 'it did not happen'
        time.sleep(0.05)


def write_failing_onnx(path):
    """Like the tiny model, but it fails where any red is 200 or more."""
    import onnx
    from onnx import helper, numpy_helper, TensorProto
    model = onnx.load(str(write_tiny_onnx(path)))
    graph = model.graph
    graph.node.remove(next(node for node in graph.node if node.output[0] == 'labels'))
    graph.initializer.extend([
        numpy_helper.from_array(np.array(200, np.int32), 'limit'),
        numpy_helper.from_array(np.zeros(1, np.int32), 'nothing')])
    graph.node.extend([
        helper.make_node('Div', ['red_number', 'limit'], ['over']),
        helper.make_node('ReduceMax', ['over'], ['index'], keepdims=0),
        helper.make_node('Gather', ['nothing', 'index'], ['zero_number'], axis=0),
        helper.make_node('Add', ['labels_number', 'zero_number'], ['checked']),
        helper.make_node('Cast', ['checked'], ['labels'], to=TensorProto.UINT8)])
    onnx.save(model, str(path))
    return path


def test_mounted_grouped_and_masked_outputs_equal_those_done_by_hand(
        world, tiny_model, tmp_path):
    """The camera lies on its side, shows the bonnet below, and two classes are one group."""
    (tmp_path / 'groups.yaml').write_text('far: [building]\nnear: [car, truck]\n')
    mask = np.zeros((64, 32), np.uint8)
    mask[60:] = 255
    cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    running = world.start(
        'segment_node', 'side', model_path=tiny_model, max_image_age=0.0, rotation=90,
        class_groups=tmp_path / 'groups.yaml', ego_mask=tmp_path / 'mask.png')
    classes = world.listen(String, '/side/segmentation/class_map', latched=True)
    sure = world.listen(Image, '/side/segmentation/confidence')
    link = Link(world, 'side', running)
    upright = picture()  # building on the left, car on the right
    message = link.answer(cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    by_hand = cv2.rotate(np.repeat([[0] * 32 + [1] * 32], 32, 0).astype(np.uint8),
                         cv2.ROTATE_90_COUNTERCLOCKWISE)
    by_hand[60:] = 255
    np.testing.assert_array_equal(plane(message), by_hand)
    assert [c['name'] for c in json.loads(classes.wait(lambda _: True).data)] == ['far', 'near']
    confidence = plane(sure.wait(lambda m: stamp_of(m) == stamp_of(message)))
    assert (confidence[60:] == 0).all() and (confidence[:60] > 0).all()
    link.close()
    assert running.signal(signal.SIGINT)[0] == 0
