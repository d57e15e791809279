# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from tiny_onnx import write_tiny_onnx
from training.benchmark import Contender, main, measure


def test_ratio_is_of_the_same_run(tmp_path):
    clock = {'calls': []}

    def call(name):
        return lambda images: clock['calls'].append((name, images.shape))

    contenders = [Contender('a', call('a'), (4, 6), 2), Contender('b', call('b'), (8, 8))]
    rows = measure(contenders, [1, 2], runs=3, warmup=1)
    # In turn, call by call, and only at the batches that each one takes.
    assert clock['calls'][:4] == [('a', (1, 4, 6, 3)), ('b', (1, 8, 8, 3))] * 2
    assert clock['calls'][8:] == [('a', (2, 4, 6, 3))] * 4
    assert [(r.name, r.batch, r.runs) for r in rows] == [('a', 1, 3), ('b', 1, 3), ('a', 2, 3)]
    assert rows[0].ratio == 1 and rows[1].ratio == pytest.approx(rows[1].p50_ms / rows[0].p50_ms)
    with pytest.raises(ValueError, match='batch 4 is more than any'):
        measure(contenders, [4], runs=1)


def test_json_of_two_files(tmp_path, capsys):
    quick = write_tiny_onnx(tmp_path / 'quick.onnx', batch='batch')
    slow = write_tiny_onnx(tmp_path / 'slow.onnx', slow=1)
    assert main([str(quick), str(slow), '--json', '--runs', '3', '--batch', '1', '4',
                 '--device', 'cpu']) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row['batch'] for row in data['rows']] == [1, 1, 4]
    first, second, four = data['rows']
    assert second['ratio'] > 2 and second['p50_ms'] <= second['p95_ms'] <= second['p99_ms']
    assert four['pictures_per_s'] == pytest.approx(4e3 / four['p50_ms'])
    assert data['peak_rss_mib'] > 10 and data['models'][0]['input_size'] == [32, 64]


def test_table_and_errors(tmp_path, capsys):
    model = write_tiny_onnx(tmp_path / 'quick.onnx')
    assert main([str(model), '--runs', '2', '--device', 'cpu']) == 0
    assert 'quick.onnx: onnxruntime (CPU)' in capsys.readouterr().out
    assert main([str(tmp_path / 'no.onnx')]) == 2
    assert 'no model file' in capsys.readouterr().err
    assert main([str(model), '--runs', '0', '--device', 'cpu']) == 2
    assert 'runs must be at least 1' in capsys.readouterr().err
