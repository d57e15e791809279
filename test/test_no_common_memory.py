# SPDX-License-Identifier: Apache-2.0
"""
A camera and a node that cannot share memory: matched and silent, unless both use UDP alone.

What messages and docs say of it, tried with the installed Fast DDS. It needs root, for another
user and for a /dev/shm of its own, which is what a container without --ipc=host has.
"""

import os
from pathlib import Path
import subprocess
import sys
import tempfile

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_ros.show.children import isolated_environment

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 720, 1280
NOBODY = 65534
OWN_MEMORY = ('unshare', '--mount', 'sh', '-c', 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', 'sh')
# It changes its user after the imports: an interpreter may lie where others have no access.
COMMON = """
import os, sys, time
from dgtl_ros.dds_profile import choose
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
choose(sys.argv[1])
os.setuid(int(sys.argv[2]))
rclpy.init(args=[])
"""
CAMERA = COMMON + f"""
camera = Node('camera').create_publisher(Image, 'image', qos_profile_sensor_data)
picture = Image(height={HEIGHT}, width={WIDTH}, encoding='rgb8', step={3 * WIDTH})
picture.data.frombytes(bytes({3 * HEIGHT * WIDTH}))
while os.getppid() == int(sys.argv[3]):
    camera.publish(picture)
    time.sleep(0.1)
"""
LISTENER = COMMON + """
node, count = Node('listener'), 0
def take(message):
    global count
    count += 1
node.create_subscription(Image, 'image', take, qos_profile_sensor_data)
end = time.monotonic() + 60
while not node.count_publishers('image') and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
matched, end = node.count_publishers('image'), time.monotonic() + float(sys.argv[3])
while count < 3 and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
print(matched, count)
"""

pytestmark = [
    pytest.mark.ros, pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason='needs root for another user')]


def heard(profile, user, wrapper, patience):
    """Return how many publishers a listener finds, and how many pictures come, three at most."""
    with tempfile.TemporaryDirectory() as log:  # pytest's own folders are private
        os.chmod(log, 0o777)
        environment = {**os.environ, **isolated_environment(), 'PYTHONPATH': str(ROOT),
                       'ROS_LOG_DIR': log, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
        for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
            environment.pop(name, None)
        camera = subprocess.Popen(
            [sys.executable, '-c', CAMERA, profile, '0', str(os.getpid())], env=environment)
        try:
            done = subprocess.run(
                [*wrapper, sys.executable, '-c', LISTENER, profile, str(user), str(patience)],
                env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=150)
        finally:
            camera.kill()
            camera.wait()
        return tuple(map(int, done.stdout.split()))


@pytest.fixture(scope='module')
def own_memory():
    if subprocess.run([*OWN_MEMORY, 'true'], check=False, capture_output=True).returncode:
        pytest.skip('no mount namespace can be made here')
    return OWN_MEMORY


def test_another_user_hears_nothing_through_shared_memory():
    assert heard('large_images', NOBODY, (), 5) == (1, 0)


def test_another_container_hears_nothing_through_shared_memory(own_memory):
    assert heard('large_images', 0, own_memory, 5) == (1, 0)


def test_by_udp_both_hear_the_camera(own_memory):
    assert heard('udp', NOBODY, own_memory, 60) == (1, 3)


def test_with_common_memory_a_user_hears_itself():
    assert heard('large_images', 0, (), 60) == (1, 3)
