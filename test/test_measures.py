# SPDX-License-Identifier: Apache-2.0
import math
import threading

from dgtl_ros.measures import Durations, Rate
import pytest


def test_rate_of_regular_events():
    rate = Rate(window=5)
    assert rate.hz(0) == 0
    gaps = [rate.tick(i / 10) for i in range(100)]
    assert gaps[0] is None and gaps[1] == pytest.approx(0.1)
    assert rate.hz(9.9) == pytest.approx(10)


def test_rate_falls_as_soon_as_events_stop_and_then_to_zero():
    rate = Rate(window=5)
    for i in range(51):
        rate.tick(i / 10)
    seen = [rate.hz(5 + wait) for wait in (0, 0.1, 1, 3, 4.95, 20)]
    assert seen[0] == seen[1] == pytest.approx(10)
    assert seen == sorted(seen, reverse=True) and seen[2] < 9 and seen[-1] == 0


def test_a_rate_below_one_in_the_window():
    rate = Rate(window=5)
    for i in range(4):
        rate.tick(6.0 * i)
    assert rate.hz(18) == pytest.approx(1 / 6) and rate.hz(23) == pytest.approx(1 / 6)
    assert 0 < rate.hz(29) < 1 / 6 and rate.hz(31) == 0
    for i in range(60):
        rate.tick(100 + i / 10)
    assert rate.hz(105.9) == pytest.approx(10)


def test_percentiles_are_of_the_recent_past():
    durations = Durations(window=10.0, least=3)
    assert math.isnan(durations.percentile(50))
    for value in range(1000):
        durations.add(value, now=value / 10)
    assert durations.percentile(0) == 899 and durations.percentile(100) == 999


def test_a_network_that_gets_slow_shows_within_the_window():
    durations = Durations(window=10.0, least=3)
    for i in range(1000):
        durations.add(2, now=i / 20)
    for i in range(14):
        durations.add(800, now=50 + 0.8 * i)
    assert durations.percentile(50) == 800
    for i in range(3):  # and so slow that the window holds none but the last
        durations.add(60_000, now=120 + 60 * i)
    assert durations.percentile(0) == 60_000


def test_reading_while_another_thread_writes():
    durations, rate, faults = Durations(window=0.01), Rate(window=0.01), []

    def read():
        try:
            for _ in range(300):
                durations.percentile(95)
                rate.hz()
        except RuntimeError as error:  # "deque mutated during iteration"
            faults.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive():
        durations.add(1)
        rate.tick()
    assert not faults
