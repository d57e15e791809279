# SPDX-License-Identifier: Apache-2.0
"""
The diagnostic statuses, made from what the node knows about itself.

Nothing here needs a running node: a :class:`Snapshot` goes in, ``Status`` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math
import time
from typing import NamedTuple

from dgtl_core.domain import Verdict
from dgtl_core.predictor import EngineStatus
from dgtl_ros.health import Camera, Health, OUTCOMES, RECENT_S, STAGES
from dgtl_ros.settings import Settings
from dgtl_ros.silence import old, starvation
from dgtl_ros.status import ERROR, OK, Status, WARN
from dgtl_ros.watchdog import Stuck

_LATELY = f' in the last {RECENT_S:.0f} s'
_CLOCK_STANDS = ('have a stamp in the future, because use_sim_time is true and nobody publishes '
                 '/clock: start the simulator, play the bag with --clock, or set it to false')
_MANY_DROPPED = 0.1  # share of the pictures whose loss is worth a warning


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
    domain: Verdict = Verdict()
    subscribers: int = 0
    active_since: float = 0.0  # by the steady clock
    stuck: Stuck | None = None  # its decoder
    faults: Sequence[str] = ()  # of its outputs


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
    stuck: Stuck | None = None  # what all cameras wait for
    twins: int = 0  # other nodes with our name
    clock_stands: bool = False  # simulated time that nobody publishes
    unlabeled: str = ''  # the class that has the id unlabeled_id, if one has


class _Seen(NamedTuple):
    """One camera at one moment, so that its statuses agree with each other."""

    snap: Snapshot
    camera: CameraSnapshot
    now: float
    counts: Mapping[str, int]
    recent: Mapping[str, int]  # what the counters grew by lately

    @property
    def hangs(self) -> Stuck | None:
        """What its pictures wait for."""
        return self.snap.stuck or self.camera.stuck

    @property
    def silent(self) -> float:
        """Seconds without a picture; while the node was inactive nobody listened."""
        return self.now - max(self.camera.active_since, self.camera.health.last_input or 0.0)


def statuses(snap: Snapshot, now: float | None = None) -> list[Status]:
    """Return the status of each task; ``now`` by the steady clock."""
    now = time.monotonic() if now is None else now
    result = [_model(snap)]
    if snap.state != 'active':
        return result
    for camera in snap.cameras:
        seen = _Seen(snap, camera, now, camera.health.counts(), camera.health.recent(now))
        found = [_input(seen), _inference(seen), _output(seen)]
        if snap.settings.domain_enabled:
            found.append(_domain(seen))
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
    if snap.twins:
        return Status('model', WARN, f'{snap.twins} other node(s) have our name: both answer to '
                      'services and publish on one topic; give each a name or a namespace of its '
                      'own', values)
    if engine is not None and engine.state == 'fallback':
        return Status('model', WARN, f'{snap.backend} answers, there is no engine: '
                      f'{engine.reason}; ~/rebuild_engine tries again', values)
    if model.embedded:
        return Status('model', WARN, 'embedded demonstration model; set model_path', values)
    return Status('model', OK, f'{model.name} on {snap.backend}', values)


def _input(at: _Seen) -> Status:
    snap, seen, now, counts, recent = at
    health, camera, settings = seen.health, seen.camera, snap.settings
    reasons = health.reasons
    values = {
        'topic': camera.topic, 'publishers': camera.publishers, 'qos_match': camera.compatible,
        'qos_offered': camera.offered, 'qos_asked': camera.asked, 'encoding': health.encoding,
        'height': health.size[0], 'width': health.size[1],
        'rate_hz': health.input_rate.hz(now),
        'last_frame_age_s': math.nan if health.last_input is None else now - health.last_input,
        **{name: counts[name] for name in (
            'received', 'waiting', 'dropped_disabled', 'dropped_superseded', 'dropped_stale',
            'dropped_inactive', 'dropped_domain', 'lost_middleware', 'not_delivered',
            'decode_errors', 'damaged', 'header_stamp_zero', 'stamp_in_future', 'out_of_order')}}
    if seen.stuck is not None:
        return Status('input', ERROR, f'{seen.stuck.text(now)}; on_timeout says what follows',
                      values)
    if at.silent > settings.input_timeout:
        return Status('input', ERROR, starvation(camera, at.silent, health.size, now), values)
    if _unreadable(at):
        return Status(
            'input', ERROR, f'no picture could be read: {reasons["decode_errors"]}', values)
    if snap.stuck is not None:
        return Status('input', WARN, 'pictures come, and wait for what hangs', values)
    sent, lost = _account(recent)
    if settings.max_image_age and recent['dropped_stale'] > _MANY_DROPPED * sent:
        why = old(settings, recent['dropped_stale'] >= recent['received'])
        return Status('input', WARN, f'{recent["dropped_stale"]} of {sent} pictures{_LATELY} '
                      f'were too old, {why}', values)
    for name, what in (
            ('stamp_in_future', _CLOCK_STANDS if snap.clock_stands else 'have a stamp in the '
             'future: synchronise the clocks; max_image_age does not see how old they are'),
            ('header_stamp_zero', 'have no stamp: nobody can match their labels to other topics; '
             'let the camera driver set header.stamp')):
        if recent[name] > _MANY_DROPPED * sent:
            return Status('input', WARN, f'{recent[name]} of {sent} pictures{_LATELY} {what}',
                          values)
    if recent['dropped_superseded'] + lost > _MANY_DROPPED * sent and not settings.max_rate:
        return Status('input', WARN, (
            f'of {sent} pictures{_LATELY} {recent["dropped_superseded"]} were skipped (the camera '
            f'is faster than the model) and {lost} not delivered (by the middleware)'), values)
    if recent['decode_errors']:
        return Status('input', WARN, (
            f'{recent["decode_errors"]} pictures could not be read{_LATELY}, the last one: '
            f'{reasons["decode_errors"]}'), values)
    if recent['damaged']:
        return Status('input', WARN, (
            f'{recent["damaged"]} pictures were damaged{_LATELY}, and labelled as they are: check '
            'the camera and the network'), values)
    return Status('input', OK, f'{values["rate_hz"]:.1f} Hz', values)


def _unreadable(at: _Seen) -> bool:
    """Whether no message holds a picture, for longer than a camera may be silent."""
    health, timeout = at.camera.health, at.snap.settings.input_timeout
    if at.recent['decode_errors'] and at.recent['decode_errors'] >= at.recent['received']:
        return True
    return (at.now - health.last_unread <= timeout
            and at.now - max(at.camera.active_since, health.last_read) > timeout)


def _account(recent: Mapping[str, int]) -> tuple[int, int]:
    """Return how many pictures were sent, as far as we know, and how many of them did not come."""
    lost = max(recent['lost_middleware'], recent['not_delivered'])
    # What ended lately may have come before; a part is never more than the whole.
    return max(recent['received'], sum(recent[name] for name in OUTCOMES)) + lost, lost


def _inference(at: _Seen) -> Status:
    snap, seen, now, counts, _ = at
    health, settings = seen.health, snap.settings
    p50, p95, most = (health.stages['total'].percentile(p) for p in (50, 95, 100))
    values = {
        'backend': snap.backend, 'precision': snap.model.precision if snap.model else '',
        'batch': snap.batch, 'fps': health.output_rate.hz(now),
        'latency_ms_p50': p50, 'latency_ms_p95': p95, 'latency_ms_max': most,
        **{f'{name}_ms_p50': health.stages[name].percentile(50) for name in STAGES[:-1]},
        'infer_ms_p95': health.stages['infer'].percentile(95),
        'infer_ms_max': health.stages['infer'].percentile(100),
        'errors_total': counts['errors_total'], 'consecutive_errors': health.consecutive_errors,
        'last_error': health.last_error}
    if snap.stuck is not None:
        return Status('inference', ERROR, f'{snap.stuck.text(now)}; on_timeout is '
                      f'"{settings.on_timeout}"', values)
    if health.consecutive_errors:
        level = ERROR if health.consecutive_errors >= settings.max_consecutive_errors else WARN
        return Status('inference', level, (
            f'{health.consecutive_errors} inferences in a row failed: {health.last_error}'),
            values)
    if not settings.enabled:
        return Status('inference', OK, 'disabled (parameter enabled, service ~/enable)', values)
    if math.isnan(p50):
        waits = health.input_rate.hz(now) > 0
        return Status('inference', WARN if waits else OK, 'nothing inferred yet', values)
    if _idle(health, now) and not _held_back(seen, settings):
        return Status('inference', WARN, 'pictures come, and none is inferred', values)
    if p50 > settings.latency_warn_ms:
        return Status('inference', WARN, (
            f'{p50:.0f} ms for one picture, more than latency_warn_ms '
            f'({settings.latency_warn_ms:g})'), values)
    return Status('inference', OK, f'{p50:.0f} ms for one picture', values)


def _idle(health: Health, now: float) -> bool:
    """Whether pictures come and no labels go."""
    return health.input_rate.hz(now) > 0 and health.output_rate.hz(now) == 0


def _held_back(seen: CameraSnapshot, settings: Settings) -> bool:
    """Whether the verdict on the pictures keeps their labels from being published."""
    return (settings.domain_enabled and settings.domain_action == 'stop_publishing'
            and seen.domain.state != 'familiar')


def _output(at: _Seen) -> Status:
    snap, seen, now, counts, recent = at
    health, settings = seen.health, snap.settings
    values = {
        'rate_hz': health.output_rate.hz(now), 'published': counts['published'],
        'unpublished': counts['unpublished'], 'publish_errors': counts['publish_errors'],
        'subscribers': seen.subscribers,
        'pipeline_latency_ms': health.pipeline.percentile(50),
        'pipeline_latency_ms_p95': health.pipeline.percentile(95)}
    if not settings.enabled:
        return Status('output', OK, 'disabled (parameter enabled, service ~/enable)', values)
    held = _held_back(seen, settings)
    if at.hangs is not None:
        return Status('output', ERROR, f'no labels for {now - at.hangs.since:.1f} s; the statuses '
                      'input and inference say what hangs', values)
    if _idle(health, now) and recent['unpublished'] and not health.consecutive_errors:
        return Status('output', ERROR, f'no labels: {health.reasons["publish_errors"]}', values)
    if _idle(health, now) and not held:
        return Status('output', WARN, (
            f'no labels, and pictures come at {health.input_rate.hz(now):.1f} Hz; the statuses '
            'input and inference say why'), values)
    if recent['publish_errors']:
        return Status('output', WARN, (
            f'{recent["publish_errors"]} times something could not be published{_LATELY}, the '
            f'last time: {health.reasons["publish_errors"]}'), values)
    if held:
        return Status('output', WARN, f'no labels: the pictures are {seen.domain.state} and '
                      'domain.action is "stop_publishing"', values)
    if snap.unlabeled:
        return Status('output', WARN, f'unlabeled_id is {settings.unlabeled_id}, the id of '
                      f'{snap.unlabeled}: pixels without a class, or below confidence_threshold, '
                      f'are published as {snap.unlabeled}; use 255', values)
    if seen.faults:
        return Status('output', WARN, '; '.join(seen.faults), values)
    return Status('output', OK, f'{values["rate_hz"]:.1f} Hz to {seen.subscribers} subscriber(s)',
                  values)


def _domain(at: _Seen) -> Status:
    """Return the status of the verdict, unless the pictures that it is about are long gone."""
    verdict, settings = at.camera.domain, at.snap.settings
    unknown = domain(Verdict(), settings)
    if not settings.enabled:
        return unknown._replace(message='disabled (parameter enabled, service ~/enable)')
    judged = domain(verdict, settings)
    health = at.camera.health
    if not (at.hangs or at.silent > settings.input_timeout or health.consecutive_errors
            or _idle(health, at.now) and not _held_back(at.camera, settings)):
        return judged
    return unknown._replace(
        level=max(WARN, judged.level), message='no picture is judged, the other statuses say why; '
        f'the last verdict: {judged.message}')


def domain(verdict: Verdict, settings: Settings) -> Status:
    """Return the status of the domain, at the level that the user chose for its state."""
    chosen = {'familiar': 'ok', 'shifted': settings.domain_level_shifted,
              'unusable': settings.domain_level_unusable}[verdict.state]
    state = verdict.state if verdict.values else 'unknown'
    return Status('domain', {'ok': OK, 'warn': WARN, 'error': ERROR}[chosen],
                  ', '.join(verdict.causes) or state,
                  {'verdict': state, 'state': state, 'score': verdict.score, **verdict.values})


def _device(values: Mapping[str, object]) -> Status:
    why = values.get('throttling')
    if why:
        return Status('device', WARN, f'slowed down: {why}; look at its cooling, its power supply '
                      'and its power mode', values)
    return Status('device', OK, str(values.get('gpu') or values.get('power_mode', '')), values)
