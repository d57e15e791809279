# SPDX-License-Identifier: Apache-2.0
import inspect
import re
import sys

from dgtl_core.runtime import cuda
from dgtl_core.runtime.cuda import cuda_fault, CudaError, device_index, driver_version, Gpu
from fake_gpu import FakeDriver, FakeLibrary
import numpy as np
import pytest


@pytest.fixture
def driver(monkeypatch):
    driver = FakeDriver()
    monkeypatch.setattr(cuda, '_bindings', lambda: driver)
    return driver


@pytest.mark.parametrize('library, installed, device, fault', [
    (FakeLibrary(), True, 'auto', ''),
    (FakeLibrary(count=2), True, 'cuda:1', ''),
    (FakeLibrary(), True, 'cuda:1', 'device cuda:1 was asked for, but the number of GPUs is 1'),
    (FakeLibrary(), True, 'cpu', "device is 'cpu'"),
    (FakeLibrary(count=0), True, 'auto', 'number of GPUs is 0'),
    (FakeLibrary(status=100), True, 'auto',
     r'does not work \(CUDA error 100: no CUDA-capable device is detected\)'),
    (FakeLibrary(), False, 'auto', 'cuda-python is not installed .*pip install'),
    (OSError('cannot open'), True, 'auto', 'there is no NVIDIA driver')])
def test_a_fault_is_named_and_nothing_else(monkeypatch, library, installed, device, fault):
    def load(name):
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(cuda.ctypes, 'CDLL', load)
    monkeypatch.setattr(cuda, '_installed', lambda module: installed)
    found = cuda_fault(device)
    assert re.search(fault, found) and bool(found) == bool(fault)


@pytest.mark.parametrize('text, version', [
    ('NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19\n', '535.129.03'),
    ('NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release\n', '540.4.0'),
    ('nothing of use', ''), (None, '')])
def test_the_driver_version_is_read(monkeypatch, tmp_path, text, version):
    monkeypatch.setattr(cuda, '_KERNEL_MODULE', tmp_path / 'version')
    if text is not None:
        (tmp_path / 'version').write_text(text)
    assert driver_version() == version


@pytest.mark.parametrize('device, index', [('auto', 0), ('cuda', 0), ('cuda:3', 3)])
def test_the_number_of_a_device(device, index):
    assert device_index(device) == index


@pytest.mark.parametrize('device', ['cpu', 'gpu:1', 'cuda:', 'cuda:one', 'cuda:-1', ''])
def test_what_is_no_gpu_is_refused(device):
    with pytest.raises(ValueError, match='auto, cuda or cuda:N, got'):
        device_index(device)


def test_a_gpu_says_what_it_is(driver):
    gpu = Gpu()
    assert (gpu.name, gpu.compute_capability, gpu.cuda_version) == ('Orin', '8.7', '12.6')


@pytest.mark.parametrize('integrated, wanted, sleeps', [
    (True, None, True), (False, None, False), (True, False, False), (False, True, True)])
def test_waiting_sleeps_where_cpu_and_gpu_share_a_chip(monkeypatch, integrated, wanted, sleeps):
    driver = FakeDriver(integrated=integrated)
    monkeypatch.setattr(cuda, '_bindings', lambda: driver)
    Gpu(blocking_sync=wanted)
    assert ('cuDevicePrimaryCtxSetFlags 4' in driver.calls) == sleeps


def test_copies_now_or_recorded(driver):
    gpu = Gpu()
    a, b = gpu.stage((2, 3)), gpu.stage((2, 3))
    a.array[:] = [[1, 2, 3], [4, 5, 6]]

    def there_and_back():
        gpu.upload(a, 6)
        driver.cuMemcpyHtoDAsync(b.device, a.device, 6, None)  # on the GPU
        gpu.download(b, 4)

    b.array[:] = 0
    there_and_back()
    gpu.synchronize()
    assert b.array.tolist() == [[1, 2, 3], [4, 0, 0]]
    recorded = gpu.capture(there_and_back)
    a.array[:] = 9
    assert b.array.tolist() == [[1, 2, 3], [4, 0, 0]]  # recorded, not run
    gpu.launch(recorded)
    assert b.array.tolist() == [[9, 9, 9], [9, 0, 0]]
    gpu.discard(recorded)
    gpu.close()
    assert not driver.memory and driver.calls[-1] == 'cuDevicePrimaryCtxRelease'
    assert driver.calls.count('cuGraphDestroy') == driver.calls.count('cuGraphExecDestroy') == 1


