# SPDX-License-Identifier: Apache-2.0
"""A Jetson's files and a driver's library, both stand-ins."""

import ctypes
from pathlib import Path

from dgtl_core.runtime.board import cpu_has_bfloat16, Device
import pytest

FILES = {
    'proc/device-tree/model': 'NVIDIA Jetson AGX Orin Developer Kit\0',
    'proc/meminfo': 'MemTotal:   31000576 kB\nMemFree:  1 kB\nMemAvailable:  20480000 kB\n',
    'sys/class/thermal/thermal_zone0/temp': '45500\n',
    'sys/class/thermal/thermal_zone1/temp': '61250\n',
    'sys/class/thermal/thermal_zone2/temp': '',  # a sensor that is off
    'sys/class/hwmon/hwmon3/oc1_event_cnt': '7\n',
    'sys/class/hwmon/hwmon3/oc2_event_cnt': '0\n',
    'var/lib/nvpmodel/status': 'pmode:0002\n',
    'etc/nvpmodel.conf': '< POWER_MODEL ID=1 NAME=15W >\n< POWER_MODEL ID=2 NAME=30W >\n'}


def write(root: Path, **changes):
    for name, text in {**FILES, **changes}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_jetson(tmp_path):
    write(tmp_path)
    device = Device('auto', tmp_path)
    assert device.read() == {
        'gpu': 'NVIDIA Jetson AGX Orin Developer Kit', 'mem_used_mb': 10274, 'mem_total_mb': 30274,
        'temp_c': 61.25, 'power_mode': '30W', 'throttling': ''}
    (tmp_path / 'sys/class/hwmon/hwmon3/oc2_event_cnt').write_text('2\n')
    assert device.read()['throttling'] == 'over-current (2 times)', 'since the start'
    assert Device('cpu', tmp_path).read() == {}


def test_jetson_of_which_little_can_be_read(tmp_path):
    write(tmp_path)
    for name in FILES:
        if name != 'proc/device-tree/model':
            (tmp_path / name).unlink()
    assert Device('cuda', tmp_path).read() == {
        'gpu': 'NVIDIA Jetson AGX Orin Developer Kit', 'throttling': ''}


class Library:
    """Stands for NVML; ``faults`` are the calls that fail."""

    users = 0  # of the process: the library counts them

    def __init__(self, count=1, reasons=0, faults=()):
        self._count, self._reasons, self._faults = count, reasons, faults

    def __getattribute__(self, name):
        if name.startswith('nvml') and name in self._faults:
            if name == 'nvmlDeviceGetTemperature':
                raise AttributeError(name)  # an old library
            return lambda *_: 3  # not supported
        return super().__getattribute__(name)

    def nvmlInit_v2(self):
        Library.users += 1
        return 0

    def nvmlShutdown(self):
        Library.users -= 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = 40 + index
        return 0 if index < self._count else 2

    def nvmlDeviceGetName(self, handle, name, length):
        name.value = f'GPU {handle.value}'.encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory[0], memory[1], memory[2] = 16 << 30, 12 << 30, 4 << 30
        return 0

    def nvmlDeviceGetTemperature(self, handle, sensor, degrees):
        assert sensor == 0
        degrees._obj.value = 71
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, reasons):
        reasons._obj.value = self._reasons
        return 0


@pytest.fixture
def library(monkeypatch):
    def install(**given):
        monkeypatch.setattr(ctypes, 'CDLL', lambda name: Library(**given))
    return install


def test_gpu_of_a_computer(library, tmp_path):
    library(count=2, reasons=0x41)  # 1: it has nothing to do
    assert Device('cuda:1', tmp_path).read() == {
        'gpu': 'GPU 41', 'mem_used_mb': 4096, 'mem_total_mb': 16384, 'temp_c': 71,
        'throttling': 'temperature (hardware)'}
    library(faults=('nvmlDeviceGetTemperature', 'nvmlDeviceGetCurrentClocksThrottleReasons'))
    assert set(Device('auto', tmp_path).read()) == {'gpu', 'mem_used_mb', 'mem_total_mb'}


@pytest.mark.parametrize('shown, name, gpu', [
    ('1', 'cuda:0', 'GPU 41'), ('1,0', 'cuda:1', 'GPU 40'), ('', 'cuda:1', 'GPU 41'),
    ('GPU-1a2b', 'cuda:0', 'GPU 40')])  # an identifier is not followed
def test_the_gpu_that_cuda_shows(library, monkeypatch, tmp_path, shown, name, gpu):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', shown)
    library(count=2)
    assert Device(name, tmp_path).read()['gpu'] == gpu


@pytest.mark.parametrize('name, faults', [
    ('cuda:0', ()), ('cuda:9', ()), ('cuda:0', ('nvmlInit_v2',))])
def test_the_library_is_let_go(library, tmp_path, name, faults):
    library(faults=faults)
    before = Library.users
    device = Device(name, tmp_path)
    assert Library.users == before + (name == 'cuda:0' and not faults)
    for _ in range(2):
        device.close()
        assert Library.users == before and device.read() == {}


def test_a_cpu_that_multiplies_bfloat16(tmp_path):
    path = tmp_path / 'cpuinfo'
    assert not cpu_has_bfloat16(path)
    for line, has in (('flags\t\t: fpu avx2', False), ('flags\t\t: fpu amx_bf16 avx2', True),
                      ('Features\t: fp asimd bf16', True)):
        path.write_text(f'processor\t: 0\n{line}\nbugs\t: bf16\n')
        assert cpu_has_bfloat16(path) == has


def test_no_such_gpu_and_no_driver(library, monkeypatch, tmp_path):
    library()
    assert Device('cuda:1', tmp_path).read() == {}

    def missing(name):
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(ctypes, 'CDLL', missing)
    assert Device('auto', tmp_path).read() == {}
