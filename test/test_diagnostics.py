# SPDX-License-Identifier: Apache-2.0
import math

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_core.domain import Verdict
from dgtl_core.predictor import EngineStatus
from dgtl_ros.diagnostics import CameraSnapshot, Model, Snapshot, statuses
from dgtl_ros.health import Camera, Health
from dgtl_ros.measures import Rate
from dgtl_ros.settings import Settings
from dgtl_ros.silence import starvation
from dgtl_ros.status import ERROR, OK, to_message, WARN
from dgtl_ros.watchdog import Stuck

pytestmark = pytest.mark.ros
MODEL = Model(name='tiny', path='/m/tiny.onnx', sha256='0123456789abcdef', num_classes=19,
              input_size=(32, 64), precision='fp32', load_s=0.5, embedded=False)
FAMILIAR = Verdict()
CAMERA = Camera('/image', 1, 'reliable', 'reliable')


def fed(pictures=100, **counts):
    """Return a health that saw and labelled pictures at 10 Hz until t = 10 s."""
    health = Health()
    for i in range(pictures):
        label(health, i + 1, 10 - (pictures - 1 - i) / 10)
    for name, number in counts.items():
        health.count(name, number)
    return health


def label(health, stamp, now):
    ticket = health.image('rgb8', stamp, now)
    health.end(ticket, 'published')
    health.output_rate.tick(now)


def seen(health=None, camera=CAMERA, name='', **changes):
    return CameraSnapshot(name, health or fed(), camera, **changes)


def look(task, now=10.05, health=None, camera=CAMERA, domain=FAMILIAR, active_since=0.0,
         **changes):
    cameras = [seen(health, camera, domain=domain, active_since=active_since)]
    values = {'state': 'active', 'settings': Settings(), 'model': MODEL, 'cameras': cameras,
              'backend': 'onnxruntime (CPU)', **changes}
    return {s.task: s for s in statuses(Snapshot(**values), now)}[task]


def test_a_healthy_node_is_ok_everywhere():
    health = fed()
    health.stages['total'].add(20)
    for task in ('model', 'input', 'inference', 'output', 'domain'):
        assert look(task, health=health).level == OK, task
    status = look('input', health=health)
    assert status.message == '10.0 Hz' and status.values['received'] == 100
    assert status.values['encoding'] == 'rgb8'


def test_while_inactive_only_the_model_is_reported():
    snap = Snapshot(state='inactive', settings=Settings(), model=MODEL, cameras=[seen()])
    assert [s.task for s in statuses(snap)] == ['model']


@pytest.mark.parametrize('changes, level, words', [
    ({'model': None, 'state': 'unconfigured'}, OK, 'not loaded'),
    ({'model': None, 'model_error': 'no model file at x'}, ERROR, 'no model file at x'),
    ({'state': 'inactive', 'model_error': '3 inferences failed'}, ERROR, '3 inferences failed'),
    ({'model': Model(**{**MODEL.__dict__, 'embedded': True})}, WARN, 'set model_path'),
])
def test_model(changes, level, words):
    status = look('model', **changes)
    assert status.level == level and words in status.message


@pytest.mark.parametrize('engine, state, level, words', [
    (None, 'none', OK, 'tiny on onnxruntime (CPU)'),
    (EngineStatus('cached', '/e/1.engine', 'tensorrt 10.3.0', '12.6'), 'cached', OK, 'tiny on'),
    (EngineStatus('building'), 'building', OK, 'tiny on onnxruntime (CPU)'),
    (EngineStatus('fallback', reason='no kernel for node 7'), 'fallback', WARN,
     'no engine: no kernel for node 7; ~/rebuild_engine tries again'),
])
def test_engine(engine, state, level, words):
    status = look('model', engine=engine)
    assert status.level == level and words in status.message
    assert status.values['engine'] == state
    if state == 'cached':
        assert status.values['engine_path'] == '/e/1.engine'
        assert status.values['trt_version'] == 'tensorrt 10.3.0'
        assert status.values['cuda_version'] == '12.6'


