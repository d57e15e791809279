# SPDX-License-Identifier: Apache-2.0
"""
A CUDA driver and a TensorRT that live in plain memory, for machines without a GPU.

Both offer the names and arguments of the real ones that our code uses (tests compare them with the
real bindings where those are installed). The engine gives what test/tiny_onnx.py does: label =
red // 8, confidence = green; its file says what it is.
"""

import ctypes
import enum
from importlib.machinery import ModuleSpec
import json
import threading
from types import SimpleNamespace

import numpy as np


class FakeDriver:
    """Stands for ``cuda.bindings.driver``; keeps what was called."""

    CUctx_flags = enum.IntEnum('CUctx_flags', {'CU_CTX_SCHED_BLOCKING_SYNC': 4})
    CUstream_flags = enum.IntEnum('CUstream_flags', {'CU_STREAM_NON_BLOCKING': 1})
    CUstreamCaptureMode = enum.IntEnum(
        'CUstreamCaptureMode', {'CU_STREAM_CAPTURE_MODE_THREAD_LOCAL': 1})
    CUdevice_attribute = enum.IntEnum('CUdevice_attribute', {
        'CU_DEVICE_ATTRIBUTE_INTEGRATED': 18,
        'CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR': 75,
        'CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR': 76})

    def __init__(self, name='Orin', capability=(8, 7), integrated=True):
        self._name, self._integrated, self._capability = name, integrated, capability
        self.calls = []
        self.on_call = {}  # name of a call -> what happens at it
        self.fail = {}    # name of a call -> status that it returns
        self.memory = {}  # address -> buffer, what is allocated and not freed
        self._threads = {}  # thread -> its current context
        self._graph = None

    @property
    def current(self):
        """The context of the calling thread."""
        return self._threads.get(threading.get_ident())

    def _answer(self, name, *values):
        self.calls.append(name)
        self.on_call.get(name, bool)()
        return self.fail.get(name, 0), *values

    def cuInit(self, flags):
        return self._answer('cuInit')

    def cuDeviceGet(self, ordinal):
        return self._answer('cuDeviceGet', ordinal)

    def cuDeviceGetName(self, length, dev):
        return self._answer('cuDeviceGetName', self._name.encode().ljust(length, b'\0'))

    def cuDeviceGetAttribute(self, attrib, dev):
        value = {18: self._integrated, 75: self._capability[0], 76: self._capability[1]}[attrib]
        return self._answer('cuDeviceGetAttribute', int(value))

    def cuDriverGetVersion(self):
        return self._answer('cuDriverGetVersion', 12060)

    def cuDevicePrimaryCtxSetFlags(self, dev, flags):
        return self._answer(f'cuDevicePrimaryCtxSetFlags {flags}')

    def cuDevicePrimaryCtxRetain(self, dev):
        return self._answer('cuDevicePrimaryCtxRetain', 'context')

    def cuDevicePrimaryCtxRelease(self, dev):
        assert not self.current, 'the calling thread must not keep what is released'
        self._threads.clear()
        return self._answer('cuDevicePrimaryCtxRelease')

    def cuCtxSetCurrent(self, ctx):
        self._threads[threading.get_ident()] = ctx
        return self._answer('cuCtxSetCurrent')

    def _allocate(self, name, size):
        if name in self.fail:
            return self._answer(name, None)
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return self._answer(name, ctypes.addressof(buffer))

    def cuMemAlloc(self, bytesize):
        return self._allocate('cuMemAlloc', bytesize)

    def cuMemHostAlloc(self, bytesize, flags):
        return self._allocate('cuMemHostAlloc', bytesize)

    def cuMemFree(self, dptr):
        del self.memory[int(dptr)]
        return self._answer('cuMemFree')

    def cuMemFreeHost(self, p):
        del self.memory[int(p)]
        return self._answer('cuMemFreeHost')

    def _enqueue(self, name, work):
        assert self.current == 'context'
        if self._graph is None:
            work()
        else:
            self._graph.append(work)
        return self._answer(name)

    def _copy(self, name, destination, source, size):
        assert size <= min(len(self.memory[int(destination)]), len(self.memory[int(source)]))
        return self._enqueue(name, lambda: ctypes.memmove(int(destination), int(source), size))

    def cuMemcpyHtoDAsync(self, dst_device, src_host, byte_count, stream):
        return self._copy('cuMemcpyHtoDAsync', dst_device, src_host, byte_count)

    def cuMemcpyDtoHAsync(self, dst_host, src_device, byte_count, stream):
        return self._copy('cuMemcpyDtoHAsync', dst_host, src_device, byte_count)

    def cuStreamCreate(self, flags):
        return self._answer('cuStreamCreate', 77)

    def cuStreamDestroy(self, stream):
        return self._answer('cuStreamDestroy')

    def cuStreamSynchronize(self, stream):
        return self._answer('cuStreamSynchronize')

    def cuStreamBeginCapture(self, stream, mode):
        self._graph = []
        return self._answer('cuStreamBeginCapture')

    def cuStreamEndCapture(self, stream):
        graph, self._graph = self._graph, None
        return self._answer('cuStreamEndCapture', graph)

    def cuGraphInstantiate(self, graph, flags):
        return self._answer('cuGraphInstantiate', list(graph))

    def cuGraphLaunch(self, launchable, stream):
        assert self.current == 'context'
        for work in launchable:
            work()
        return self._answer('cuGraphLaunch')

    def cuGraphExecDestroy(self, launchable):
        return self._answer('cuGraphExecDestroy')

    def cuGraphDestroy(self, graph):
        return self._answer('cuGraphDestroy')

    def cuGetErrorString(self, error):
        return 0, {2: b'out of memory', 700: b'illegal address'}.get(error, b'unknown')


