# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU or, where its GPU build is installed, on CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from dgtl_core.runtime.metadata import KEY, MAKE_ONE, ModelError, ModelMetadata

_INPUT, _OUTPUTS = 'image', ['labels', 'confidence']
_CUDA = 'CUDAExecutionProvider'


class OnnxBackend:
    """Run an ``.onnx`` file that keeps the model contract (uint8 picture to uint8 labels)."""

    def __init__(self, path: Path, device: str = 'auto', threads: int = 0) -> None:
        """
        Load a model file.

        :raises ModelError: not a model, not one of ours, or the device is not there.
        """
        providers = _providers(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A thread that spins while it waits takes the core from the camera driver.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ModelError(
                f'{path} is not a model that ONNX Runtime {ort.__version__} can load '
                f'({first}); {MAKE_ONE}') from None
        self.metadata = ModelMetadata.from_json(
            self._session.get_modelmeta().custom_metadata_map.get(KEY), str(path))
        self._check(path)
        used = self._session.get_providers()[0]
        self.name = f'onnxruntime ({used.removesuffix("ExecutionProvider")})'
        if 'cuda' in device and used != _CUDA:
            raise ModelError(
                f'device {device!r} was asked for, but ONNX Runtime could not start CUDA; check '
                'the driver, or use device "cpu"')
        batch = self._session.get_inputs()[0].shape[0]
        self.max_batch = batch if isinstance(batch, int) else 16

    def _check(self, path: Path) -> None:
        inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        height, width = self.metadata.input_size
        kind, shape = inputs.get(_INPUT, ('', []))
        if (list(inputs) != [_INPUT] or kind != 'tensor(uint8)' or
                list(shape[1:]) != [height, width, 3] or
                outputs != dict.fromkeys(_OUTPUTS, 'tensor(uint8)')):
            raise ModelError(
                f'{path} must take "image" uint8 (B, {height}, {width}, 3) and give "labels" and '
                f'"confidence" uint8; it takes {inputs} and gives {outputs}; {MAKE_ONE}')

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8."""
        labels, confidence = self._session.run(_OUTPUTS, {_INPUT: images})
        return labels, confidence

    def close(self) -> None:
        """Free the session."""
        del self._session


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    there = ort.get_available_providers()
    if device == 'cpu' or (device == 'auto' and _CUDA not in there):
        return ['CPUExecutionProvider']
    if _CUDA not in there:
        raise ModelError(
            f'device {device!r} needs the GPU build of ONNX Runtime; this one offers {there}. '
            'Install onnxruntime-gpu, or use device "cpu"')
    index = device.partition(':')[2] or '0'
    return [(_CUDA, {'device_id': index}), 'CPUExecutionProvider']
