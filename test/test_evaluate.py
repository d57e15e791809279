# SPDX-License-Identifier: Apache-2.0
"""The command that scores a model: what it writes and what it refuses."""

from html.parser import HTMLParser
import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
from dgtl_core.config import preset
from dgtl_core.evaluation.score import iou_table
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import override
import numpy as np
import pytest
from small_recipe import MODEL, write_pictures
import torch
from untrained_model import evaluate, save_untrained
import yaml


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory)


def test_command_line_writes_table_numbers_and_page(checkpoint, capsys):
    folder, _ = checkpoint
    out, page = folder / 'numbers.json', folder / 'page.html'
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                    '--protocol', 'slide', '--corrupt', 'fog,contrast', '--severity', '1,5',
                    '--json', out, '--report', page) == 0
    shown = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert shown.strip() == iou_table(results)
    assert 'protocol slide' in shown and 'box 3' in shown and 'boxes + contrast 5' in shown
    assert results['domains'][0]['pictures'] == 3 and len(results['corrupted']) == 4
    assert 0 <= results['mean_miou'] <= 1
    text = page.read_text()
    # plots of data sets, confidence and corruptions, and the worst pictures, all in the file
    assert text.count('<img src="data:image/') == 4
    ece = results['domains'][0]['confidence']['ece']
    assert f'{100 * ece:.1f}' in text and 'ECE' in shown
    assert all(0 <= entry['ece'] <= 1 for entry in results['corrupted'])
    assert '<td>box 3<td style="background:' in text and '</span> box 3' in text
    addresses: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            addresses.extend(v for k, v in attrs if k in ('src', 'href') and v)

    Links().feed(text)
    assert all(address.startswith('data:') for address in addresses)
    assert 'Protocol <b>slide</b>' in text


def test_two_data_sets_of_one_name_and_classes_in_any_language(tmp_path, capfd):
    names = ('Straße', '草地')
    classes = [{'id': i, 'name': name, 'color': [9, 9, 200 * i]} for i, name in enumerate(names)]
    specs = []
    for part in ('a', 'b'):
        write_pictures(tmp_path / part / 'lawn', count=1)
        for file in (tmp_path / part / 'lawn' / 'labels').iterdir():
            cv2.imwrite(str(file), np.minimum(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), 1))
        (tmp_path / part / 'lawn' / 'classes.yaml').write_text(
            yaml.safe_dump({'name': 'lawn', 'classes': classes}), encoding='utf-8')
        specs.append(f'folder:{tmp_path}/{part}/lawn')
    config = override(preset('dgtl-mini'), {**MODEL, 'classes': {'name': 'lawn', 'entries': [
        {**entry, 'prompts': []} for entry in classes]}})
    save_checkpoint(tmp_path / 'tiny.safetensors', Segmenter(config).eval(), config)
    out, page = tmp_path / 'new' / 'numbers.json', tmp_path / 'newer' / 'page.html'
    assert evaluate(tmp_path / 'tiny.safetensors', *specs, '--device', 'cpu', '--corrupt', 'fog',
                    '--severity', '3', '--json', out, '--report', page) == 0
    results = json.loads(out.read_text())
    assert [domain['name'] for domain in results['domains']] == specs
    assert [entry['domain'] for entry in results['corrupted']] == specs
    shown, text = capfd.readouterr(), page.read_text(encoding='utf-8')
    assert all(name in text and name in shown.out for name in names)
    assert 'Glyph' not in shown.err  # matplotlib: a sign that its font does not have


@pytest.mark.parametrize(('arguments', 'message'), [
    (['streetworld:clear,count=1'], 'they must be equal'),
    (['folder:{folder}/boxes', '--corrupt', 'hail'], "unknown corruption 'hail'"),
    (['folder:{folder}/boxes', '--corrupt', 'fog', '--severity', '7'], 'numbers from 1 to 5'),
    (['folder:{folder}/boxes', '--corrupt', 'depth_fog'], 'has no depth'),
    (['folder:{folder}/none'], 'there is no folder'),
])
def test_wrong_questions_are_refused_in_words(arguments, message, checkpoint, capsys):
    folder, _ = checkpoint
    given = [argument.format(folder=folder) for argument in arguments]
    assert evaluate(folder / 'tiny.safetensors', *given, '--device', 'cpu') == 1
    assert message in capsys.readouterr().err


