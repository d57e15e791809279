# SPDX-License-Identifier: Apache-2.0
"""
What the node knows about its own health, and the diagnostic statuses made from it.

Nothing here needs a running node: counters go in, :class:`Status` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math
import threading
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_ros.measures import Durations, Rate
from dgtl_ros.parameters import Settings

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray

OK, WARN, ERROR = 0, 1, 2
STAGES = ('wait', 'decode', 'preprocess', 'infer', 'postprocess', 'publish', 'total')
_MANY_DROPPED = 0.1  # share of the pictures whose loss is worth a warning


class Status(NamedTuple):
    """One line of the diagnostics: a task of the node, how it does, and its figures."""

    task: str
    level: int
    message: str
    values: Mapping[str, object]


@dataclass
class Camera:
    """What the graph says about the camera's topic."""

    topic: str = ''
    publishers: int = 0
    offered: str = ''  # reliability of the publishers: reliable, best_effort or mixed
    asked: str = ''    # reliability of our subscription

    @property
    def compatible(self) -> bool:
        """Whether the middleware lets the pictures through."""
        return not (self.asked == 'reliable' and self.offered in ('best_effort', 'mixed'))


class Health:
    """Counters of everything that happens to a picture. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start counting from zero."""
        with self._lock:
            self._counts = dict.fromkeys((
                'received', 'dropped_disabled', 'dropped_superseded', 'dropped_stale',
                'lost_middleware', 'decode_errors', 'header_stamp_zero', 'out_of_order',
                'errors_total', 'publish_errors', 'published'), 0)
            self.consecutive_errors = 0
            self.last_error = ''
            self.last_input: float | None = None  # by the steady clock
            self._last_stamp = 0
            self.encoding = ''
            self.size = (0, 0)  # of the last picture that could be read, (height, width)
        self.input_rate, self.output_rate = Rate(), Rate()
        self.stages = {name: Durations() for name in STAGES}
        self.pipeline = Durations()  # from the picture's stamp to its labels

    def count(self, name: str, number: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += number

    def counts(self) -> dict[str, int]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)

    def image(self, encoding: str, stamp: int, now: float) -> None:
        """Note a picture that arrived; ``stamp`` in nanoseconds, ``now`` by the steady clock."""
        self.input_rate.tick(now)
        with self._lock:
            self._counts['received'] += 1
            self._counts['header_stamp_zero'] += stamp == 0
            self._counts['out_of_order'] += 0 < stamp < self._last_stamp
            self._last_stamp = stamp or self._last_stamp
            self.last_input, self.encoding = now, encoding

    def failed(self, error: BaseException) -> int:
        """Note a failed inference; return how many failed in a row."""
        with self._lock:
            self._counts['errors_total'] += 1
            self.consecutive_errors += 1
            self.last_error = f'{type(error).__name__}: {error}'
            return self.consecutive_errors

    def succeeded(self) -> None:
        """Note an inference that worked."""
        with self._lock:
            self.consecutive_errors = 0


@dataclass(frozen=True)
class Model:
    """What is known about the loaded model."""

    name: str
    path: str
    sha256: str
    num_classes: int
    input_size: tuple[int, int]
    backend: str
    load_s: float
    embedded: bool


@dataclass
class Snapshot:
    """Everything the statuses are made from."""

    state: str  # of the lifecycle
    settings: Settings
    health: Health
    camera: Camera = field(default_factory=Camera)
    model: Model | None = None
    model_error: str = ''
    domain: tuple[dict[str, float], list[str]] = ({}, [])
    subscribers: int = 0
    active_since: float = 0.0  # by the steady clock


def statuses(snap: Snapshot, now: float | None = None) -> list[Status]:
    """Return the status of each task; ``now`` by the steady clock."""
    now = time.monotonic() if now is None else now
    result = [_model(snap)]
    if snap.state == 'active':
        result += [_input(snap, now), _inference(snap), _output(snap)]
        if snap.settings.domain_enabled:
            result.append(_domain(snap))
    return result


