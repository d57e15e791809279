# SPDX-License-Identifier: Apache-2.0
"""
The node and the engine of its model: when it is built, what answers meanwhile, what is reported.

The node runs in this process, because its GPU and TensorRT are stand-ins; the builder is real.
"""

import dataclasses
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_core.classes import ClassSet
from dgtl_core.domain import features
from dgtl_core.domain_drives import Copies
from dgtl_core.domain_fit import fit
from dgtl_core.predictor import Segmentation
from dgtl_ros.image_codec import rgb8
from dgtl_ros.segment_node import SegmentNode
from dgtl_ros.show.children import isolated_environment
from diagnostic_msgs.msg import DiagnosticArray
from fake_gpu import engine_bytes
from fake_robot import fake_robot, street
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from ros_world import in_executor
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tiny_onnx import METADATA, write_tiny_onnx

pytestmark = pytest.mark.ros


class Robot:
    """A robot of fake_robot that runs the node; its camera shows streets."""

    def __init__(self, fake, parameters):
        self.fake, self.code = fake, None
        parameters = {'model_path': fake.model, 'device': 'cuda', 'backend': 'tensorrt',
                      'engine_cache_dir': fake.cache, 'warmup_iterations': 0, **parameters}
        arguments = [f'{name}:={value}' for name, value in parameters.items()]
        rclpy.init(args=['--ros-args', *(part for a in arguments for part in ('-p', a))])
        self.node = SegmentNode(self._leave)
        self.observer = rclpy.create_node('observer')
        self.model, self.labels, self._sent = {}, 0, 0
        self.observer.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self.observer.create_subscription(Image, 'segmentation', self._on_labels, 10)
        self._camera = self.observer.create_publisher(Image, 'image', 1)
        self._executor = SingleThreadedExecutor()
        for node in (self.node, self.observer):
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _leave(self, code):
        self.code = code

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _on_diagnostics(self, message):
        for status in message.status:
            if status.name.endswith(': model'):
                self.model = {'message': status.message, 'level': status.level,
                              'hardware': status.hardware_id,
                              **{v.key: v.value for v in status.values}}

    def _on_labels(self, _):
        self.labels += 1

    def until(self, condition, seconds=60):
        """Show streets until the condition holds."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, f'it did not happen; {self.model}'
            self._sent += 1
            self._camera.publish(rgb8(
                street(self._sent), Header(stamp=self.observer.get_clock().now().to_msg())))
            time.sleep(0.05)

    def rebuild(self):
        client = self.observer.create_client(Trigger, '/segmenter/rebuild_engine')
        assert client.wait_for_service(60)
        future, done = client.call_async(Trigger.Request()), threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(60)
        return future.result()

    def configure(self):
        in_executor(self._executor, self.node.trigger_configure)

    def close(self):
        in_executor(self._executor, self.node.trigger_shutdown)
        self.node.stop(1.0)
        rclpy.shutdown()
        self._thread.join(60)
        self._executor.shutdown()
        self.node.destroy_node()
        self.observer.destroy_node()


@pytest.fixture
def robot(tmp_path, monkeypatch):
    for name, value in {**isolated_environment(), 'ROS_LOG_DIR': str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    made = []

    def make(**parameters):
        made.append(Robot(fake, parameters))
        return made[-1]

    with fake_robot(tmp_path, monkeypatch) as fake:
        make.fake = fake
        yield make
        for one in made:
            one.close()
    assert fake.trt.alive == 0 and not fake.driver.memory


def test_the_engine_is_built_while_onnx_runtime_answers_and_again_when_told(robot):
    robot.fake.hold_builds()
    running = robot()
    running.until(lambda: running.model.get('engine') == 'building')
    assert running.model['backend'] == 'onnxruntime (CPU) while the engine is built'
    refused = running.rebuild()
    assert not refused.success and refused.message == 'the engine is being built already'
    running.until(lambda: running.labels > 3)
    robot.fake.release_builds()
    running.until(lambda: running.model['engine'] == 'built')
    assert running.model['trt_version'] == 'tensorrt 10.3.0'
    assert running.model['cuda_version'] == '12.6'
    assert running.model['engine_path'].startswith(str(robot.fake.cache))
    assert 'tensorrt 10.3.0 (Orin, fp16)' in running.model['message']
    before = running.labels
    running.until(lambda: running.labels > before + 3)
    assert robot.fake.trt.alive == 2, 'one engine with its context'

    robot.fake.hold_builds()
    answer = running.rebuild()
    assert answer.success and 'while the engine is built' in answer.message
    running.until(lambda: running.model['engine'] == 'building')
    before = running.labels
    running.until(lambda: running.labels > before + 3)
    robot.fake.release_builds()
    running.until(lambda: running.model['engine'] == 'built')
    assert len(robot.fake.builds) == 2 and robot.fake.trt.alive == 2


def test_an_engine_that_cannot_be_built_is_a_warning_and_may_be_tried_again(robot):
    robot.fake.builds_give(b'')
    running = robot()
    running.until(lambda: running.model.get('engine') == 'fallback')
    assert running.model['level'] == b'\x01' and 'no kernel for node 7' in running.model['message']
    robot.fake.builds_give(engine_bytes())
    assert running.rebuild().success
    running.until(lambda: running.model['engine'] == 'built')
    assert running.model['level'] == b'\x00'


def test_a_model_file_with_other_classes_is_refused_until_they_are_announced(robot):
    running = robot()
    running.until(lambda: running.model.get('engine') == 'built')
    other = dataclasses.replace(
        METADATA, classes=ClassSet.from_list('other', [
            {**entry, 'name': f'{entry["name"]}2'} for entry in METADATA.classes.to_list()]))
    write_tiny_onnx(robot.fake.model, metadata=other.to_json())
    before = running.node._predict
    answer = running.rebuild()
    assert not answer.success and 'by one with other classes' in answer.message
    assert 'deactivate, cleanup, configure and activate' in answer.message
    assert running.node._predict is before
    labels = running.labels
    running.until(lambda: running.labels > labels)


def test_pictures_are_judged_by_the_drives_that_the_new_file_knows(robot):
    running = robot()
    running.until(lambda: running.model.get('engine') == 'built')
    watch = running.node._streams[0].watch
    assert 'unfamiliar scene' not in watch.verdict.causes, 'the file knows no drives'
    noise = [np.random.default_rng(n).integers(0, 255, (32, 64, 3)).astype(np.uint8)
             for n in range(40)]
    flat = Segmentation(*np.full((2, 32, 64), 255, np.uint8))
    seen = np.stack([features(image, flat) for image in noise])
    domain = fit({'noise': seen}, {'fog': Copies(seen, seen + 1)}).to_dict()
    broken = dataclasses.replace(METADATA, domain={**domain, 'mean': None})
    write_tiny_onnx(robot.fake.model, metadata=broken.to_json())
    answer = running.rebuild()
    assert not answer.success and 'the "domain" of the model file is broken' in answer.message
    write_tiny_onnx(robot.fake.model,
                    metadata=dataclasses.replace(METADATA, domain=domain).to_json())
    assert running.rebuild().success
    running.until(lambda: 'unfamiliar scene' in watch.verdict.causes)


def test_rebuilding_needs_a_model_and_permission(robot):
    robot.fake.load(build='blocking').close()
    running = robot(engine_build='never', autostart='false')
    assert 'configure the node first' in running.rebuild().message
    running.configure()
    assert running.node._predict.engine.state == 'cached'
    assert 'engine_build is "never"' in running.rebuild().message
    assert len(robot.fake.builds) == 1


def test_where_none_can_be_built_any_more_the_engine_stays(robot, monkeypatch):
    robot.fake.load(build='blocking').close()
    running = robot(backend='auto', device='auto')
    running.until(lambda: running.model.get('engine') == 'cached')
    monkeypatch.setattr('dgtl_core.runtime.cuda._installed', lambda module: False)
    answer = running.rebuild()
    assert not answer.success and 'onnxruntime (CPU) would run the model' in answer.message
    before = running.labels
    running.until(lambda: running.labels > before)
    assert running.node._predict.engine.state == 'cached' and robot.fake.trt.alive == 2


def test_build_only_builds_and_ends(robot):
    running = robot(build_only='true')
    running.until(lambda: running.code is not None)
    assert running.code == 0 and len(robot.fake.builds) == 1
    assert robot.fake.left() == ['.engine', '.json'] and running.labels == 0
    assert running.node._state == 'inactive'


def test_build_only_fails_where_the_build_does(robot):
    robot.fake.builds_give(b'')
    running = robot(build_only='true')
    running.until(lambda: running.code is not None)
    assert running.code == 1 and 'no kernel for node 7' in running.node.model_error


@pytest.mark.parametrize('parameters, message', [
    ({'input_width': 128}, 'ask for 32x128'),
    ({'precision': 'fp16'}, "computes in fp32 and precision 'fp16' was asked for")])
def test_what_the_model_cannot_do_is_told_before_its_engine_is_built(robot, parameters, message):
    running = robot(engine_build='blocking', **parameters)
    running.until(lambda: running.code is not None)
    assert running.code == 1 and message in running.node.model_error
    assert not robot.fake.builds


def test_the_diagnostics_name_the_gpu(robot, monkeypatch):
    monkeypatch.setattr('dgtl_ros.segment_node.Device.read', lambda self: {'gpu': 'Orin'})
    running = robot(engine_build='never', backend='auto')
    running.until(lambda: running.model)
    assert running.model['hardware'] == 'Orin'
