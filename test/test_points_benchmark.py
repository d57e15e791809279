# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
from dgtl_ros.show.points_benchmark import measure_points, points_table

pytestmark = pytest.mark.ros


def test_labels_on_points_are_much_faster_than_a_loop():
    rows = measure_points(runs=3)
    assert len(rows) == 2 and all(loop > 5 * ours for _, ours, loop in rows)
    assert 'lidar' in points_table(rows)