def test_each_camera_has_its_own_statuses():
    """One is healthy, one is silent, and the message says which."""
    quiet = Camera('/rear/image', 0, '', 'best_effort')
    snap = Snapshot('active', Settings(), MODEL, cameras=[
        seen(name='front'), seen(Health(), quiet, 'rear')])
    found = {s.task: s for s in statuses(snap, 10.05)}
    assert list(found) == ['model', *(f'{task} {name}' for name in ('front', 'rear') for task in (
        'input', 'inference', 'output', 'domain'))]
    assert found['input front'].level == OK and found['input rear'].level == ERROR
    assert '/rear/image' in found['input rear'].message


def test_device():
    assert look('device', device={'gpu': 'Orin'}).message == 'Orin'
    status = look('device', device={'gpu': 'Orin', 'throttling': 'over-current (3 times)'})
    assert status.level == WARN and 'over-current (3 times)' in status.message
    with pytest.raises(KeyError):
        look('device')


@pytest.mark.parametrize('counts, level, words', [
    ({'dropped_superseded': 5}, OK, 'Hz'),
    ({'dropped_superseded': 50}, WARN, 'of 150 pictures in the last 60 s 50 were skipped'),
    ({'lost_middleware': 50}, WARN, 'of 150 pictures in the last 60 s 0 were skipped'),
    ({'not_delivered': 50, 'lost_middleware': 20}, WARN, 'and 50 not delivered'),
    ({'header_stamp_zero': 50}, WARN, 'have no stamp'),
    ({'stamp_in_future': 50}, WARN, 'have a stamp in the future'),
    ({'dropped_stale': 50}, WARN, 'use_sim_time'),
    ({'decode_errors': 1}, WARN, '1 pictures could not be read'),
    ({'decode_errors': 100}, ERROR, 'no picture could be read'),
])
def test_input(counts, level, words):
    status = look('input', health=fed(**counts))
    assert status.level == level and words in status.message


def test_what_is_judged_is_the_last_minute_and_the_figures_are_totals():
    health, now = fed(decode_errors=1, publish_errors=1), 10.0

    def levels():
        found = {s.task: s for s in statuses(
            Snapshot('active', Settings(), MODEL, cameras=[seen(health)]), now)}
        assert found['input'].values['decode_errors'] == 1
        return found['input'].level, found['output'].level

    def later(seconds, skipped=0):
        nonlocal now
        for _ in range(seconds):
            now += 1
            for _ in range(10):
                label(health, 1, now)
            health.count('dropped_superseded', skipped)
            levels()

    assert levels() == (WARN, WARN)
    later(50)
    assert levels() == (WARN, WARN)
    later(20)
    assert levels() == (OK, OK), 'they are more than a minute ago'
    later(3600)
    later(15, skipped=5)
    assert levels() == (WARN, OK), 'an hour without a loss hides nothing'


def test_pictures_that_were_too_old_for_a_limit_that_is_gone_are_no_warning():
    health = fed(dropped_stale=50)
    assert look('input', health=health, settings=Settings(max_image_age=0.0)).level == OK


def test_a_clock_that_nobody_publishes_is_named():
    status = look('input', health=fed(stamp_in_future=50), clock_stands=True)
    assert status.level == WARN and 'nobody publishes /clock' in status.message


def test_a_camera_whose_pictures_cannot_be_read_any_more_is_an_error_soon():
    health = fed(decode_errors=30)  # and good ones before
    health.last_read, health.last_unread = 7.5, 10.0
    health.reasons['decode_errors'] = 'it is cut short'
    status = look('input', health=health)
    assert status.level == ERROR and status.message == 'no picture could be read: it is cut short'
    for read, unread in ((9.5, 10.0), (7.5, 7.6)):  # one among good ones; long ago
        health.last_read, health.last_unread = read, unread
        assert look('input', health=health).level == WARN


def test_no_verdict_where_pictures_come_and_no_labels_go():
    health = fed()
    health.output_rate = Rate()
    status = look('domain', domain=Verdict(values={'blur': 50.0}), health=health)
    assert status.level == WARN and 'no picture is judged' in status.message


def test_skipping_on_purpose_is_no_warning():
    status = look('input', health=fed(dropped_superseded=50), settings=Settings(max_rate=5.0))
    assert status.level == OK


