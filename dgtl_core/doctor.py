# SPDX-License-Identifier: Apache-2.0
"""
Does this computer have what the library and the node need? Each answer with what mends it.

Nothing is changed, and no engine library is loaded: what is asked are files, the environment, the
lists of installed packages, the driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import importlib.metadata
import importlib.util
import math
import os
from pathlib import Path
import platform
import shutil
import sys
import sysconfig
from typing import NamedTuple

GOOD, ABSENT, MEND = 'good', 'absent', 'to mend'
_PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_OLD_FAST_DDS = ('humble', 'iron', 'jazzy')  # these read the first variable
_SEGMENT_MIB = 64  # shared memory of one process, as config/fastdds_large_images.xml asks for
_DISK_GIB = 2.0


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    state: str  # GOOD; ABSENT: not there, and needed only for what ``mend`` says; MEND
    found: str
    mend: str = ''  # a command, or what to do


def examine(environment: Mapping[str, str] | None = None,
            shared_memory: Path = Path('/dev/shm'),
            system: Path = Path('/usr/lib/python3/dist-packages')) -> Iterator[Finding]:
    """
    Look at everything, one after the other.

    :param environment: of the process; None: this one's.
    :param shared_memory: where the system keeps it.
    :param system: where the distribution keeps its Python packages.
    """
    environment = os.environ if environment is None else environment
    yield _python()
    yield _pip(environment)
    yield _numpy(environment, system)
    yield _opencv(_numpy_wanted(environment, system))
    yield _onnxruntime()
    yield _model()
    yield _gpu()
    yield _tensorrt()
    yield _optional('torch', 'torch', 'to run checkpoints, train and export',
                    'pip install "dgtl_ros[train,export]"')
    yield _optional('rosbags', 'rosbags', 'to read and write bags', 'pip install rosbags')
    yield _optional('PyAV', 'av', 'to write videos', 'pip install av')
    yield _optional('rerun', 'rerun-sdk', 'to write .rrd files', 'pip install rerun-sdk')
    yield _ros(environment)
    yield _middleware(environment)
    yield _profile(environment)
    yield _shared_memory(shared_memory)
    yield _users(environment, shared_memory)
    yield _disk()


def _python() -> Finding:
    return Finding('Python', GOOD, f'{platform.python_version()} ({sys.executable})')


def _pip(environment: Mapping[str, str]) -> Finding:
    """Look whether pip, and rosdep with it, may install anything into this Python."""
    own = sys.prefix != sys.base_prefix
    if own or not Path(sysconfig.get_path('stdlib'), 'EXTERNALLY-MANAGED').exists():
        return Finding('pip', GOOD, 'an environment of its own' if own else 'may install here')
    sourced = environment.get('ROS_DISTRO', '')
    rosdep = '; or, at your own risk, PIP_BREAK_SYSTEM_PACKAGES=1 rosdep install --from-paths ' \
             'src -i -y' if sourced else ''
    return Finding(
        'pip', ABSENT, 'the distribution lets neither pip nor rosdep install into its Python',
        'for every pip command below, first: python3 -m venv --system-site-packages ~/dgtl_venv '
        f'&& . ~/dgtl_venv/bin/activate{rosdep}')


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ''


def _numpy_wanted(environment: Mapping[str, str], system: Path) -> str:
    """Return what pip is to be asked for: a ROS 2 built for NumPy 1 needs one."""
    built = [found.version for found in importlib.metadata.distributions(
        name='numpy', path=[str(system)])]
    old = environment.get('ROS_DISTRO') and any(version.startswith('1.') for version in built)
    return 'numpy>=1.26,<2' if old else 'numpy>=1.26'


def _numpy(environment: Mapping[str, str], system: Path) -> Finding:
    version, wanted = _version('numpy'), _numpy_wanted(environment, system)
    mend = f'pip install "{wanted}"'
    if not version:
        return Finding('numpy', MEND, 'not installed', mend)
    numbers = tuple(int(part) for part in version.split('.')[:2] if part.isdecimal())
    if '<2' in wanted and numbers >= (2, 0):
        return Finding(
            'numpy', MEND, f'{version}, but the messages of ROS 2 {environment["ROS_DISTRO"]} and '
            'the OpenCV of this system are built for NumPy 1',
            f"{mend}; keep it so: printf 'numpy<2\\n' > ~/numpy1.txt, then pip install -c "
            '~/numpy1.txt ...')
    return Finding('numpy', *((GOOD, version) if numbers >= (1, 26) else (MEND, version, mend)))


def _opencv(numpy_wanted: str) -> Finding:
    mend = 'pip install opencv-python-headless'
    if importlib.util.find_spec('cv2') is None:
        return Finding('OpenCV', MEND, 'not installed', mend)
    try:
        import cv2
    except ImportError as error:  # the build with windows needs libraries of the system
        if 'numpy' in str(error):
            mend = f'pip install "{numpy_wanted}"'
        return Finding('OpenCV', MEND, f'cannot be imported ({error})', mend)
    backends = [cv2.videoio_registry.getBackendName(b)
                for b in cv2.videoio_registry.getStreamBackends()]
    found = f'{cv2.__version__}, videos by {", ".join(backends) or "nothing"}'
    if not {'FFMPEG', 'GSTREAMER'} & set(backends):
        return Finding('OpenCV', MEND, found, mend)
    return Finding('OpenCV', GOOD, found)


def _onnxruntime() -> Finding:
    for distribution in ('onnxruntime-gpu', 'onnxruntime'):
        version = _version(distribution)
        if version:
            break
    if importlib.util.find_spec('onnxruntime') is None:
        return Finding('ONNX Runtime', MEND, 'not installed', 'pip install onnxruntime')
    from dgtl_core.runtime.onnx import able_providers

    return Finding('ONNX Runtime', GOOD, f'{version}, runs on {", ".join(able_providers())}')


def _model() -> Finding:
    from dgtl_core.model_file import ModelError
    from dgtl_core.predictor import default_model

    try:
        return Finding('embedded model', GOOD, str(default_model()))
    except ModelError as error:
        return Finding('embedded model', MEND, str(error), 'install the package again')


def _gpu() -> Finding:
    from dgtl_core.runtime.cuda import cuda_fault, driver_version

    fault = cuda_fault('auto')
    if not fault:
        return Finding('GPU', GOOD, f'CUDA {driver_version()}')
    if 'cuda-python' in fault:
        return Finding('GPU', MEND, fault, 'pip install cuda-python')
    if 'cannot be loaded' in fault:
        return Finding('GPU', ABSENT, fault, 'to use one, install the driver of NVIDIA; models '
                                             'run on the CPU meanwhile')
    return Finding('GPU', MEND, fault, 'reinstall the driver of NVIDIA, then restart')


def _tensorrt() -> Finding:
    from dgtl_core.runtime.tensorrt_module import installed_module

    module = installed_module()
    if not module:
        return Finding('TensorRT', ABSENT, 'not installed',
                       'for the fastest models on a GPU: pip install tensorrt, on a Jetson sudo '
                       'apt install python3-libnvinfer')
    return Finding('TensorRT', GOOD, f'{module} {_version(module.replace("_", "-"))}'.strip())


def _optional(name: str, distribution: str, purpose: str, command: str) -> Finding:
    version = _version(distribution)
    if version:
        return Finding(name, GOOD, version)
    return Finding(name, ABSENT, 'not installed', f'{purpose}: {command}')


def _ros(environment: Mapping[str, str]) -> Finding:
    distribution = environment.get('ROS_DISTRO', '')
    installed = importlib.util.find_spec('rclpy') is not None
    if installed:
        return Finding('ROS 2', GOOD, distribution or f'wheels, rclpy {_version("ros-rclpy")}')
    if distribution:
        return Finding('ROS 2', MEND, f'{distribution} is sourced, but this Python has no rclpy',
                       f'use the Python of the distribution: /usr/bin/python3, or a virtual '
                       f'environment made with --system-site-packages after . /opt/ros/'
                       f'{distribution}/setup.sh')
    return Finding('ROS 2', ABSENT, 'neither sourced nor installed',
                   'for the node: . /opt/ros/jazzy/setup.sh, or pip install "dgtl_ros[ros]"')


def _middleware(environment: Mapping[str, str]) -> Finding:
    chosen = environment.get('RMW_IMPLEMENTATION', '')
    if not chosen:
        return Finding('middleware', GOOD, 'the default of ROS 2 (RMW_IMPLEMENTATION is not set)')
    return Finding('middleware', GOOD, chosen)


def _profile(environment: Mapping[str, str]) -> Finding:
    name = 'DDS profile'
    unused = _without_fast_dds(name, environment)
    if unused:
        return unused
    old = environment.get('ROS_DISTRO') in _OLD_FAST_DDS or _version('ros-fastdds').startswith('2')
    variable = _PROFILES[0 if old else 1]
    path = environment.get(variable, '')
    profile = _profile_file()
    mend = f'export {variable}={profile or "<share of dgtl_ros>/config/fastdds_large_images.xml"}'
    if not path:
        return Finding(name, MEND, f'{variable} is not set, so Fast DDS has 0.5 MB of shared '
                                   'memory and loses large pictures',
                       f'{mend}, for the camera driver too (the launch file does it for what it '
                       'starts)')
    if not Path(path).is_file():
        return Finding(name, MEND, f'{variable} is {path}, and there is no such file', mend)
    return Finding(name, GOOD, f'{variable}={path}')


def _without_fast_dds(name: str, environment: Mapping[str, str]) -> Finding | None:
    """Answer for what concerns Fast DDS alone, where nothing uses it."""
    if environment.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp') not in (
            '', 'rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp'):
        return Finding(name, GOOD, 'not needed: it is for Fast DDS')
    if importlib.util.find_spec('rclpy') is None:
        return Finding(name, ABSENT, 'there is no ROS 2', 'for the node: see ROS 2')
    return None


def _profile_file() -> Path | None:
    parents = Path(__file__).resolve().parents
    places = [parents[1], *(parent / 'share' / 'dgtl_ros' for parent in parents[1:])]
    return next((found for place in places if (
        found := place / 'config' / 'fastdds_large_images.xml').is_file()), None)


def _shared_memory(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        return Finding('shared memory', MEND, f'{folder}: {error.strerror}',
                       'sudo mount -t tmpfs tmpfs /dev/shm')
    if free < 4 * _SEGMENT_MIB:  # camera, node, and two more
        return Finding('shared memory', MEND, f'{free} MiB free in {folder}',
                       'in Docker: docker run --shm-size=512m; elsewhere: sudo mount -o '
                       'remount,size=512m /dev/shm, or remove what stopped programs left there')
    return Finding('shared memory', GOOD, f'{free} MiB free')


def _users(environment: Mapping[str, str], folder: Path) -> Finding:
    unused = _without_fast_dds('users', environment)
    if unused:
        return unused
    others = set()
    for pattern in ('fastrtps_*', 'fastdds_*', 'sem.fastrtps_*', 'sem.fastdds_*'):
        for path in folder.glob(pattern):
            try:
                others.add(path.stat().st_uid)
            except OSError:  # gone meanwhile
                continue
    others.discard(os.getuid())
    if others:
        return Finding(
            'users', MEND, 'Fast DDS of another user (uid '
            f'{", ".join(map(str, sorted(others)))}) has shared memory that this one cannot read',
            'run camera driver and node as the same user, or both with config/fastdds_udp.xml')
    return Finding('users', GOOD, 'no shared memory of another user')


def _disk() -> Finding:
    from dgtl_core.engine.options import EngineOptions
    from dgtl_core.zoo.cache import weights_folder
    try:
        folders = {'engines': Path(EngineOptions.cache_dir).expanduser(),
                   'weights': weights_folder()}
    except (RuntimeError, ValueError) as error:  # this user has no home
        return Finding('disk', MEND, str(error), 'export XDG_CACHE_HOME=/a/folder/of/yours')
    free = math.inf
    for folder in folders.values():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(there, os.W_OK):
            return Finding('disk', MEND, f'nothing can be written to {there}',
                           f'sudo chown $USER {there}')
        free = min(free, shutil.disk_usage(there).free / 2**30)
    places = ' and '.join(f'{what} in {folder}' for what, folder in folders.items())
    if free < _DISK_GIB:
        return Finding('disk', MEND, f'{free:.1f} GiB free for {places}',
                       f'make room: at least {_DISK_GIB:g} GiB')
    return Finding('disk', GOOD, f'{free:.0f} GiB free for {places}')
