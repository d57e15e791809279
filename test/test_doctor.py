# SPDX-License-Identifier: Apache-2.0
"""``dgtl doctor``: what is good, what is absent, what is to mend and how."""

import builtins
import json
import os
from pathlib import Path
import shutil
import sys

from dgtl_core import doctor
from dgtl_core.cli.main import main
from dgtl_core.doctor import ABSENT, examine, GOOD, MEND
import pytest


def look(name, environment=None, **options):
    return next(f for f in examine(environment or {}, **options) if f.name == name)


@pytest.fixture
def with_ros(monkeypatch):
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, 'find_spec',
                        lambda name, *rest: object() if name == 'rclpy' else real(name, *rest))


def test_this_computer_runs_the_tests(capsys):
    code = main(['doctor', '--json'])
    found = json.loads(capsys.readouterr().out)
    states = {entry['name']: entry['state'] for entry in found}
    assert all(states[name] == GOOD for name in (
        'Python', 'numpy', 'OpenCV', 'ONNX Runtime', 'embedded model'))
    assert code == (MEND in states.values())
    assert all(entry['mend'] for entry in found if entry['state'] != GOOD)


def test_for_people_each_fault_has_what_mends_it(capsys, monkeypatch):
    monkeypatch.setattr('dgtl_core.cli.doctor.examine', lambda: iter([
        doctor.Finding('Python', GOOD, '3.12'),
        doctor.Finding('disk', MEND, '0.1 GiB free', 'make room')]))
    assert main(['doctor']) == 1
    assert capsys.readouterr().out.splitlines() == [
        'good     Python          3.12', 'to mend  disk            0.1 GiB free',
        '                         -> make room']


def test_an_old_package_is_to_mend(monkeypatch):
    monkeypatch.setattr(doctor, '_version', lambda name: '1.24.4' if name == 'numpy' else '')
    found = look('numpy')
    assert (found.state, found.mend) == (MEND, 'pip install "numpy>=1.26"')
    assert look('rosbags').state == ABSENT and 'pip install rosbags' in look('rosbags').mend


def packages(folder, **versions):
    """Make a folder of installed packages, as a distribution has one."""
    for name, version in versions.items():
        info = folder / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    return folder


def test_numpy_2_is_a_trap_where_ros_is_built_for_numpy_1(monkeypatch, tmp_path):
    """Ubuntu 22.04 and 24.04: what pip brings breaks messages and the OpenCV of the system."""
    system = packages(tmp_path, numpy='1.21.5')
    versions = {'numpy': '2.2.6'}
    monkeypatch.setattr(doctor, '_version', lambda name: versions.get(name, ''))
    found = look('numpy', {'ROS_DISTRO': 'humble'}, system=system)
    assert found.state == MEND and 'messages of ROS 2 humble' in found.found
    assert 'pip install "numpy>=1.26,<2"' in found.mend and '~/numpy1.txt' in found.mend
    assert look('numpy', system=system).state == GOOD, 'without ROS it is no trap'
    versions['numpy'] = '1.26.4'
    assert look('numpy', {'ROS_DISTRO': 'humble'}, system=system).state == GOOD
    versions['numpy'] = '1.21.5'
    found = look('numpy', {'ROS_DISTRO': 'humble'}, system=system)
    assert (found.state, found.mend) == (MEND, 'pip install "numpy>=1.26,<2"')


def test_an_opencv_for_another_numpy_is_mended_by_numpy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name: object())
    found = doctor._opencv('numpy>=1.26,<2')
    assert found.state == MEND and 'opencv-python-headless' in found.mend

    def broken(name, *rest):
        if name == 'cv2':
            raise ImportError('numpy.core.multiarray failed to import')
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', broken)
    assert doctor._opencv('numpy>=1.26,<2').mend == 'pip install "numpy>=1.26,<2"'


