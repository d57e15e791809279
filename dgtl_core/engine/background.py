# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime answers while the engine is built, then the engine does."""

from __future__ import annotations

import logging
import threading
import time

from dgtl_core.engine.agreement import labeled_by, LabeledPicture, street_pictures
from dgtl_core.engine.cache import EngineCacheError
from dgtl_core.engine.job import EngineJob
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import Backend, EngineStatus, Outputs
from dgtl_core.runtime.cuda import CudaError
from dgtl_core.runtime.tensorrt import TensorRTBackend
import numpy as np

_LOG = logging.getLogger(__name__)
_PLAIN = 8.0  # a picture whose colours vary less (standard deviation) says nothing
_JOIN_S = 1.5  # a node has to end within 2 s
_FAULTS = (CudaError, EngineCacheError, ModelError, OSError)  # anything else is a mistake of ours
_PATIENCE_S = 60.0  # with a camera that shows nothing, after the engine is built


class BuildingBackend:
    """Answer through ONNX Runtime until the engine is there, then through the engine."""

    calls = 1

    def __init__(self, interim: Backend, job: EngineJob) -> None:
        """Start the build; ``interim`` is closed when it is not needed any more."""
        self.metadata, self.sha256 = interim.metadata, job.sha256
        # Of both, so that it stays the same.
        self.max_batch = min(interim.max_batch, job.max_batch)
        self.name = f'{interim.name} while the engine is built'
        self.engine = EngineStatus('building')
        self._interim = self._active = interim
        self._built: TensorRTBackend | None = None
        self._job = job
        self._seen = SeenPictures()
        self._thread = threading.Thread(target=self._work, name='engine build', daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            built = self._job.run(self._known)
            if self._seen.closed:
                built.close()
            else:
                self._built = built
        except Exception as error:  # whatever it is, the node goes on, and says it
            if not self._seen.closed:
                _LOG.error('no engine; ONNX Runtime goes on: %s', error,
                           exc_info=not isinstance(error, _FAULTS))
                self.name = f'{self._interim.name}, no engine ({error})'
                self.engine = EngineStatus('fallback', reason=str(error))

    def _known(self) -> list[LabeledPicture]:
        seen = self._seen.wait(_PATIENCE_S)
        if not seen:
            _LOG.info('the camera shows nothing; the engine is compared on drawn streets')
        return seen or labeled_by(self._interim, street_pictures())

    def __call__(self, images: np.ndarray) -> Outputs:
        """Shape: (B, H, W, 3) uint8 -> labels, confidence (B, H, W) uint8."""
        if self._built is not None and self._active is self._interim:
            self._active = self._built
            self.name = self._built.name
            self.engine = self._built.engine
            self._interim.close()
            _LOG.info('the engine answers from now on')
        outputs = self._active(images)
        if self._active is self._interim:
            self._seen.add(images, outputs.labels)
        return outputs

    def close(self) -> None:
        """Stop the build and free everything."""
        self._seen.close()
        self._job.stop()
        self._thread.join(_JOIN_S)
        if self._built is not None and self._built is not self._active:
            self._built.close()
        self._active.close()


class SeenPictures:
    """The pictures on which an engine is compared: what the camera sees while it is built."""

    def __init__(self, wanted: int = 3, apart_s: float = 1.0) -> None:
        """Keep ``wanted`` pictures that lie at least ``apart_s`` seconds apart."""
        self.closed = False
        self._wanted, self._apart = wanted, apart_s
        self._kept: list[LabeledPicture] = []
        self._last = float('-inf')
        self._change = threading.Condition()

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Take pictures and their labels, if they are of use."""
        now = time.monotonic()
        if len(self._kept) >= self._wanted or now - self._last < self._apart:
            return
        for image, label in zip(images, labels):
            if image.std(axis=(0, 1)).max() >= _PLAIN:
                with self._change:
                    self._kept.append(LabeledPicture(image.copy(), label.copy()))
                    self._change.notify_all()
                self._last = now

    def wait(self, patience_s: float) -> list[LabeledPicture]:
        """
        Return the pictures once there are enough, or those that there are when patience ends.

        :raises ModelError: closed before that.
        """
        with self._change:
            if len(self._kept) < self._wanted:
                _LOG.info('the engine is built and waits for pictures to be compared on')
            self._change.wait_for(
                lambda: self.closed or len(self._kept) >= self._wanted, patience_s)
            if self.closed:
                raise ModelError('the build of the engine was stopped')
            return list(self._kept)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._change:
            self.closed = True
            self._change.notify_all()
