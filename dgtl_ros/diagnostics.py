# SPDX-License-Identifier: Apache-2.0
"""
The diagnostic statuses, made from what the node knows about itself.

Nothing here needs a running node: a :class:`Snapshot` goes in, :class:`Status` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.predictor import EngineStatus
from dgtl_ros.health import Camera, Health, RECENT_S, STAGES
from dgtl_ros.settings import Settings

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray

OK, WARN, ERROR = 0, 1, 2
_LATELY = f' in the last {RECENT_S:.0f} s'
_MANY_DROPPED = 0.1  # share of the pictures whose loss is worth a warning


class Status(NamedTuple):
    """One line of the diagnostics: a task of the node, how it does, and its figures."""

    task: str
    level: int
    message: str
    values: Mapping[str, object]


@dataclass(frozen=True)
class Model:
    """What is known about the loaded model file."""

    name: str
    path: str
    sha256: str
    num_classes: int
    input_size: tuple[int, int]
    precision: str
    load_s: float
    embedded: bool


@dataclass
class CameraSnapshot:
    """Everything the statuses of one camera are made from."""

    name: str  # empty where there is only one
    health: Health
    camera: Camera = field(default_factory=Camera)
    domain: tuple[dict[str, float], list[str]] = ({}, [])
    subscribers: int = 0
    active_since: float = 0.0  # by the steady clock


@dataclass
class Snapshot:
    """Everything the statuses are made from, as it is now."""

    state: str  # of the lifecycle
    settings: Settings
    model: Model | None = None
    model_error: str = ''
    backend: str = ''  # what runs the model; changes when its engine is built
    engine: EngineStatus | None = None
    batch: int = 1  # the most pictures in one call
    cameras: Sequence[CameraSnapshot] = ()
    device: Mapping[str, object] = field(default_factory=dict)


def statuses(snap: Snapshot, now: float | None = None) -> list[Status]:
    """Return the status of each task; ``now`` by the steady clock."""
    now = time.monotonic() if now is None else now
    result = [_model(snap)]
    if snap.state != 'active':
        return result
    for camera in snap.cameras:
        recent = camera.health.recent(now)
        found = [_input(snap, camera, now, recent), _inference(snap, camera),
                 _output(camera, recent)]
        if snap.settings.domain_enabled:
            found.append(_domain(camera))
        result += [s._replace(task=f'{s.task} {camera.name}'.strip()) for s in found]
    if snap.device:
        result.append(_device(snap.device))
    return result


def _model(snap: Snapshot) -> Status:
    model, engine = snap.model, snap.engine
    if model is None:
        if snap.model_error:
            return Status('model', ERROR, snap.model_error, {'state': snap.state})
        return Status('model', OK, f'not loaded ({snap.state})', {'state': snap.state})
    values = {
        'state': snap.state, 'name': model.name, 'path': model.path, 'sha256': model.sha256[:12],
        'num_classes': model.num_classes, 'backend': snap.backend, 'load_s': model.load_s,
        'input_size': f'{model.input_size[0]}x{model.input_size[1]}',
        'engine': engine.state if engine else 'none', 'engine_path': engine.path if engine else '',
        'trt_version': engine.version if engine else '',
        'cuda_version': engine.cuda_version if engine else ''}
    if snap.model_error:
        return Status('model', ERROR, snap.model_error, values)
    if engine is not None and engine.state == 'fallback':
        return Status('model', WARN, f'{snap.backend} answers, there is no engine: '
                      f'{engine.reason}; ~/rebuild_engine tries again', values)
    if model.embedded:
        return Status('model', WARN, 'embedded demonstration model; set model_path', values)
    return Status('model', OK, f'{model.name} on {snap.backend}', values)


def _input(snap: Snapshot, seen: CameraSnapshot, now: float,
           recent: Mapping[str, int]) -> Status:
    health, camera, settings = seen.health, seen.camera, snap.settings
    counts = health.counts()
    # While the node was inactive nobody listened.
    silent = now - max(seen.active_since, health.last_input or 0.0)
    values = {
        'topic': camera.topic, 'publishers': camera.publishers, 'qos_match': camera.compatible,
        'qos_offered': camera.offered, 'qos_asked': camera.asked, 'encoding': health.encoding,
        'height': health.size[0], 'width': health.size[1],
        'rate_hz': health.input_rate.hz(now),
        'last_frame_age_s': math.nan if health.last_input is None else now - health.last_input,
        **{name: counts[name] for name in (
            'received', 'dropped_disabled', 'dropped_superseded', 'dropped_stale',
            'lost_middleware', 'decode_errors', 'header_stamp_zero', 'out_of_order')}}
    if silent > settings.input_timeout:
        return Status('input', ERROR, starvation(camera, silent), values)
    if recent['decode_errors'] and recent['decode_errors'] >= recent['received']:
        return Status('input', ERROR, 'no picture could be read; see the log', values)
    if recent['dropped_stale'] > _MANY_DROPPED * recent['received']:
        return Status('input', WARN, (
            f'{recent["dropped_stale"]} of {recent["received"]} pictures{_LATELY} were older than '
            f'max_image_age ({settings.max_image_age:g} s): when playing a bag use --clock and '
            'use_sim_time, when the cameras are on another machine synchronise the clocks, or '
            'set max_image_age to 0'), values)
    lost = recent['dropped_superseded'] + recent['lost_middleware']
    if lost > _MANY_DROPPED * recent['received'] and not settings.max_rate:
        return Status('input', WARN, (
            f'{lost} of {recent["received"]} pictures{_LATELY} were skipped: the camera is faster '
            'than the model'), values)
    if recent['decode_errors']:
        return Status('input', WARN, (
            f'{recent["decode_errors"]} pictures could not be read{_LATELY}'), values)
    return Status('input', OK, f'{values["rate_hz"]:.1f} Hz', values)


def starvation(camera: Camera, seconds: float) -> str:
    """Say why no picture comes, as far as it can be known, and what to do."""
    start = f'no picture on {camera.topic} for {seconds:.1f} s: '
    if not camera.publishers:
        return start + ('nobody publishes there; start the camera, or map the topic with '
                        'image_topic:=... (launch) or --ros-args -r image:=...')
    if not camera.compatible:
        return start + ('the camera offers best_effort and the node asks for reliable; set '
                        'qos.image.reliability to auto')
    return start + (
        f'{camera.publishers} publisher(s) are there; either they send nothing, or large pictures '
        'are lost in the shared memory of Fast DDS: start the camera and the node with '
        'FASTDDS_DEFAULT_PROFILES_FILE and FASTRTPS_DEFAULT_PROFILES_FILE set to '
        'config/fastdds_large_images.xml')


def _inference(snap: Snapshot, seen: CameraSnapshot) -> Status:
    health, settings, counts = seen.health, snap.settings, seen.health.counts()
    p50, p95, most = (health.stages['total'].percentile(p) for p in (50, 95, 100))
    values = {
        'backend': snap.backend, 'precision': snap.model.precision if snap.model else '',
        'batch': snap.batch, 'fps': health.output_rate.hz(),
        'latency_ms_p50': p50, 'latency_ms_p95': p95, 'latency_ms_max': most,
        **{f'{name}_ms_p50': health.stages[name].percentile(50) for name in STAGES[:-1]},
        'infer_ms_p95': health.stages['infer'].percentile(95),
        'infer_ms_max': health.stages['infer'].percentile(100),
        'errors_total': counts['errors_total'], 'consecutive_errors': health.consecutive_errors,
        'last_error': health.last_error}
    if health.consecutive_errors:
        level = ERROR if health.consecutive_errors >= settings.max_consecutive_errors else WARN
        return Status('inference', level, (
            f'{health.consecutive_errors} inferences in a row failed: {health.last_error}'),
            values)
    if not settings.enabled:
        return Status('inference', OK, 'disabled (parameter enabled, service ~/enable)', values)
    if math.isnan(p50):
        return Status('inference', OK, 'nothing inferred yet', values)
    if p50 > settings.latency_warn_ms:
        return Status('inference', WARN, (
            f'{p50:.0f} ms for one picture, more than latency_warn_ms '
            f'({settings.latency_warn_ms:g})'), values)
    return Status('inference', OK, f'{p50:.0f} ms for one picture', values)


def _output(seen: CameraSnapshot, recent: Mapping[str, int]) -> Status:
    health, counts = seen.health, seen.health.counts()
    values = {
        'rate_hz': health.output_rate.hz(), 'published': counts['published'],
        'publish_errors': counts['publish_errors'], 'subscribers': seen.subscribers,
        'pipeline_latency_ms': health.pipeline.percentile(50),
        'pipeline_latency_ms_p95': health.pipeline.percentile(95)}
    if recent['publish_errors']:
        return Status('output', WARN, (
            f'{recent["publish_errors"]} pictures could not be published{_LATELY}'), values)
    return Status('output', OK, f'{values["rate_hz"]:.1f} Hz to {seen.subscribers} subscriber(s)',
                  values)


def _domain(seen: CameraSnapshot) -> Status:
    values, faults = seen.domain
    verdict = 'shifted' if faults else 'normal' if values else 'unknown'
    return Status('domain', WARN if faults else OK, '; '.join(faults) or verdict,
                  {**values, 'verdict': verdict})


def _device(values: Mapping[str, object]) -> Status:
    why = values.get('throttling')
    if why:
        return Status('device', WARN, f'slowed down: {why}; look at its cooling, its power supply '
                      'and its power mode', values)
    return Status('device', OK, str(values.get('gpu') or values.get('power_mode', '')), values)


def to_message(found: list[Status], node: str, hardware: str, stamp: object) -> DiagnosticArray:
    """Build the message; ``node``, the fully qualified name, comes before each task."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    array = DiagnosticArray()
    array.header.stamp = stamp
    for status in found:
        array.status.append(DiagnosticStatus(
            name=f'{node}: {status.task}', level=bytes([status.level]), message=status.message,
            hardware_id=hardware,
            values=[KeyValue(key=k, value=_text(v)) for k, v in status.values.items()]))
    return array


def _text(value: object) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)