@pytest.mark.parametrize('camera, words', [
    (Camera('/image', 0, '', 'best_effort'), 'nobody publishes'),
    (Camera('/image', 1, 'best_effort', 'reliable'), 'qos.image.reliability to auto'),
    (Camera('/image', 2, 'mixed', 'reliable'), 'qos.image.reliability to auto'),
    (CAMERA, 'fastdds_large_images.xml'),
    (CAMERA, 'as another user or in another container'), (CAMERA, 'fastdds_udp.xml'),
])
def test_silence_is_an_error_that_says_what_to_do(camera, words):
    status = look('input', now=12.5, camera=camera)
    assert status.level == ERROR and words in status.message and '/image' in status.message
    assert starvation(camera, 2.5) == status.message
    assert look('input', now=11.5, camera=camera).level == OK


def test_silence_from_the_start_is_an_error_too():
    status = look('input', now=5.0, health=Health(), active_since=1.0)
    assert status.level == ERROR and math.isnan(status.values['last_frame_age_s'])
    assert look('input', now=2.0, health=Health(), active_since=1.0).level == OK


def test_silence_counts_from_the_activation():
    status = look('input', now=61.0, active_since=60.0)
    assert status.level == OK and status.values['last_frame_age_s'] == pytest.approx(51)
    status = look('input', now=63.0, active_since=60.0)
    assert status.level == ERROR and 'for 3.0 s' in status.message


def test_stamps_that_are_zero_or_run_backwards_are_counted():
    health = Health()
    for stamp in (5, 6, 0, 4, 7):
        health.image('rgb8', stamp, 1.0)
    counts = health.counts()
    assert (counts['header_stamp_zero'], counts['out_of_order']) == (1, 1)


def test_errors_in_a_row_warn_and_then_are_an_error():
    health = fed()
    for number in range(1, 4):
        assert health.failed(MemoryError('too big')) == number
        status = look('inference', health=health, settings=Settings(max_consecutive_errors=3))
        assert status.level == (ERROR if number == 3 else WARN)
        assert 'MemoryError: too big' in status.message
    health.succeeded()
    health.stages['total'].add(20)
    assert look('inference', health=health).level == OK


def test_slow_inference_warns():
    health = fed()
    for _ in range(10):
        health.stages['total'].add(150)
    assert look('inference', health=health).level == WARN
    assert look('inference', health=health, settings=Settings(latency_warn_ms=200.0)).level == OK
    assert 'disabled' in look('inference', settings=Settings(enabled=False)).message


def test_output_names():
    health = fed()
    for latency in (10, 20, 90):
        health.pipeline.add(latency)
    assert look('output', health=health).values['pipeline_latency_ms'] == 20


def test_what_cannot_be_published_warns():
    assert look('output', health=fed(publish_errors=1)).level == WARN


def test_unlabelled_pixels_that_look_like_a_class_warn():
    snap = Snapshot('active', Settings(unlabeled_id=0), MODEL, cameras=[seen()],
                    unlabeled='road')
    status = next(s for s in statuses(snap, 10.05) if s.task == 'output')
    assert status.level == WARN
    assert status.message.startswith('unlabeled_id is 0, the id of road: pixels without a class')


def test_domain():
    assert look('domain').values == {'verdict': 'unknown', 'state': 'unknown', 'score': 0.0}
    assert look('domain', domain=Verdict(values={'blur': 50.0})).message == 'familiar'
    shifted = Verdict(0.9, 'shifted', ('fog-like contrast', 'dark'), {'blur': 5.0})
    status = look('domain', domain=shifted)
    assert status.level == WARN and status.message == 'fog-like contrast, dark'
    assert status.values == {
        'blur': 5.0, 'verdict': 'shifted', 'state': 'shifted', 'score': 0.9}
    chosen = Settings(domain_level_shifted='error', domain_level_unusable='ok')
    assert look('domain', domain=shifted, settings=chosen).level == ERROR
    assert look('domain', domain=Verdict(1.0, 'unusable'), settings=chosen).level == OK
    with pytest.raises(KeyError):
        look('domain', settings=Settings(domain_enabled=False))


FAILING = fed()
FAILING.failed(MemoryError())


@pytest.mark.parametrize('changes', [
    {'stuck': Stuck('the inference has been running', 1.0)}, {'now': 12.5}, {'health': FAILING}],
    ids=['hangs', 'silent', 'fails'])