class FakeLibrary:
    """Stands for ``libcuda.so.1`` as ctypes loads it."""

    def __init__(self, status=0, count=1):
        self._status, self._count = status, count

    def cuInit(self, flags):
        return self._status

    def cuDeviceGetCount(self, count):
        count._obj.value = self._count
        return 0

    def cuGetErrorString(self, status, text):
        text._obj.value = b'no CUDA-capable device is detected'
        return 0


def engine_bytes(size=(32, 64), batch=1, most=1, divisor=8, kind='UINT8', outputs=None,
                 signature=None):
    """Return what the fake TensorRT takes for an engine."""
    return json.dumps({'size': size, 'batch': batch, 'most': most, 'divisor': divisor,
                       'kind': kind, 'outputs': outputs or ['labels', 'confidence'],
                       'signature': signature}).encode()


class FakeTensorRT:
    """Stands for the module ``tensorrt``; runs engines of :func:`engine_bytes`."""

    __name__ = 'tensorrt'
    __spec__ = ModuleSpec('tensorrt', None)
    DataType = enum.Enum('DataType', 'UINT8 FLOAT')

    def __init__(self, driver, version='10.3.0'):
        self.__version__ = version
        self.driver = driver
        self.accept_addresses = self.accept_shapes = self.runs = True
        self.memory = True
        self.start_error = ''  # CUDA does not start for TensorRT
        self.alive = 0  # engines and contexts that were not freed
        fake = self

        class ILogger:
            """The base class of loggers."""

        class ICudaEngine:
            device_memory_size_v2 = 3 << 20

            def __init__(self, made):
                fake.alive += 1
                size, batch = list(made['size']), made['batch']
                self._made = made
                self._shapes = {'image': (batch, *size, 3)}
                self._shapes.update(dict.fromkeys(made['outputs'], (batch, *size)))
                if made['signature']:
                    self._shapes['signature'] = (batch, 2)
                self.num_io_tensors = len(self._shapes)

            def __del__(self):
                fake.alive -= 1

            def get_tensor_name(self, index):
                return list(self._shapes)[index]

            def get_tensor_dtype(self, name):
                return fake.DataType[
                    self._made['signature' if name == 'signature' else 'kind']]

            def get_tensor_shape(self, name):
                return self._shapes[name]

            def get_tensor_profile_shape(self, name, profile_index):
                return [(count, *self._shapes[name][1:]) for count in (1, 1, self._made['most'])]

            def create_execution_context(self):
                return IExecutionContext(self, self._made) if fake.memory else None

        class IExecutionContext:
            def __init__(self, engine, made):
                fake.alive += 1
                self._made, self._addresses = made, {}
                self._batch, self._size = made['batch'], tuple(made['size'])

            def __del__(self):
                fake.alive -= 1

            def set_tensor_address(self, name, memory):
                assert int(memory) in fake.driver.memory
                self._addresses[name] = int(memory)
                return fake.accept_addresses

            def set_input_shape(self, name, shape):
                assert name == 'image' and self._made['batch'] == -1
                self._batch = shape[0]
                return fake.accept_shapes

            def get_tensor_shape(self, name):
                return (self._batch, *((2,) if name == 'signature' else self._size))

            def execute_async_v3(self, stream_handle):
                assert stream_handle == 77 and fake.driver.current == 'context'
                fake.driver._enqueue('execute_async_v3', self._run)
                return fake.runs

            def _run(self):
                shape = (self._batch, *self._size)
                image = self._view('image', (*shape, 3))
                self._view('labels', shape)[:] = image[..., 0] // self._made['divisor']
                self._view('confidence', shape)[:] = image[..., 1]
                if 'signature' in self._addresses:
                    self._view('signature', (self._batch, 2), ctypes.c_float)[:] = image[
                        ..., :2].mean(axis=(1, 2))

            def _view(self, name, shape, kind=ctypes.c_uint8):
                raw = (kind * int(np.prod(shape))).from_address(self._addresses[name])
                return np.ctypeslib.as_array(raw).reshape(shape)

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger):
                if fake.start_error:
                    logger.log(SimpleNamespace(name='ERROR'), fake.start_error)
                    raise TypeError('pybind11::init(): factory function returned nullptr')
                self._logger = logger

            def deserialize_cuda_engine(self, serialized_engine):
                try:
                    return ICudaEngine(json.loads(bytes(serialized_engine)))
                except ValueError:
                    self._logger.log(SimpleNamespace(name='ERROR'), 'magic tag does not match')
                    return None

        self.ILogger, self.Runtime = ILogger, Runtime
        self.ICudaEngine, self.IExecutionContext = ICudaEngine, IExecutionContext