def _model(snap: Snapshot) -> Status:
    model = snap.model
    if model is None:
        if snap.model_error:
            return Status('model', ERROR, snap.model_error, {'state': snap.state})
        return Status('model', OK, f'not loaded ({snap.state})', {'state': snap.state})
    values = {
        'state': snap.state, 'name': model.name, 'path': model.path, 'sha256': model.sha256[:12],
        'num_classes': model.num_classes, 'backend': model.backend, 'load_s': model.load_s,
        'input_size': f'{model.input_size[0]}x{model.input_size[1]}'}
    if model.embedded:
        return Status('model', WARN, 'embedded demonstration model; set model_path', values)
    return Status('model', OK, f'{model.name} on {model.backend}', values)


def _input(snap: Snapshot, now: float) -> Status:
    health, camera, settings = snap.health, snap.camera, snap.settings
    counts = health.counts()
    since = snap.active_since if health.last_input is None else health.last_input
    age = now - since
    values = {
        'topic': camera.topic, 'publishers': camera.publishers, 'qos_match': camera.compatible,
        'qos_offered': camera.offered, 'qos_asked': camera.asked, 'encoding': health.encoding,
        'height': health.size[0], 'width': health.size[1],
        'rate_hz': health.input_rate.hz(now),
        'last_frame_age_s': age if health.last_input is not None else math.nan,
        **{name: counts[name] for name in (
            'received', 'dropped_disabled', 'dropped_superseded', 'dropped_stale',
            'lost_middleware', 'decode_errors', 'header_stamp_zero', 'out_of_order')}}
    if age > settings.input_timeout:
        return Status('input', ERROR, starvation(camera, age), values)
    if counts['decode_errors'] and counts['decode_errors'] >= counts['received']:
        return Status('input', ERROR, 'no picture could be read; see the log', values)
    if counts['dropped_stale'] > _MANY_DROPPED * counts['received']:
        return Status('input', WARN, (
            f'{counts["dropped_stale"]} of {counts["received"]} pictures were older than '
            f'max_image_age ({settings.max_image_age:g} s): when playing a bag use --clock and '
            'use_sim_time, when the cameras are on another machine synchronise the clocks, or '
            'set max_image_age to 0'), values)
    lost = counts['dropped_superseded'] + counts['lost_middleware']
    if lost > _MANY_DROPPED * counts['received'] and not settings.max_rate:
        return Status('input', WARN, (
            f'{lost} of {counts["received"]} pictures were skipped: the camera is faster than '
            'the model'), values)
    if counts['decode_errors']:
        return Status('input', WARN, f'{counts["decode_errors"]} pictures could not be read',
                      values)
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


def _inference(snap: Snapshot) -> Status:
    health, settings, counts = snap.health, snap.settings, snap.health.counts()
    p50, p95, most = (health.stages['total'].percentile(p) for p in (50, 95, 100))
    values = {
        'backend': snap.model.backend if snap.model else '', 'fps': health.output_rate.hz(),
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


def _output(snap: Snapshot) -> Status:
    health, counts = snap.health, snap.health.counts()
    values = {
        'rate_hz': health.output_rate.hz(), 'published': counts['published'],
        'publish_errors': counts['publish_errors'], 'subscribers': snap.subscribers,
        'pipeline_latency_ms_p50': health.pipeline.percentile(50),
        'pipeline_latency_ms_p95': health.pipeline.percentile(95)}
    if counts['publish_errors']:
        return Status(
            'output', WARN, f'{counts["publish_errors"]} pictures could not be published', values)
    return Status('output', OK, f'{values["rate_hz"]:.1f} Hz to {snap.subscribers} subscriber(s)',
                  values)


def _domain(snap: Snapshot) -> Status:
    values, faults = snap.domain
    verdict = 'shifted' if faults else 'normal' if values else 'unknown'
    return Status('domain', WARN if faults else OK, '; '.join(faults) or verdict,
                  {**values, 'verdict': verdict})


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
