# SPDX-License-Identifier: Apache-2.0
"""The comparison of signals per pixel."""

import json

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('scipy')
from tiny_onnx import write_tiny_onnx
from training.unfamiliar import _distances, main, pasted, SIGNALS, signals


def test_signals_are_what_they_are_called():
    logits = np.array([[[9.0, 0.0, 0.0]], [[0.0, 0.0, 5.0]], [[0.0, 0.0, 5.0]]])
    one, entropy, largest, energy, far = signals(logits, np.array([[0.0, 1.0, 2.0]]))[:, 0]
    probabilities = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(0)
    np.testing.assert_allclose(one, 1 - probabilities.max(0), atol=1e-12)
    np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities)).sum(0))
    np.testing.assert_allclose(largest, [-9, 0, -5])
    np.testing.assert_allclose(energy, -np.log(np.exp(logits[:, 0]).sum(0)))
    np.testing.assert_allclose(far, [0, 1, 2])


def test_the_distance_is_to_the_nearest_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (8, 8))
    clean = np.stack([1.0 - labels, 1.0 * labels, np.zeros((8, 8))])
    patches = clean + rng.normal(0, 0.05, (3, 8, 8))
    distance = _distances([(np.stack([1 - labels, labels]).astype(float), patches)])
    assert distance(np.array([[[0.0]], [[0.0]], [[1.0]]])) > 3 * distance(patches).max()


def test_what_is_pasted_is_where_the_mask_says():
    image, other = np.zeros((60, 120, 3), np.uint8), np.full((60, 120, 3), 9, np.uint8)
    changed, mask = pasted(image, other, 1)
    np.testing.assert_array_equal(changed[..., 0] == 9, mask == 1)
    assert 0 < mask.mean() < 0.2 and not mask[:15].any()


@pytest.mark.slow
def test_the_program_prints_a_table(tmp_path, capsys):
    assert main(['--pictures', '1', '--json', str(tmp_path / 'o.json')]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6 + 1
    found = json.loads((tmp_path / 'o.json').read_text())
    assert set(found['pasted']) == set(SIGNALS)
    assert all(0 <= v <= 1 for row in found.values() for v in row.values())
    assert found['wrong, clear']['1 - largest probability'] > 0.8


@pytest.mark.parametrize(('options', 'message'), [
    (['--json', 'there.json'], 'there.json exists; --force overwrites it'),
    (['--json', '.'], 'must be a file that ends in .json'),
    (['--model', 'none.onnx'], 'there is no file none.onnx'),
    (['--model', 'there.json'], 'there.json is not an ONNX file')])
def test_what_cannot_work_is_said_before_anything_is_measured(
        options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.json').write_text('{"of": "mine"}')
    monkeypatch.setattr('training.unfamiliar._streets', None)
    assert main(options) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / 'there.json').read_text() == '{"of": "mine"}'


def test_a_full_disk_is_said_after_the_numbers(tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, 'No space left on device', str(path))

    monkeypatch.setattr('training.unfamiliar.measure', lambda *_: {'pasted': [0.5] * 5})
    monkeypatch.setattr('training.unfamiliar.write_atomically', full)
    assert main(['--json', str(tmp_path / 'x.json')]) == 1
    said = capsys.readouterr()
    assert '| pasted | 0.500' in said.out and 'unfamiliar: [Errno 28] No space' in said.err


def test_no_pictures_are_too_few(capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['--pictures', '0'])
    assert "--pictures: must be a whole number of at least 1, got '0'" in capsys.readouterr().err


def test_a_model_without_such_a_head_is_refused(tmp_path, capsys):
    assert main(['--model', str(write_tiny_onnx(tmp_path / 'tiny.onnx'))]) == 1
    assert 'has no signature' in capsys.readouterr().err
