# SPDX-License-Identifier: Apache-2.0
from dgtl_core.domain_change import ChangeDetector, MEAN_PICTURES, NOMINAL_S
import numpy as np
import pytest

CHANNELS = 9


def evidence(rng, apart, shifted=(), count=1):
    """Log likelihood ratios of normal pictures, or of such where some channels are shifted."""
    z = rng.standard_normal((count, CHANNELS))
    z[:, list(shifted)] += apart
    return apart * (z - apart / 2)


def added(detector, steps, seconds=NOMINAL_S):
    for step in steps:
        detector.add(step, seconds)
    return detector.changed


@pytest.mark.parametrize('apart', [1.0, 2.0, 4.0])
def test_false_alarms_are_as_rare_as_stated(apart):
    """At an interval that a test can wait for; the height for another follows the same formula."""
    rng, interval, detector, alarms, pictures = np.random.default_rng(0), 300, None, 0, 60_000
    for step in evidence(rng, apart, count=pictures):
        detector = detector or ChangeDetector(CHANNELS, interval)
        detector.add(step)
        if detector.changed:
            alarms, detector = alarms + 1, None
    assert pictures / max(alarms, 1) >= interval, alarms
    assert alarms or apart > 1, 'nothing was tested'


def test_the_interval_is_hours_of_a_camera():
    assert MEAN_PICTURES * NOMINAL_S / 3600 > 24


@pytest.mark.parametrize('hertz', [10, 30])
def test_a_change_is_seen_within_a_second_and_a_flare_never(hertz):
    rng = np.random.default_rng(1)
    for _ in range(50):
        detector = ChangeDetector(CHANNELS)
        assert not added(detector, evidence(rng, 4, count=50), 1 / hertz)
        flare = evidence(rng, 8, (2,), count=4 * hertz // 10)
        assert not added(detector, flare, 1 / hertz)
        assert not added(detector, evidence(rng, 4, count=50), 1 / hertz)
        assert added(detector, evidence(rng, 4, (2,), count=hertz), 1 / hertz)


def test_an_alarm_stays_while_the_evidence_wavers_and_ends_in_a_second():
    rng, detector = np.random.default_rng(2), ChangeDetector(CHANNELS)
    assert added(detector, evidence(rng, 4, (0,), count=100))
    states = [added(detector, evidence(rng, 4, (0,) if n % 3 else ())) for n in range(100)]
    assert all(states), 'it flickers'
    assert not added(detector, evidence(rng, 4, count=10))


def test_evidence_in_turn_for_other_things_is_no_change():
    rng, detector = np.random.default_rng(3), ChangeDetector(CHANNELS)
    steps = [evidence(rng, 4, (n % CHANNELS,))[0] for n in range(200)]
    assert not added(detector, steps)


def test_without_channels_nothing_changes():
    assert not added(ChangeDetector(0), np.zeros((5, 0)))