@pytest.mark.parametrize('state', ['familiar', 'shifted'])
def test_a_verdict_on_pictures_that_are_gone_is_none(changes, state):
    verdict = Verdict(0.2, state, (), {'blur': 50.0})
    levels = Settings(domain_level_shifted='error')
    status = look('domain', domain=verdict, settings=levels, **changes)
    assert status.level == (WARN if state == 'familiar' else ERROR)
    assert 'no picture is judged' in status.message and state in status.message
    assert status.values['verdict'] == status.values['state'] == 'unknown'


def test_a_node_that_is_disabled_has_no_verdict():
    status = look('domain', domain=Verdict(1.0, 'shifted', ('dark',), {'blur': 50.0}),
                  settings=Settings(enabled=False))
    assert status.level == OK and status.message.startswith('disabled')
    assert status.values['verdict'] == 'unknown'


def test_what_hangs_gives_no_labels_from_the_first_moment():
    health = fed()
    assert health.output_rate.hz(10.05) > 9, 'the rate still knows better times'
    status = look('output', health=health, stuck=Stuck('the inference has been running', 9.0))
    assert status.level == ERROR and 'no labels for 1.1 s' in status.message


@pytest.mark.parametrize('task, counter', [
    ('input', 'decode_errors'), ('output', 'publish_errors')])
def test_the_reason_of_the_last_fault_is_shown(task, counter):
    for number in (1, 200):
        health = fed(**{counter: number})
        health.reasons[counter] = "image encoding '8UC2' is not supported: use rgb8"
        assert "encoding '8UC2' is not supported: use rgb8" in look(task, health=health).message
        health.reset()
        assert not health.reasons[counter]


def test_labels_none_of_which_can_be_published_are_an_error_with_the_reason():
    health = Health()
    for i in range(20):
        health.end(health.image('rgb8', i + 1, 9 + i / 20), 'unpublished')
        health.count('publish_errors')
    health.reasons['publish_errors'] = 'the ego mask has 60x30 pixels and the picture 64x32'
    status = look('output', health=health)
    assert status.level == ERROR and status.message.startswith('no labels: the ego mask has 60x30')


def test_the_figures_of_the_interface_have_their_names():
    """Monitors look them up by name."""
    figures = dict.fromkeys((
        'mean_confidence', 'entropy', 'unlabeled_fraction', 'luma_mean', 'frozen_frames',
        'luma_saturated_fraction', 'blur', 'class_hist_shift'), 0.5)
    wanted = {
        'input': 'topic publishers qos_match encoding width height rate_hz last_frame_age_s '
                 'received dropped_superseded dropped_stale lost_middleware decode_errors '
                 'header_stamp_zero out_of_order',
        'inference': 'backend precision batch fps latency_ms_p50 latency_ms_p95 latency_ms_max '
                     'errors_total consecutive_errors last_error preprocess_ms_p50 infer_ms_p50 '
                     'postprocess_ms_p50 publish_ms_p50',
        'output': 'rate_hz pipeline_latency_ms subscribers published',
        'model': 'name sha256 num_classes input_size engine engine_path trt_version cuda_version '
                 'load_s',
        'domain': ' '.join([*figures, 'verdict'])}
    for task, names in wanted.items():
        found = look(task, domain=Verdict(values=figures)).values
        assert set(names.split()) <= set(found), task


def test_reset_starts_from_zero():
    health = fed(decode_errors=3)
    health.failed(ValueError('x'))
    health.stages['infer'].add(5)
    health.reset()
    assert not any(health.counts().values()) and health.last_error == ''
    assert math.isnan(health.stages['infer'].percentile(50))
    assert health.last_input == 10 and health.encoding == 'rgb8', 'the camera is still there'
    assert look('input', health=health).level == OK


def test_message():
    from builtin_interfaces.msg import Time
    found = statuses(Snapshot('active', Settings(), MODEL, cameras=[seen()]), 12.5)
    array = to_message(found, '/robot/segmenter', 'cpu', Time(sec=3))
    assert array.header.stamp.sec == 3
    tasks = ('model', 'input', 'inference', 'output', 'domain')
    assert [s.name for s in array.status] == [f'/robot/segmenter: {task}' for task in tasks]
    assert [s.level for s in array.status][:2] == [bytes([OK]), bytes([ERROR])]
    values = {v.key: v.value for v in array.status[0].values}
    assert values['sha256'] == '0123456789ab' and values['input_size'] == '32x64'
    assert all(s.hardware_id == 'cpu' for s in array.status)