def test_a_failed_recording_leaves_the_stream_usable(driver):
    gpu = Gpu()
    staging = gpu.stage((4,))

    def enqueue():
        raise CudaError('not in a graph')

    with pytest.raises(CudaError, match='not in a graph'):
        gpu.capture(enqueue)
    assert driver.calls.count('cuGraphDestroy') == 1, 'what was recorded until then'
    staging.array[:] = 3
    gpu.upload(staging, 4)
    assert bytes(driver.memory[staging.address]) == b'\3\3\3\3'  # at once, so not recording


def test_an_error_names_the_call_and_the_reason(driver):
    gpu = Gpu()
    driver.fail['cuMemAlloc'] = 2
    before = len(driver.memory)
    with pytest.raises(CudaError, match=r'cuMemAlloc failed: CUDA error 2 \(out of memory\)'):
        gpu.stage((8,))
    assert len(driver.memory) == before  # the page-locked half is freed


@pytest.mark.parametrize('status, lost', [(2, False), (700, True), (719, True), (801, False)])
def test_an_error_that_ends_the_process_says_so(driver, status, lost):
    gpu = Gpu()
    driver.fail['cuStreamSynchronize'] = status
    with pytest.raises(CudaError) as raised:
        gpu.synchronize()
    assert ('this process has lost the GPU: restart it' in str(raised.value)) == lost


def test_what_a_lost_gpu_refuses_to_free_is_logged(driver, caplog):
    gpu = Gpu()
    gpu.stage((8,))
    driver.fail.update(dict.fromkeys(('cuMemFree', 'cuStreamDestroy'), 700))
    gpu.close()
    assert 'cuDevicePrimaryCtxRelease' in driver.calls and not driver.memory
    assert caplog.text.count('while the GPU is closed') == 2


def test_a_gpu_that_cannot_be_opened_is_released(driver):
    driver.fail['cuStreamCreate'] = 2
    with pytest.raises(CudaError, match='out of memory'):
        Gpu()
    assert driver.calls[-1] == 'cuDevicePrimaryCtxRelease' and driver.current is None


def test_the_fake_has_the_calls_of_the_real_one():
    real = pytest.importorskip('cuda.bindings.driver', reason='cuda-python is not installed')
    calls = [n for n in vars(FakeDriver) if re.match('cu[A-Z]', n)]
    assert len(calls) > 20
    for name in calls:
        signature = getattr(real, name).__doc__.strip().splitlines()[0]
        arguments = re.search(r'\((.*)\)', signature).group(1)
        assert (len(list(filter(None, arguments.split(',')))) ==
                len(inspect.signature(getattr(FakeDriver, name)).parameters) - 1), signature
    for kind in ('CUctx_flags', 'CUstream_flags', 'CUstreamCaptureMode', 'CUdevice_attribute'):
        for member in getattr(FakeDriver, kind):
            assert int(getattr(getattr(real, kind), member.name)) == int(member), member


def test_bindings_that_cannot_be_imported_are_a_cuda_error(monkeypatch):
    for module in ('cuda', 'cuda.bindings'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CudaError, match='cuda-python cannot be imported .*pip install'):
        Gpu()


def test_page_locked_memory_is_seen_as_uint8(driver):
    staging = Gpu().stage((1, 2, 4, 3))
    assert staging.array.dtype == np.uint8 and staging.array.shape == (1, 2, 4, 3)
    assert isinstance(staging.address, int)
