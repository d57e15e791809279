# SPDX-License-Identifier: Apache-2.0
"""
A small ROS world for tests: our nodes as processes, and this process as an independent observer.

Import it after ``pytest.importorskip`` for rclpy and onnx.
"""

import itertools
import os
from pathlib import Path
import signal
import threading
import time

from dgtl_core.predictor import Predictor
from dgtl_ros.image_codec import rgb8
from dgtl_ros.show.children import Child, end, isolated_environment
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from rcl_interfaces.srv import SetParametersAtomically
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tiny_onnx import write_tiny_onnx

PATIENCE = 60  # seconds for what takes one on an idle machine


class Running(Child):
    """A process of ours whose output goes to a file."""

    def __init__(self, module, arguments, environment, log):
        self._log = log
        with log.open('wb') as file:
            super().__init__(module, arguments, environment, file.fileno())

    def text(self):
        return self._log.read_text(encoding='utf-8', errors='replace')

    def wait_for_text(self, words, timeout=PATIENCE):
        limit = time.monotonic() + timeout
        while words not in self.text():
            assert self.process.poll() is None, f'ended too early:\n{self.text()}'
            assert time.monotonic() < limit, f'{words!r} is not in:\n{self.text()}'
            time.sleep(0.02)

    def ends(self, timeout=PATIENCE):
        """Wait for the end; return the exit code and the output."""
        return self.process.wait(timeout), self.text()

    def signal(self, number):
        """Send a signal; return the exit code and how many seconds the end took."""
        start = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE), time.monotonic() - start


class Inbox:
    """What came on one topic: (message, seconds by the wall clock)."""

    def __init__(self):
        self._changed = threading.Condition()
        self.items = []

    def __call__(self, message):
        with self._changed:
            self.items.append((message, time.time()))
            self._changed.notify_all()

    @property
    def messages(self):
        return [message for message, _ in list(self.items)]

    def wait(self, wanted, timeout=PATIENCE, first=0):
        """
        Wait until a message for which ``wanted`` is true has come; return the newest one.

        :param first: the number of messages at the start that are not looked at.
        """
        with self._changed:
            def found():
                return [m for m, _ in self.items[first:] if wanted(m)]
            assert self._changed.wait_for(found, timeout), f'not among {len(self.items)} messages'
            return found()[-1]

    def with_stamp(self, stamp, timeout=PATIENCE):
        return self.wait(lambda m: stamp_of(m) == stamp, timeout)