def test_a_python_of_the_distribution_takes_nothing_from_pip(monkeypatch, tmp_path):
    """Ubuntu 24.04: rosdep's pip keys fail there too."""
    (tmp_path / 'EXTERNALLY-MANAGED').touch()
    monkeypatch.setattr(doctor.sysconfig, 'get_path', lambda name: str(tmp_path))
    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    found = look('pip', {'ROS_DISTRO': 'jazzy'})
    assert found.state == ABSENT and 'neither pip nor rosdep' in found.found
    assert 'venv --system-site-packages' in found.mend
    assert 'PIP_BREAK_SYSTEM_PACKAGES=1 rosdep install' in found.mend
    assert 'rosdep' not in look('pip').mend
    monkeypatch.setattr(sys, 'prefix', '/home/me/dgtl_venv')
    assert look('pip', {'ROS_DISTRO': 'jazzy'}).state == GOOD


def test_a_sourced_ros_without_its_python_is_to_mend(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name: None)
    found = doctor._ros({'ROS_DISTRO': 'jazzy'})
    assert found.state == MEND and '/opt/ros/jazzy/setup.sh' in found.mend
    assert doctor._ros({}).state == ABSENT


@pytest.mark.parametrize('distribution, variable', [
    ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'), ('lyrical', 'FASTDDS_DEFAULT_PROFILES_FILE')])
def test_the_profile_is_in_the_variable_of_the_distribution(
        with_ros, monkeypatch, distribution, variable):
    monkeypatch.setattr(doctor, '_version', lambda name: '')
    found = look('DDS profile', {'ROS_DISTRO': distribution})
    path = found.mend.split('=')[1].split(',')[0]
    assert found.state == MEND and found.mend.startswith(f'export {variable}=')
    assert Path(path).is_file()
    good = {'ROS_DISTRO': distribution, variable: path}
    assert look('DDS profile', good).state == GOOD
    assert look('DDS profile', {**good, variable: '/nowhere.xml'}).state == MEND
    assert look('DDS profile', {'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'}).state == GOOD


def test_little_shared_memory_is_to_mend(monkeypatch, tmp_path):
    real = shutil.disk_usage
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: type(real('/'))(
        64 << 20, 0, 64 << 20))
    assert 'docker run --shm-size' in look('shared memory', shared_memory=tmp_path).mend
    monkeypatch.undo()
    assert look('shared memory', shared_memory=tmp_path / 'none').state == MEND


def test_shared_memory_of_another_user_is_named(monkeypatch, tmp_path, with_ros):
    (tmp_path / 'fastrtps_port7400').touch()
    assert look('users', shared_memory=tmp_path).state == GOOD
    monkeypatch.setattr(os, 'getuid', lambda: 4711)
    found = look('users', shared_memory=tmp_path)
    assert found.state == MEND and 'the same user' in found.mend
    other = {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}
    assert look('users', other, shared_memory=tmp_path).state == GOOD
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name, *_: None)
    assert doctor._users({}, tmp_path).state == ABSENT, 'what Fast DDS left matters to ROS alone'


@pytest.mark.parametrize('fault, state', [
    ('there is no NVIDIA driver (libcuda.so.1 cannot be loaded)', ABSENT),
    ('the Python package cuda-python is not installed (pip ...)', MEND),
    ('the NVIDIA driver does not work (CUDA error 999: unknown)', MEND)])
def test_no_gpu_is_absent_a_broken_one_is_to_mend(monkeypatch, fault, state):
    monkeypatch.setattr('dgtl_core.runtime.cuda.cuda_fault', lambda device: fault)
    found = look('GPU')
    assert (found.state, found.found) == (state, fault) and found.mend


def test_the_disk_is_that_of_the_folders_in_use(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    found = look('disk')
    assert f'weights in {tmp_path}/dgtl_ros/weights' in found.found
    assert f'engines in {Path.home()}/.cache/dgtl_ros/engines' in found.found


def test_a_full_disk_is_to_mend(monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: type(real('/'))(
        1 << 40, 0, 1 << 20))
    assert look('disk').state == MEND
