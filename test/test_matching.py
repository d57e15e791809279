# SPDX-License-Identifier: Apache-2.0
import random
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
from dgtl_ros.points.matching import Matcher, stamp_ns

pytestmark = pytest.mark.ros


def at(seconds):
    nano = round(seconds * 1e9)
    stamp = SimpleNamespace(sec=nano // 10**9, nanosec=nano % 10**9)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


def test_equal_stamps_match_whatever_the_order():
    for names in (('a', 'b', 'c'), ('c', 'b', 'a'), ('b', 'a', 'c')):
        matcher = Matcher(('a', 'b', 'c'), 0.0)
        results = [matcher.put(name, at(1)) for name in names]
        assert results[:2] == [None, None] and set(results[2]) == {'a', 'b', 'c'}


def test_the_nearest_within_the_tolerance_is_taken():
    matcher = Matcher(('labels', 'points'), 0.05)
    for time in (0.93, 0.96, 1.02, 1.2):
        assert matcher.put('points', at(time)) is None
    found = matcher.put('labels', at(1.0))
    assert stamp_ns(found['points']) == 1_020_000_000
    assert matcher.apart_s == pytest.approx(0.02)
    assert matcher.put('labels', at(1.1)) is None, 'the nearest is 0.1 s away'


def test_it_waits_while_a_nearer_one_may_come():
    matcher = Matcher(('labels', 'points'), 0.05)
    matcher.put('points', at(1.0))
    assert matcher.put('labels', at(1.03)) is None, 'the points of 1.03 may be on their way'
    found = matcher.put('points', at(1.03))
    assert stamp_ns(found['points']) == 1_030_000_000
    matcher.put('labels', at(1.06))
    assert stamp_ns(matcher.put('points', at(1.07))['points']) == 1_070_000_000


def test_no_points_belong_to_two_pictures():
    matcher = Matcher(('labels', 'points'), 0.05)
    matcher.put('points', at(1.02))
    assert matcher.put('labels', at(1.0)) is not None
    assert matcher.put('labels', at(1.01)) is None


def test_what_finds_no_partner_is_counted_once_a_later_one_did():
    matcher = Matcher(('labels', 'points'), 0.01)
    for time in (1.0, 1.1, 1.2):
        matcher.put('labels', at(time))
    assert matcher.unmatched == 0
    assert stamp_ns(matcher.put('points', at(1.1))['labels']) == 1_100_000_000
    assert matcher.unmatched == 1
    assert stamp_ns(matcher.put('points', at(1.2))['labels']) == 1_200_000_000
    assert matcher.unmatched == 1


def test_memory_is_bounded():
    matcher = Matcher(('labels', 'points'), 0.01, depth=4)
    for i in range(100):
        matcher.put('labels', at(i))
    assert matcher.unmatched == 96 and matcher.received == {'labels': 100, 'points': 0}


def test_each_leading_message_is_used_at_most_once():
    r = random.Random(3)
    matcher, used = Matcher(('labels', 'points'), 0.03, depth=50), []
    events = [('labels', i / 10 + r.uniform(0, 0.02)) for i in range(40)]
    events += [('points', i / 10 + r.uniform(0, 0.02)) for i in range(40)]
    for name, time in sorted(events, key=lambda e: e[1] + r.uniform(0, 0.2)):
        found = matcher.put(name, at(time))
        if found:
            used.append(stamp_ns(found['labels']))
    assert len(used) == len(set(used)) >= 25
    assert len(used) + matcher.unmatched <= 40