class World:
    """
    The observer, and everything it started; a context manager.

    ``space`` is a namespace, without slashes; each node of a test should have one of its own.
    """

    def __init__(self, folder):
        self._folder, self._numbers, self._children = folder, itertools.count(), []
        self._listeners = {}
        self.environment = {**isolated_environment(), 'ROS_LOG_DIR': str(folder / 'log')}
        self._before = {name: os.environ.get(name) for name in self.environment}

    def __enter__(self):
        os.environ.update(self.environment)
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self.node = Node('observer', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.diagnostics = self.listen(DiagnosticArray, '/diagnostics')
        return self

    def __exit__(self, *_):
        end(self._children)
        rclpy.shutdown(context=self._context)
        self._thread.join(PATIENCE)
        self.node.destroy_node()
        for name, value in self._before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def start(self, module, space, *arguments, extra=None, package='dgtl_ros.', **parameters):
        """
        Start a node of ours.

        :param arguments: of the command line; those after --ros-args last.
        :param extra: more environment variables.
        :param parameters: of the node; ``__`` in a name stands for a dot.
        """
        arguments = [*arguments, '--ros-args', '-r', f'__ns:=/{space}']
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else value
            arguments += ['-p', f'{name.replace("__", ".")}:={text}']
        log = self._folder / f'{next(self._numbers)}.log'
        self._children.append(
            Running(f'{package}{module}', map(str, arguments),
                    {**self.environment, **(extra or {})}, log))
        return self._children[-1]

    def listen(self, kind, topic, reliable=True, latched=False, depth=50):
        inbox = Inbox()
        self._listeners[inbox] = self.node.create_subscription(
            kind, topic, inbox, qos(reliable, latched, depth))
        return inbox

    def remove_listener(self, inbox):
        in_executor(self._executor, self.node.destroy_subscription, self._listeners.pop(inbox))

    def camera(self, space, kind=Image, reliable=True):
        topic = f'/{space}/image' + ('' if kind is Image else '/compressed')
        return self.node.create_publisher(kind, topic, qos(reliable, False, 5))

    def remove(self, publisher):
        in_executor(self._executor, self.node.destroy_publisher, publisher)

    def now(self):
        return self.node.get_clock().now().to_msg()

    def call(self, kind, name, request, timeout=PATIENCE):
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(timeout), f'no service {name}'
            future, done = client.call_async(request), threading.Event()
            future.add_done_callback(lambda _: done.set())
            assert done.wait(timeout), f'no answer from {name}'
            return future.result()
        finally:
            self.node.destroy_client(client)

    def set_parameters(self, space, **values):
        changes = [Parameter(n.replace('__', '.'), value=v) for n, v in values.items()]
        request = SetParametersAtomically.Request(
            parameters=[change.to_parameter_msg() for change in changes])
        service = f'/{space}/segmenter/set_parameters_atomically'
        return self.call(SetParametersAtomically, service, request).result

    def change_state(self, space, *labels, node='segmenter'):
        """Go through transitions of a node; return whether all of them succeeded."""
        request = ChangeState.Request()
        for label in labels:
            request.transition.label = label
            if not self.call(ChangeState, f'/{space}/{node}/change_state', request).success:
                return False
        return True

    def state(self, space):
        for last in (False, False, False, True):
            try:
                answer = self.call(GetState, f'/{space}/segmenter/get_state', GetState.Request(),
                                   PATIENCE / 4)
                return answer.current_state.label
            except AssertionError:  # a server may answer before it knows who asks
                if last:
                    raise

    def task(self, space, name, wanted=lambda values: True, timeout=PATIENCE):
        """Wait for a diagnostic status of the task; return it with its values as a mapping."""
        seen = len(self.diagnostics.items)
        def status_of(array):
            for status in array.status:
                if status.name == f'/{space}/segmenter: {name}':
                    status_values = {v.key: v.value for v in status.values}
                    if wanted(status_values):
                        return status, status_values
            return None
        return status_of(self.diagnostics.wait(status_of, timeout, seen))


def in_executor(executor, function, *arguments):
    """
    Call a function in the thread that spins, and wait for it.

    rclpy's executors fall over what another thread destroys while they wait for it.
    """
    done = threading.Event()
    executor.create_task(function, *arguments).add_done_callback(lambda _: done.set())
    assert done.wait(PATIENCE), f'{function} was not called'


def qos(reliable, latched, depth):
    return QoSProfile(
        depth=1 if latched else depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


class Link:
    """A camera of ours, the node in one namespace, and what it answers."""

    def __init__(self, world, space, running):
        self.world, self.space, self.running = world, space, running
        self.camera = world.camera(space)
        self.labels = world.listen(Image, f'/{space}/segmentation')

    def header(self):
        return Header(frame_id='camera_optical', stamp=self.world.now())

    def send(self, image, header=None):
        header = header or self.header()
        self.camera.publish(rgb8(image, header))
        return header

    def answer(self, image, build=rgb8):
        """
        Send a picture until there is an answer: the first ones may come before the match.

        When it returns, nothing is on its way any more, unless the node drops stale pictures.
        """
        limit, pause, sent = time.monotonic() + PATIENCE, 0.3, []
        while time.monotonic() < limit:
            message = build(image, self.header())
            self.camera.publish(message)
            sent.append(stamp_of(message))
            try:
                self.labels.wait(lambda m: stamp_of(m) in sent, pause)
                return self.labels.with_stamp(sent[-1])
            except AssertionError:
                pause *= 1.5  # a busy machine needs more
        raise AssertionError(f'no answer; the node says:\n{self.running.text()}')

    def send_until(self, message, words, timeout=PATIENCE):
        """Send a message until the node says those words: a single one may be lost."""
        limit = time.monotonic() + timeout
        while words not in self.running.text():
            assert time.monotonic() < limit, f'{words!r} is not in:\n{self.running.text()}'
            self.camera.publish(message)
            time.sleep(0.2)

    def close(self):
        self.world.remove(self.camera)


def picture(height=32, width=64, left=(16, 50, 90), right=(104, 200, 10)):
    """Draw what the tiny model labels 2 (confidence 50) on the left and 13 (200) on the right."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, :width // 2], image[:, width // 2:] = left, right
    return image


def slow_model(path, seconds):
    """Write the tiny model so slow that one inference takes about so many seconds here and now."""
    predict = Predictor.load(write_tiny_onnx(path, slow=2), device='cpu')
    predict(picture())
    start = time.monotonic()
    predict(picture())
    return write_tiny_onnx(path, slow=max(round(2 * seconds / (time.monotonic() - start)), 1))


def stamp_of(message):
    return message.header.stamp.sec, message.header.stamp.nanosec


def plane(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def modules_hook(folder: Path):
    """
    Return the environment of a process that writes its loaded modules to a file on SIGUSR1.

    :returns: the variables, and a function that takes the process and returns the module names.
    """
    out = folder / 'modules.txt'
    (folder / 'sitecustomize.py').write_text(
        'import os, signal, sys\n'
        'def write(*_):\n'
        f'    with open({str(out) + ".part"!r}, "w") as file:\n'
        '        file.write("\\n".join(sys.modules))\n'
        f'    os.replace({str(out) + ".part"!r}, {str(out)!r})\n'
        'signal.signal(signal.SIGUSR1, write)\n')

    def ask(process):
        out.unlink(missing_ok=True)
        process.send_signal(signal.SIGUSR1)
        limit = time.monotonic() + 10
        while not out.exists():
            assert time.monotonic() < limit, 'the process did not answer'
            time.sleep(0.02)
        return out.read_text().split('\n')

    paths = [str(folder), os.environ.get('PYTHONPATH', '')]
    return {'PYTHONPATH': os.pathsep.join(filter(None, paths))}, ask
