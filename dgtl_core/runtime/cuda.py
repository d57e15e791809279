# SPDX-License-Identifier: Apache-2.0
"""
The little of CUDA that running an engine needs, on the driver's own interface.

Through ``cuda-python`` and the driver API, because the driver API has no version of its own to
match: the runtime API inside a newer ``cuda-python`` refuses an older driver.

Not run on a GPU yet: calls and arguments were checked against the real bindings with a stand-in
for the driver.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import importlib.util
import logging
from pathlib import Path
import re
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_DRIVER = 'nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1'
_KERNEL_MODULE = Path('/proc/driver/nvidia/version')
# After these every call of the process fails (illegal address, assertion, failed launch, ...).
_FATAL = {214, 700, 702, 710, *range(714, 720)}
_LOG = logging.getLogger(__name__)
_INSTALL = 'pip install "cuda-python>=12,<13" (CUDA 12, JetPack 6) or "cuda-python>=13" (CUDA 13)'


class CudaError(RuntimeError):
    """A CUDA call failed; most of these cannot be repaired inside the same process."""


def device_index(device: str) -> int:
    """
    Return the number of the GPU that ``auto``, ``cuda`` or ``cuda:N`` means.

    :raises ValueError: it is none of these.
    """
    found = re.fullmatch(r'auto|cuda(?::(\d+))?', device)
    if found is None:
        raise ValueError(f'the device of an engine is auto, cuda or cuda:N, got {device!r}')
    return int(found.group(1) or 0)


def cuda_fault(device: str) -> str:
    """
    Return why CUDA cannot be used here, or an empty text.

    Asks the driver itself and loads no Python package: some versions of TensorRT crash where
    there is no driver, so this comes first.
    """
    if device == 'cpu':
        return "device is 'cpu'"
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f'there is no NVIDIA driver ({_DRIVER} cannot be loaded)'
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode(errors='replace') if text.value else 'unknown'
        return f'the NVIDIA driver does not work (CUDA error {status}: {reason})'
    if device_index(device) >= count.value:
        return f'device {device} was asked for, but the number of GPUs is {count.value}'
    if not _installed('cuda.bindings') and not _installed('cuda.cuda'):
        return f'the Python package cuda-python is not installed ({_INSTALL})'
    return ''


def driver_version() -> str:
    """Return the version of the NVIDIA kernel driver, or an empty text."""
    try:
        text = _KERNEL_MODULE.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''
    found = re.search(r'\b\d{3,}\.\d+(\.\d+)?\b', text)
    return found.group() if found else ''


class Staging:
    """Page-locked memory, seen as an array, and its twin of the same size on the GPU."""

    def __init__(self, array: np.ndarray, host: int, device: Any) -> None:
        self.array = array
        self.host = host
        self.device = device

    @property
    def address(self) -> int:
        """The address on the GPU."""
        return int(self.device)


class Gpu:
    """
    One GPU with one stream.

    Any thread may use it, one at a time. :meth:`activate` comes first in a thread that has not
    used it before.
    """

    def __init__(self, index: int = 0, blocking_sync: bool | None = None) -> None:
        """
        Open a GPU; :func:`cuda_fault` has said that there is one.

        :param blocking_sync: sleep while the GPU works instead of asking it again and again, which
            leaves the core to others and answers a little later; None: where CPU and GPU share
            one chip (Jetson).
        :raises CudaError: the driver refuses.
        """
        self._cuda = _bindings()
        self._call('cuInit', 0)
        self._device = self._call('cuDeviceGet', index)
        name = self._call('cuDeviceGetName', 256, self._device)
        self.name: str = name.split(b'\0')[0].decode(errors='replace')
        self.compute_capability = (
            f'{self._attribute("COMPUTE_CAPABILITY_MAJOR")}.'
            f'{self._attribute("COMPUTE_CAPABILITY_MINOR")}')
        version = int(self._call('cuDriverGetVersion'))
        self.cuda_version = f'{version // 1000}.{version % 1000 // 10}'
        if blocking_sync is None:
            blocking_sync = bool(self._attribute('INTEGRATED'))
        if blocking_sync:
            flags = int(self._cuda.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)
            self._call('cuDevicePrimaryCtxSetFlags', self._device, flags)
        # The primary context is the one that TensorRT itself uses.
        self._context = self._call('cuDevicePrimaryCtxRetain', self._device)
        try:
            self.activate()
            self._stream = self._call(
                'cuStreamCreate', int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        except CudaError:
            self._release()
            raise
        self._staging: list[Staging] = []
        self._launchables: list[Any] = []  # what was captured

    @property
    def stream(self) -> int:
        """The handle of the stream, for TensorRT."""
        return int(self._stream)

    def activate(self) -> None:
        """Make this GPU the one that CUDA calls of the calling thread mean."""
        self._call('cuCtxSetCurrent', self._context)

    def stage(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> Staging:
        """Allocate page-locked memory of a shape and its twin on the GPU."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host = int(self._call('cuMemHostAlloc', size, 0))
        try:
            device = self._call('cuMemAlloc', size)
        except CudaError:
            self._call('cuMemFreeHost', host)
            raise
        flat = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        self._staging.append(Staging(flat.view(dtype).reshape(shape), host, device))
        return self._staging[-1]

    def upload(self, staging: Staging, size: int) -> None:
        """Enqueue the copy of the first ``size`` bytes to the GPU."""
        self._call('cuMemcpyHtoDAsync', staging.device, staging.host, size, self._stream)

    def download(self, staging: Staging, size: int) -> None:
        """Enqueue the copy of the first ``size`` bytes from the GPU."""
        self._call('cuMemcpyDtoHAsync', staging.host, staging.device, size, self._stream)

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        self._call('cuStreamSynchronize', self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """
        Record what a function enqueues, without running it; :meth:`launch` runs it as often as one
        likes with one call.

        :raises CudaError: something in it cannot be recorded. The stream can be used again.
        """
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call('cuStreamBeginCapture', self._stream, mode)
        try:
            enqueue()
        except BaseException:
            # Leave the capturing state; that this fails too is part of it.
            _, graph = self._cuda.cuStreamEndCapture(self._stream)
            if graph is not None:
                self._cuda.cuGraphDestroy(graph)
            raise
        graph = self._call('cuStreamEndCapture', self._stream)
        try:
            self._launchables.append(self._call('cuGraphInstantiate', graph, 0))
        finally:
            self._call('cuGraphDestroy', graph)
        return self._launchables[-1]

    def launch(self, launchable: Any) -> None:
        """Enqueue what was recorded."""
        self._call('cuGraphLaunch', launchable, self._stream)

    def discard(self, launchable: Any) -> None:
        """Free what was recorded, before what it runs is freed."""
        self._launchables.remove(launchable)
        self._free('cuGraphExecDestroy', launchable)

    def close(self) -> None:
        """
        Free everything; the arrays of the staging memory must not be touched afterwards.

        After a fatal error the driver refuses that; it is then logged, and the rest goes on.
        """
        calls = [('cuCtxSetCurrent', self._context),
                 *(('cuGraphExecDestroy', launchable) for launchable in self._launchables)]
        for staging in self._staging:
            calls += [('cuMemFree', staging.device), ('cuMemFreeHost', staging.host)]
        self._launchables, self._staging = [], []
        for name, argument in (*calls, ('cuStreamDestroy', self._stream)):
            self._free(name, argument)
        self._release()

    def _release(self) -> None:
        self._free('cuCtxSetCurrent', None)  # a released context must not stay the current one
        self._free('cuDevicePrimaryCtxRelease', self._device)

    def _free(self, name: str, argument: Any) -> None:
        try:
            self._call(name, argument)
        except CudaError as error:
            _LOG.warning('while the GPU is closed: %s', error)

    def _attribute(self, name: str) -> int:
        key = getattr(self._cuda.CUdevice_attribute, f'CU_DEVICE_ATTRIBUTE_{name}')
        return int(self._call('cuDeviceGetAttribute', key, self._device))

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status):
            _, text = self._cuda.cuGetErrorString(status)
            reason = text.decode(errors='replace') if text else 'unknown'
            lost = '; this process has lost the GPU: restart it' if int(status) in _FATAL else ''
            raise CudaError(f'{name} failed: CUDA error {int(status)} ({reason}){lost}')
        return values[0] if values else None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        try:
            from cuda import cuda as driver  # cuda-python before 12.6
        except ImportError as error:
            raise CudaError(f'cuda-python cannot be imported ({error}); {_INSTALL}') from None
    return driver
