# SPDX-License-Identifier: Apache-2.0
"""What watching costs: real processes with a tiny model."""

import json

import pytest

pytest.importorskip('rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
pytest.importorskip('uvicorn')
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(200)]

from dgtl_ros.show import benchmark, view_benchmark  # noqa: E402
from tiny_onnx import write_tiny_onnx  # noqa: E402


def test_the_rates_of_node_and_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(view_benchmark, '_ROUNDS', 1)
    monkeypatch.setattr(view_benchmark, '_ROUND_S', 4.0)
    model = write_tiny_onnx(tmp_path / 'tiny.onnx')
    assert benchmark.main(['--view', '--model', str(model), '--width', '128', '--height', '64',
                           '--rate', '8', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert 2 < told['node_hz_alone'] < 9 and 1 < told['page_fps'] < 9
    assert told['loss'] == pytest.approx(
        1 - told['node_hz_watched'] / told['node_hz_alone'], abs=0.01)
    assert 0 < told['view_cores'] < 2


@pytest.mark.parametrize('alone, watched, shown, within', [
    (20, 19, 15, True), (20, 17, 15, False), (20, 19, 9, False), (6, 6, 6, True),
    (6, 6, 5, False)])
def test_what_is_met(alone, watched, shown, within):
    result = view_benchmark._rates([alone], [watched], [shown])
    assert result['within'] == within
    text = view_benchmark.view_text({**result, 'width': 1, 'height': 1, 'view_cores': 0.1})
    assert ('NOT met' in text) != within
