# SPDX-License-Identifier: Apache-2.0
"""The library TensorRT: which one is there, why it cannot run, how it starts and what it says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import importlib
import importlib.util
import logging
from typing import Any

from dgtl_core.model_file import ModelError
from dgtl_core.runtime.cuda import cuda_fault

MODULES = ('tensorrt', 'tensorrt_rtx')
_LOG = logging.getLogger(__name__)
_INSTALL = (
    'on a Jetson: sudo apt install python3-libnvinfer, and a virtual environment made with '
    '--system-site-packages; elsewhere: pip install tensorrt, or tensorrt-rtx')


class GpuError(ModelError):
    """The GPU cannot take an engine now, whatever the engine: no memory, or a fault."""


def installed_module() -> str:
    """Return the name of the TensorRT module to use, or an empty text; imports nothing."""
    return next((name for name in MODULES if importlib.util.find_spec(name) is not None), '')


def import_tensorrt(name: str = '') -> Any:
    """
    Import TensorRT; it may need a driver for anything beyond parsing and building.

    :param name: one of MODULES; empty: the first that is installed.
    :raises ModelError: it is not installed, or its libraries are not.
    """
    name = name or installed_module()
    if name and name not in MODULES:
        raise ModelError(f'the TensorRT module must be one of {list(MODULES)}, got {name!r}')
    try:
        return importlib.import_module(name or MODULES[0])
    except (ImportError, OSError) as error:
        raise ModelError(f'TensorRT cannot be imported ({error}); {_INSTALL}') from None


def tensorrt_fault(device: str) -> str:
    """Return why no engine can run here, or an empty text; imports no TensorRT."""
    return cuda_fault(device) or ('' if installed_module() else 'TensorRT is not installed')


def make_logger(trt: Any, hear: Callable[[str], object] = lambda message: None) -> Any:
    """
    Return a logger that passes TensorRT's warnings and errors on and keeps the last errors.

    :param hear: is called with every message, also with those that are not passed on.
    """
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, message: str) -> None:
            hear(message)
            if severity.name in ('ERROR', 'INTERNAL_ERROR'):
                self.errors.append(message.strip())
                _LOG.error('TensorRT: %s', message.strip())
            elif severity.name == 'WARNING':
                _LOG.warning('TensorRT: %s', message.strip())

        @property
        def last_error(self) -> str:
            return self.errors[-1] if self.errors else 'no reason given'

    return Logger()


def started(trt: Any, factory: Any, logger: Any) -> Any:
    """
    Return TensorRT's runtime or builder.

    :raises GpuError: CUDA does not start for it; the bindings tell that by a TypeError.
    """
    try:
        return factory(logger)
    except TypeError as error:
        raise GpuError(
            f'{trt.__name__} {trt.__version__} does not start on this GPU ({logger.last_error}; '
            f'{error}): its driver may be too old for this TensorRT, or its memory full'
        ) from None