def test_device_that_is_not_there_is_refused(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    folder, _ = checkpoint
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cuda') == 1
    assert 'take --device cpu' in capsys.readouterr().err


def test_file_that_is_no_model_is_refused(tmp_path, capsys):
    wrong = tmp_path / 'wrong.safetensors'
    wrong.write_text('no model')
    assert evaluate(wrong, 'streetworld:clear,count=1') == 1
    assert 'is not a .safetensors file' in capsys.readouterr().err
    assert evaluate(tmp_path / 'none.onnx', 'streetworld:clear,count=1') == 1
    assert 'no model file at' in capsys.readouterr().err


def test_embedded_model_sees_the_street(capsys, tmp_path):
    model = Path(__file__).resolve().parents[1] / 'models' / 'dgtl_mini.onnx'
    if not model.is_file():
        pytest.skip('the embedded model is not there yet')
    out = tmp_path / 'numbers.json'
    assert evaluate(model, 'streetworld:clear,count=3,height=256,width=512',
                    '--device', 'cpu', '--json', out) == 0
    domain = json.loads(out.read_text())['domains'][0]
    assert domain['iou'][0] > 0.7 and domain['iou'][10] > 0.7  # road and sky


def test_a_number_of_pictures_below_zero_is_refused(capsys):
    with pytest.raises(SystemExit):
        evaluate('m.onnx', 'camvid', '--limit', '-2')
    assert '--limit must be 0 (all) or more, got -2' in capsys.readouterr().err


@pytest.mark.parametrize(('option', 'name', 'message'), [
    ('--json', 'tiny.safetensors', 'must be a file that ends in .json'),
    ('--json', 'boxes', 'must be a file that ends in .json'),
    ('--json', 'old.json', 'old.json exists; --force overwrites it'),
    ('--report', 'old.html', 'old.html exists; --force overwrites it'),
])
def test_outputs_are_checked_before_anything_is_measured(
        option, name, message, checkpoint, capsys, monkeypatch):
    folder, _ = checkpoint
    for old in ('old.json', 'old.html'):
        (folder / old).write_text('of before')
    before = (folder / 'tiny.safetensors').read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr('training.evaluate.open_model', None)
        assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                        option, folder / name) == 1
    assert message in capsys.readouterr().err
    assert (folder / 'tiny.safetensors').read_bytes() == before
    if name.startswith('old'):
        assert (folder / name).read_text() == 'of before'
        assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                        option, folder / name, '--force') == 0
        assert (folder / name).read_text() != 'of before'


@pytest.mark.timeout(600)
def test_processes_share_the_pictures_and_give_the_same_numbers(checkpoint):
    folder, _ = checkpoint
    results = []
    for processes in (1, 2):
        out, page = folder / f'by{processes}.json', folder / f'by{processes}.html'
        launcher = [] if processes == 1 else [
            '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
        done = subprocess.run(
            [sys.executable, *launcher, '-m', 'training.evaluate',
             str(folder / 'tiny.safetensors'), f'folder:{folder}/boxes', '--device', 'cpu',
             '--corrupt', 'fog', '--severity', '3', '--json', str(out), '--report', str(page)],
            capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[1],
            env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        results.append(json.loads(out.read_text()))
        assert done.stdout.count('protocol whole') == 1, 'one process prints'
        for domain in results[-1]['domains']:
            del domain['pictures_per_s']
    assert results[0] == results[1] and results[0]['domains'][0]['pictures'] == 3


@pytest.mark.timeout(300)
def test_names_that_the_terminal_cannot_show_end_in_no_traceback(checkpoint):
    folder, _ = checkpoint
    page = folder / 'names.html'
    specs = []
    for name in ('straße', os.fsdecode(b'no \xff text')):
        write_pictures(folder / 'plain', count=1, size=(48, 96))
        (folder / 'plain').rename(folder / name)  # OpenCV cannot write there
        specs.append(f'folder:{folder}/{name}')
    done = subprocess.run(
        [sys.executable, '-m', 'training.evaluate', str(folder / 'tiny.safetensors'), *specs,
         '--device', 'cpu', '--report', str(page)], capture_output=True, text=True, timeout=280,
        cwd=Path(__file__).parents[1], env={
            **os.environ, 'OMP_NUM_THREADS': '1', 'LC_ALL': 'C', 'PYTHONUTF8': '0',
            'PYTHONCOERCECLOCALE': '0'})
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert 'mean over data sets' in done.stdout and r'\udcff' in done.stdout
    assert r'no \udcff text' in page.read_text(encoding='utf-8')
