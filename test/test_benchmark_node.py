# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
import subprocess
import sys

from dgtl_ros.show.benchmark import stage_table, STAGES, summary
import pytest

ROOT = Path(__file__).resolve().parent.parent
VALUES = {'wait_ms_p50': '0.5', 'decode_ms_p50': '0.1', 'preprocess_ms_p50': '3',
          'infer_ms_p50': '60', 'postprocess_ms_p50': '1', 'publish_ms_p50': '1.4',
          'backend': 'onnxruntime (CPU)'}


def test_all_but_the_network_is_beyond():
    result = summary(VALUES)
    assert result['beyond_ms'] == pytest.approx(6.0) and result['infer_ms'] == 60
    assert result['beyond_share'] == pytest.approx(0.1)
    assert result['allowed_ms'] == pytest.approx(9.0) and result['within']


@pytest.mark.parametrize('infer, allowed, within', [
    ('30', 5.0, False), ('40', 6.0, True), ('39.9', 5.985, False)])
def test_the_larger_of_share_and_floor_is_allowed(infer, allowed, within):
    result = summary({**VALUES, 'infer_ms_p50': infer})
    assert result['allowed_ms'] == pytest.approx(allowed, abs=1e-3)
    assert result['within'] == within


def test_table_names_every_stage_and_the_verdict():
    more = {'width': 1280, 'height': 720, 'rate_hz': 5.0, 'pictures': 100,
            'end_to_end_ms_p50': 70.0}
    text = stage_table({**summary(VALUES), **more})
    assert all(name in text for name in STAGES) and ': met' in text
    assert 'NOT met' in stage_table({**summary({**VALUES, 'infer_ms_p50': '10'}), **more})


@pytest.mark.ros
def test_measured_in_a_live_node(tmp_path):
    pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
    pytest.importorskip('onnx')
    from tiny_onnx import write_tiny_onnx
    model = write_tiny_onnx(tmp_path / 'tiny.onnx', (256, 512), divisor=16, slow=1)
    done = subprocess.run(
        [sys.executable, '-m', 'dgtl_ros.show.benchmark', '--model', model, '--pictures', '15',
         '--rate', '10', '--json'], cwd=ROOT, capture_output=True, text=True, timeout=100,
        check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result['width'], result['height']) == (1280, 720) and result['pictures'] >= 15
    assert set(result['stages_ms']) == set(STAGES) and min(result['stages_ms'].values()) > 0
    assert result['end_to_end_ms_p50'] > result['infer_ms']
