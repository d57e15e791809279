# SPDX-License-Identifier: Apache-2.0
"""A run over a Ray cluster of two local nodes, one of which dies."""

from collections import Counter
import json

import cv2
from dgtl_core.cli.main import main
from dgtl_core.pictures import write_image
import numpy as np
import pytest

pytest.importorskip('onnx')
ray = pytest.importorskip('ray')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SIZE = (32, 64)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={
        'num_cpus': 0, 'object_store_memory': 100 << 20})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_dies_loses_nothing_and_doubles_nothing(cluster, tmp_path, monkeypatch):
    from tiny_onnx import write_tiny_onnx

    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    cluster.wait_for_nodes()
    model = write_tiny_onnx(tmp_path / 'tiny.onnx', SIZE, slow=2)
    pictures = {}
    for number in range(64):
        pictures[f'{number:02d}'] = np.random.default_rng(number).integers(
            0, 150, (*SIZE, 3), np.uint8)
        write_image(tmp_path / f'in/{number:02d}.png', pictures[f'{number:02d}'])
    from dgtl_core.recorded import journal

    real, noted = journal.Journal.add, []

    def add(self, entry):
        real(self, entry)
        noted.append(entry)
        if sum('frame' in e for e in noted) == 3:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
    monkeypatch.setattr(journal.Journal, 'add', add)
    out = tmp_path / 'out'
    assert main(['predict', str(tmp_path / 'in'), '--model', str(model), '--out', str(out),
                 '--quiet', '--ray', cluster.address]) == 0
    assert not nodes[1:]
    lines = [json.loads(line) for line in (out / 'predict.jsonl').read_text().splitlines()]
    assert Counter(line['frame'] for line in lines if 'frame' in line) == dict.fromkeys(
        pictures, 1)
    for name, picture in pictures.items():
        np.testing.assert_array_equal(
            cv2.imread(str(out / f'labels/{name}.png'), cv2.IMREAD_UNCHANGED),
            picture[:, :, 0] // 8)


def test_results_of_two_nodes_come_together_on_a_storage(cluster, tmp_path, capsys):
    from tiny_onnx import write_tiny_onnx

    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    model = write_tiny_onnx(tmp_path / 'tiny.onnx', SIZE, slow=2)
    for number in range(48):
        write_image(tmp_path / f'in/{number:02d}.png', np.full((*SIZE, 3), number, np.uint8))
    told = {}
    for name, more in (('one', ()), ('two', ('--ray', cluster.address))):
        assert main(['predict', str(tmp_path / 'in'), '--model', str(model), '--json', '--out',
                     f'file://{tmp_path}/{name}', '--save', 'labels,overlay', *more]) == 0
        told[name] = json.loads(capsys.readouterr().out)
    assert told['one']['frames'] == told['two']['frames'] == 48
    assert told['one']['shares'] == told['two']['shares']
    print({name: (run['fps'], run['model_fps']) for name, run in told.items()})
    files = [sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob('*.*'))
             for name in told]
    assert files[0] == files[1] and len(files[0]) == 97
    for path in files[0][:-1]:
        assert (tmp_path / 'one' / path).read_bytes() == (tmp_path / 'two' / path).read_bytes()


def test_a_contact_sheet_is_refused(tmp_path, capsys):
    write_image(tmp_path / 'a.png', np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(SystemExit) as ended:
        main(['predict', str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out'), '--save',
              'sheet', '--ray'])
    assert ended.value.code == 2 and 'leave out "sheet"' in capsys.readouterr().err
