# SPDX-License-Identifier: Apache-2.0
"""
The builder of TensorRT 10.3 to 11.x and of TensorRT-RTX: the same calls, found by name.

Between these versions flags were removed and numbered anew; only their names are used here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import logging
from pathlib import Path
import re
import time
from typing import Any

from dgtl_core.engine.options import EngineOptions
from dgtl_core.engine.progress import BuildProgress, monitor
from dgtl_core.files import write_atomically
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import INPUT
from dgtl_core.runtime.tensorrt_module import make_logger, started

USE_GATHER = (
    'export the model again with "--sampling gather" (several versions of TensorRT compute '
    'GridSample wrongly)')
_LOG = logging.getLogger(__name__)
_ATTENTION = re.compile(r'_gemm_mha_v2_myl\d+_\d+')  # what the compiler calls a fused attention


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What came out of a build."""

    tensorrt: str
    precision: str                # of the convolutions and matrix products
    layers: int
    grid_samples: dict[str, int]  # interpolation mode -> number of layers
    softmax_layers: int
    fused_attentions: int         # read from the builder's log: best effort
    parse_s: float
    build_s: float
    engine_mib: float


def build(trt: Any, onnx: Path, options: EngineOptions, progress: BuildProgress,
          timing_cache: Path | None = None,
          activate: Callable[[], None] = lambda: None) -> tuple[Any, BuildReport]:
    """
    Parse and build; return the engine (a buffer) and the report.

    :param timing_cache: a file with measured kernel times, used and brought up to date.
    :param activate: called in the thread that builds: CUDA's current GPU is each thread's own.
    :raises ModelError: the parser or the builder refuses the model, or the GPU the builder.
    :raises KeyboardInterrupt: Ctrl-C; the builder has stopped.
    """
    attentions: set[str] = set()
    log = make_logger(trt, lambda message: attentions.update(_ATTENTION.findall(message)))
    builder = started(trt, trt.Builder, log)
    start = time.monotonic()
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(onnx)):
        raise ModelError('\n  '.join([
            f'{trt.__name__} {trt.__version__} cannot parse {onnx}:',
            *(_parser_errors(parser) or log.errors)]))
    parse_s = time.monotonic() - start
    modes = _grid_sample_modes(trt, network)
    config = _configured(trt, builder, network, options)
    config.progress_monitor = watcher = monitor(trt, progress)
    if timing_cache is not None and trt.__name__ == 'tensorrt_rtx':
        _LOG.warning('tensorrt_rtx measures no kernels; the timing cache is not used')
        timing_cache = None
    if timing_cache is not None:
        _load_timing_cache(config, timing_cache)

    def work() -> Any:
        activate()
        return builder.build_serialized_network(network, config)

    start = time.monotonic()
    # In a thread of its own: Ctrl-C reaches the main thread, which must not be inside C++ then.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            engine = future.result()
        except BaseException:
            progress.cancelled = True
            raise
        finally:
            progress.close()
    build_s = time.monotonic() - start
    del watcher  # TensorRT has called it until here
    if engine is None:
        raise ModelError(
            f'{trt.__name__} {trt.__version__} cannot build {onnx}: '
            f'{"; ".join(log.errors) or "it gives no reason"}')
    if timing_cache is not None:
        try:
            write_atomically(timing_cache, config.get_timing_cache().serialize())
        except OSError as error:
            _LOG.warning('the timing cache cannot be written: %s', error)
    kinds = Counter(layer.type for layer in _layers(network))
    return engine, BuildReport(
        tensorrt=f'{trt.__name__} {trt.__version__}', precision=_precision(trt, network),
        layers=network.num_layers, grid_samples=dict(modes),
        softmax_layers=kinds[trt.LayerType.SOFTMAX], fused_attentions=len(attentions),
        parse_s=round(parse_s, 1), build_s=round(build_s, 1),
        engine_mib=round(engine.nbytes / 2**20, 1))


def network_flags(trt: Any) -> int:
    """Ask for explicit batches and strong types, where that is not all there is."""
    flags = 0
    for name in ('EXPLICIT_BATCH', 'STRONGLY_TYPED'):
        member = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if member is not None:
            flags |= 1 << int(member)
    return flags


def _layers(network: Any) -> Sequence[Any]:
    return [network.get_layer(i) for i in range(network.num_layers)]


def _parser_errors(parser: Any) -> list[str]:
    """Return one line for each error: which node of the graph, and what is wrong with it."""
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f'{error.node_operator() or "graph"} {error.node_name() or error.node()}'
        lines.append(f'{node}: {" ".join(error.desc().split())}')
    return lines


def _grid_sample_modes(trt: Any, network: Any) -> Counter[str]:
    """Count GridSample layers by mode; :raises ModelError: one was read as nearest."""
    modes: Counter[str] = Counter()
    for layer in _layers(network):
        if layer.type == trt.LayerType.GRID_SAMPLE:
            layer.__class__ = trt.IGridSampleLayer
            modes[layer.interpolation_mode.name] += 1
    if modes['NEAREST']:
        raise ModelError(
            f'TensorRT reads {modes["NEAREST"]} GridSample layers as nearest neighbour, which the '
            f'network does not have (a model of opset 20 or newer?): {USE_GATHER}')
    return +modes


def _precision(trt: Any, network: Any) -> str:
    """Return the types in which the network multiplies, the most frequent first."""
    heavy = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION, trt.LayerType.EINSUM)
    names = {'FLOAT': 'fp32', 'HALF': 'fp16', 'BF16': 'bf16', 'INT8': 'int8', 'FP8': 'fp8'}
    types = Counter(layer.get_output(0).dtype.name for layer in _layers(network)
                    if layer.type in heavy)
    return '+'.join(names.get(kind, kind.lower()) for kind, _ in types.most_common()) or 'none'


def _configured(trt: Any, builder: Any, network: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    # The names of the kernels in the log: how else to know what was fused?
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if (options.hardware != 'this' or options.version_compatible) and \
            trt.__name__ == 'tensorrt_rtx':
        raise ModelError('tensorrt_rtx builds no hardware- or version-compatible engines; leave '
                         'these options out, or use tensorrt')
    if options.hardware != 'this':
        name = {'same_capability': 'SAME_COMPUTE_CAPABILITY',
                'ampere_plus': 'AMPERE_PLUS'}[options.hardware]
        level = getattr(trt.HardwareCompatibilityLevel, name, None)
        if level is None:
            raise ModelError(f'TensorRT {trt.__version__} does not know hardware '
                             f'{options.hardware!r}; 10.13 does')
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    shape = tuple(network.get_input(0).shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        most = (options.max_batch, *shape[1:])
        profile.set_shape(INPUT, (1, *shape[1:]), most, most)
        config.add_optimization_profile(profile)
    elif options.max_batch not in (1, shape[0]):
        raise ModelError(
            f'max_batch {options.max_batch} was asked for, but the model has a fixed batch of '
            f'{shape[0]}; export it with a dynamic batch')
    return config


def _load_timing_cache(config: Any, path: Path) -> None:
    """Use the measured times of a file; of another GPU or TensorRT, or none: begin anew."""
    try:
        known = path.read_bytes() if path.is_file() else b''
    except OSError as error:
        _LOG.warning('the timing cache cannot be read, times are measured anew: %s', error)
        known = b''
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        _LOG.warning('%s has times of another GPU or TensorRT; they are measured anew', path)
        config.set_timing_cache(config.create_timing_cache(b''), False)
