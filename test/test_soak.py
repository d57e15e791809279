# SPDX-License-Identifier: Apache-2.0
"""The long run under faults: how it judges, and a minute of it."""

import json
import mmap
import os
import tempfile

from dgtl_ros.show.soak import judge, main, page, read_process, Reading
import pytest

COUNTS = {'received': 100, 'published': 60, 'unpublished': 0, 'dropped_domain': 0,
          'dropped_disabled': 10, 'dropped_superseded': 20, 'dropped_stale': 3,
          'dropped_inactive': 2, 'decode_errors': 4, 'errors_total': 0, 'waiting': 1}


def readings(minutes=5, **last):
    """A run that holds, but for what the last sample says."""
    steady = Reading(0.0, 300.0, 130.0, 430.0, 20, 30, 50.0)
    return [*(steady._replace(seconds=float(s)) for s in range(60 * minutes)),
            steady._replace(seconds=60.0 * minutes, latency_p99_ms=None)._replace(**last)]


def failed(found=None, counts=COUNTS, labels=60, log=''):
    findings = judge(found or readings(), {'front': counts}, labels, log)
    return [v.what for v in findings if not v.good]


def test_a_run_that_holds():
    assert failed() == []
    page(readings(), judge(readings(), {'front': COUNTS}, 60, ''), {'pause': 3})


@pytest.mark.parametrize('changed, what', [
    ({'found': readings(memory_mib=316.0)}, 'memory is steady'),
    ({'found': readings(minutes=1, memory_mib=332.0)}, 'memory is steady'),
    ({'found': readings(shared_mib=198.0)}, 'shared memory is steady'),
    ({'found': readings(threads=24)}, 'threads are steady'),
    ({'found': readings(descriptors=40)}, 'descriptors are steady'),
    ({'labels': 50}, 'labels arrive'),
    ({'log': 'Traceback (most recent call last)'}, 'no unhandled exception'),
    ({'counts': {**COUNTS, 'received': 101}}, 'every picture of front is counted once'),
    ({'counts': dict.fromkeys(COUNTS, 0), 'labels': 0}, 'every picture of front is counted once'),
])
def test_what_does_not_hold_is_named(changed, what):
    assert what in failed(**changed)


def test_memory_is_compared_with_that_after_the_first_minute():
    growing = [s._replace(memory_mib=200.0 + min(s.seconds, 60.0)) for s in readings()]
    assert failed(growing) == []


def test_a_short_run_has_room_for_what_happens_for_the_first_time():
    assert failed(readings(minutes=1, memory_mib=330.0)) == []
    assert failed(readings(minutes=4, memory_mib=330.0)) == ['memory is steady']


def test_pages_of_shared_memory_that_are_used_for_the_first_time_are_no_leak():
    assert failed(readings(resident_mib=500.0)) == []


def test_a_process_is_measured():
    before = read_process(os.getpid(), 0.0, [])
    with tempfile.TemporaryFile(dir='/dev/shm') as file:
        file.truncate(64 << 20)
        shared = mmap.mmap(file.fileno(), 64 << 20)
        # not from malloc, which may have kept that much
        kept = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for _ in range(32):  # nor from a large text, whose memory malloc may keep
            kept.write(b'x' * 2**20)
        found = read_process(os.getpid(), 1.0, [1.0, 3.0])
        shared.close()
    assert found.shared_mib == before.shared_mib + 64
    assert found.memory_mib - before.memory_mib == pytest.approx(len(kept) / 2**20, abs=8)
    assert found.resident_mib > found.memory_mib and found.threads >= 1
    assert found.descriptors > before.descriptors and 1 < found.latency_p99_ms <= 3


def test_latency_that_grows_is_named():
    slower = [s._replace(latency_p99_ms=50.0 + s.seconds) for s in readings()[:-1]]
    assert failed(slower) == ['latency is steady']


@pytest.mark.parametrize('arguments', [['--minutes', '0'], ['--minutes', 'x'], ['--fast']])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and arguments[0] in capsys.readouterr().err


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_it(tiny_model, tmp_path):
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    from dgtl_ros.show.children import Child, isolated_environment
    arguments = ['--minutes', '1', '--model', str(tiny_model), '--out', str(tmp_path)]
    with Child('dgtl_ros.show.soak', arguments, isolated_environment()) as child:
        code = child.process.wait(280)
    found = json.loads((tmp_path / 'soak.json').read_text())
    assert code == 0, found['findings']
    assert sum(found['faults'].values()) == 60 and found['labels'] > 100
    assert len(found['readings']) == 61 and (tmp_path / 'soak.html').is_file()
