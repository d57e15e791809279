# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
from dgtl_ros.points import matching, report
from dgtl_ros.points.report import Report
from dgtl_ros.points.settings import PointsSettings
from test_matching import at

pytestmark = pytest.mark.ros


class Clock:
    """The steady clock of the modules under test, in our hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(matching.time, 'monotonic', lambda: self.now)
        assert matching.time is report.time, 'one module for both'


def test_a_burst_of_superseded_sets_is_forgotten(monkeypatch):
    clock, found = Clock(monkeypatch), Report(PointsSettings())
    for _ in range(10):
        clock.now += 0.1
        found.done(5.0)
        for _ in range(3):
            found.superseded()
    assert found.status('active', '').level == 1
    for _ in range(100):
        clock.now += 0.1
        found.done(5.0)
    status = found.status('active', '')
    assert status.level == 0 and status.values['superseded'] == 30


def test_the_topic_that_fell_silent_is_named(monkeypatch):
    clock, found = Clock(monkeypatch), Report(PointsSettings(use_confidence=False))
    for name in ('segmentation', 'depth'):
        found.matcher.put(name, at(1))
    found.done(5.0)
    for _ in range(30):
        clock.now += 0.1
        found.matcher.put('segmentation', at(clock.now))
    status = found.status('active', '')
    assert status.level == 2 and 'nothing came on depth for 3 s' in status.message
    found.matcher.put('depth', at(5))
    assert 'sync_tolerance' in found.status('active', '').message
