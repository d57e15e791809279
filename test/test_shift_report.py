# SPDX-License-Identifier: Apache-2.0
"""The report on the domain verdict: its figures, and the program on a few small pictures."""

import json

from dgtl_core.domain_drives import Copies
import numpy as np
import pytest

pytest.importorskip('matplotlib')
pytest.importorskip('scipy')
from training.bench import shift_figures as figures
from training.bench.shift_figures import auroc, Experiment, onset, per_hour, windows
from training.shift_report import CONDITIONS, main

RNG = np.random.default_rng(0)
LENGTH, FOG = 22 + 1 + 2 + 19 + 8, 30  # features of a model with 19 classes; what fog moves


def pictures(count, moved=0.0):
    found = RNG.normal(0, 1, (count, LENGTH))
    found[:, FOG] += moved
    return found


@pytest.fixture(scope='module')
def experiment():
    clean = pictures(40)
    moved = clean.copy()
    moved[:, FOG] += 8
    return Experiment(
        name='made up', drives={str(n): pictures(40) for n in range(3)},
        copies={'fog': Copies(clean, moved)}, normal={'elsewhere': pictures(60)},
        shifted={('fog', severity): pictures(40, 3.0 * severity) for severity in (1, 3)})


def test_auroc_counts_pairs_and_halves_ties():
    assert auroc(np.array([0., 1, 2]), np.array([3., 4])) == 1
    assert auroc(np.array([1., 1]), np.array([1., 1])) == 0.5
    assert auroc(np.array([0., 2]), np.array([1., 3])) == 0.75


def test_windows_are_means_of_ten_in_a_row():
    assert windows(np.arange(20.))[0] == 4.5 and windows(np.arange(20.))[10] == 14.5
    assert len(windows(np.arange(4.))) == 4


def test_a_stronger_shift_is_told_apart_better_and_what_carries_it_is_named(experiment):
    model = experiment.fitted()
    weak, strong = figures.separation(experiment, model)
    assert (weak['severity'], strong['severity']) == (1, 3)
    assert 0.5 < weak['auroc_picture'] < strong['auroc_picture'] <= 1
    assert strong['found'] == 1 and strong['auroc_window'] == 1
    assert figures.false_alarms(experiment, model)[0]['false_windows'] == 0
    rows = {row['signals']: row for row in figures.ablation(experiment, 19, 3)}
    assert len(rows) == 13
    carrier = 'shares of the classes'  # where column 30 lies
    assert rows[f'only {carrier}']['least_picture'] > 0.95
    assert rows[f'without {carrier}']['least_picture'] < 0.75
    assert rows['without mean confidence']['least_picture'] > 0.95
    groups = figures.signal_groups(experiment, 19)
    assert (np.sum(list(groups.values()), axis=0) == 1).all(), 'each column once'
    assert [row['drives'] for row in figures.by_drives(experiment)] == [1, 2, 3]


def test_delay_and_false_alarms_are_in_seconds(experiment):
    model = experiment.fitted()
    change = np.concatenate((pictures(20), pictures(20, 12)))
    assert 0 < onset(model, change, 10.0) <= 1
    assert onset(model, pictures(40), 10.0) is None
    quiet = per_hour(model, [pictures(60), pictures(60)], 2.0)
    assert quiet['seconds'] == 60 and quiet['alarms'] == 0
    assert quiet['at_most'] == pytest.approx(180, abs=1), 'the rule of three: 3 / 60 s'
    loud = per_hour(model, [change], 10.0)
    assert loud['alarms'] == 1 and loud['per_hour'] == 900


def test_the_program_writes_tables_and_a_page_and_remembers_signals(tmp_path, capsys):
    pytest.importorskip('onnx')
    from tiny_onnx import write_tiny_onnx

    model = write_tiny_onnx(tmp_path / 'tiny.onnx', size=(64, 128), divisor=14, signature=True)
    arguments = [str(tmp_path / 'out'), '--model', str(model), '--quick', '--device', 'cpu',
                 '--minutes', '0.2', '--cache', str(tmp_path / 'cache')]
    assert main(arguments) == 0
    found = json.loads((tmp_path / 'out' / 'shift.json').read_text())
    drawn, = found['experiments']
    assert [row['condition'] for row in drawn['separation']] == sorted(CONDITIONS)
    assert all(0 <= row['auroc_window'] <= 1 for row in drawn['separation'])
    assert set(found['streams']['onset_s']) == set(CONDITIONS)
    assert found['streams']['false_alarms']['seconds'] == 12
    assert found['cost']['verdict_full_hd_ms'] > 0
    assert found['cost']['statistics_kib'] < 256 and found['cost']['verdict_ms'] > 0
    page = (tmp_path / 'out' / 'shift.html').read_text()
    assert '<svg' in page and 'src=' not in page and 'these numbers mean nothing' in page
    assert (tmp_path / 'out' / 'shift.md').read_text() in capsys.readouterr().out
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / 'cache').iterdir()}
    assert main(arguments) == 0
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / 'cache').iterdir()}


def test_what_is_missing_is_said(tmp_path, capsys):
    assert main([str(tmp_path), '--model', str(tmp_path / 'no.onnx')]) == 1
    assert 'no.onnx' in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'message'), [
    (['file'], 'file is a file, and the results need a folder'),
    (['out', '--cache', 'file/cache'], 'file is a file, and the results need a folder'),
    (['out', '--camvid', 'out'], 'there is no folder out/train/images'),
    (['out', '--minutes', 'nan'], "--minutes: must be above 0 and at most 10080, got 'nan'"),
    (['out', '--minutes', 'inf'], "--minutes: must be above 0 and at most 10080, got 'inf'")])
def test_what_cannot_work_is_said_before_anything_is_measured(
        options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    monkeypatch.setattr('training.shift_report.Predictor', None)
    try:
        assert main([*options, *(() if '--cache' in options else ('--cache', 'c'))]) == 1
    except SystemExit as ended:
        assert ended.code == 2
    assert message in capsys.readouterr().err
