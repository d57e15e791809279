# SPDX-License-Identifier: Apache-2.0
"""The trainer as a user starts it: it learns, it resumes without loss, it says what went wrong."""

from functools import partial
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import cv2
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.learning.stop import Stop
from dgtl_core.model.checkpoint import load_segmenter, read_header, save_checkpoint
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_recipe import command, MODEL, write_pictures, write_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
import torch
from training.train import main
import yaml

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures('one_thread')
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


def run(recipe: Path, out: Path, *extra: str) -> int:
    return main([*map(str, (recipe, '--out', out)), *extra])


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run of eight steps without a break: (recipe, output folder)."""
    folder = tmp_path_factory.mktemp('whole')
    recipe = write_recipe(folder, average=0.9)
    torch.set_num_threads(1)
    assert run(recipe, folder / 'out') == 0
    return recipe, folder / 'out'


def test_run_leaves_a_model_that_loads_and_a_log(whole):
    _, out = whole
    model, config = load_segmenter(out / FINAL)
    assert config.classes.names == ('box 0', 'box 1', 'box 2', 'box 3')
    scores = model.scores(torch.zeros(1, 3, 32, 64))
    assert scores.shape == (1, 4, 32, 64)
    entry = lines(out)[-1]
    assert entry['step'] == 8 and entry['loss'] == pytest.approx(
        sum(entry[name] for name in ('cls', 'mask', 'dice', 'semantic')))
    assert list((out / 'tensorboard').iterdir())
    header = read_header(out / FINAL)
    assert header['training']['recipe']['seed'] == 5 and header['method'] == 'dgtl'
    assert all(key.startswith('model.') for key in load_file(out / FINAL))


def test_resumed_log_has_every_step_once_and_keeps_that_of_the_checkpoint(whole, tmp_path):
    recipe, out = whole
    shutil.copytree(out, tmp_path / 'out')
    log = tmp_path / 'out' / 'log.jsonl'
    shown = [json.dumps({'step': step, 'seconds': 1.0, 'loss': 2.0}) for step in (4, 8, 12)]
    log.write_text('\n'.join(shown) + '\n{"step": 16, "lo')  # killed at step 16
    changed = ['--set', 'steps=10', '--set', 'save_every=100']
    assert run(recipe, tmp_path / 'out', '--resume', *changed) == 0
    assert [entry['step'] for entry in lines(tmp_path / 'out')] == [4, 8, 10]
    events = EventAccumulator(str(tmp_path / 'out' / 'tensorboard'))
    events.Reload()
    assert [event.step for event in events.Scalars('loss')] == [8, 10]


def test_moving_average_is_what_is_shipped(whole):
    _, out = whole
    last, final = load_file(out / LAST), load_file(out / FINAL)
    averaged = {key for key in final if not torch.equal(final[key], last[f'raw{key[5:]}'])}
    assert averaged and all(torch.equal(final[key], last[key]) for key in final)


# Trains, and waits a while after each checkpoint: a busy machine must not miss all eight steps.
UNHURRIED = """
import sys, time, training.train as train
save = train.Run.save
def save_and_wait(*arguments, **options):
    save(*arguments, **options)
    time.sleep(4)
train.Run.save = save_and_wait
sys.exit(train.main())
"""


@pytest.mark.parametrize('kind', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_resume_after_a_signal_gives_the_same_weights_bit_by_bit(kind, whole, tmp_path):
    recipe, out = whole
    slow = ['--set', 'save_every=1', '--set', 'workers=1']
    process = subprocess.Popen(
        [sys.executable, '-c', UNHURRIED, str(recipe), '--out', str(tmp_path / 'out'), *slow],
        env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 100
    while not (tmp_path / 'out' / LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, kind)  # as a scheduler does: the workers get it too
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == (-kind if kind == signal.SIGKILL else 128 + kind), errors
    assert 'Traceback' not in errors
    done = read_header(tmp_path / 'out' / LAST)['training']['step']
    assert 1 <= done < 8
    assert run(recipe, tmp_path / 'out', '--resume') == 0
    assert same(out / LAST, tmp_path / 'out' / LAST)
    assert same(out / FINAL, tmp_path / 'out' / FINAL)


def test_output_of_another_run_is_not_overwritten_and_resume_needs_one(whole, tmp_path, capsys):
    recipe, out = whole
    assert run(recipe, out) == 1
    assert 'go on with --resume, take another --out, or' in capsys.readouterr().err
    assert run(recipe, tmp_path / 'new', '--resume') == 1
    assert 'to resume from' in capsys.readouterr().err


def test_result_alone_is_not_overwritten_without_force(whole, tmp_path, capsys):
    recipe, out = whole
    (tmp_path / 'out').mkdir()
    shutil.copy(out / FINAL, tmp_path / 'out' / FINAL)
    assert run(recipe, tmp_path / 'out') == 1
    assert f'{FINAL} exists' in capsys.readouterr().err
    assert same(out / FINAL, tmp_path / 'out' / FINAL)
    left = tmp_path / 'out' / '.dgtl-of_a_killed_run.part'
    left.mkdir()
    (left / LAST).write_text('half a file')
    assert run(recipe, tmp_path / 'out', '--force', '--set', 'steps=1') == 0
    assert read_header(tmp_path / 'out' / FINAL)['training']['step'] == 1
    assert not [p.name for p in (tmp_path / 'out').iterdir() if p.name.startswith('.')]


def test_two_trainings_into_one_folder_are_one_too_many(whole, tmp_path, capsys):
    recipe, _ = whole
    out = tmp_path / 'out'
    slow = subprocess.Popen(
        [sys.executable, '-c', UNHURRIED, str(recipe), '--out', str(out), '--set',
         'save_every=1'], env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not (out / LAST).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for how in ('--resume', '--force'):
            assert run(recipe, out, how) == 1
            assert f'another training writes to {out}' in capsys.readouterr().err
        assert (out / LAST).exists()
    finally:
        slow.kill()
        slow.wait()
    assert run(recipe, out, '--resume') == 0, 'the lock of a killed run is none'


@pytest.mark.parametrize('change', ['data=[]', 'data=["folder:nowhere"]', 'init=none.pth'])
def test_start_that_fails_leaves_no_folder(change, tmp_path):
    recipe = write_recipe(tmp_path)
    assert run(recipe, tmp_path / 'runs' / 'new', '--set', change) == 1
    assert not (tmp_path / 'runs').exists()
    (tmp_path / 'mine').mkdir()
    assert run(recipe, tmp_path / 'mine', '--set', change) == 1
    assert list((tmp_path / 'mine').iterdir()) == []


@pytest.mark.parametrize('fault, message', [
    ('size', 'another size'), ('mask', 'hold nothing but 0 and 255'), ('empty', 'no pixel'),
    ('cut', 'cut short')])
def test_data_that_teach_nothing_are_refused_before_the_first_step(
        fault, message, tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    files = sorted((tmp_path / 'boxes' / 'labels').iterdir())
    for file in files if fault in ('mask', 'empty') else files[-1:]:
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if fault == 'cut':
            file.write_bytes(file.read_bytes()[:-20])
        else:
            cv2.imwrite(str(file), {'size': labels[:-6], 'mask': np.where(labels, 255, 0),
                                    'empty': np.full_like(labels, 255)}[fault].astype(np.uint8))
    assert run(recipe, tmp_path / 'out') == 1
    said = capsys.readouterr().err
    assert message in said and str(tmp_path / 'boxes' / 'labels') in said or fault == 'mask'
    assert 'Traceback' not in said and not (tmp_path / 'out').exists()


def test_moving_average_that_a_resumed_run_is_the_first_to_have_starts_from_its_weights(tmp_path):
    recipe = write_recipe(tmp_path)
    out = tmp_path / 'out'
    assert run(recipe, out, '--set', 'steps=7') == 0
    before = load_file(out / LAST)
    assert run(recipe, out, '--resume', '--set', 'average=0.5') == 0
    after = load_file(out / LAST)
    for key in (key for key in after if key.startswith('raw.')):
        name = f'model.{key[4:]}'  # one step, of which the average takes a half
        torch.testing.assert_close(after[name], (before[name] + after[key]) / 2)


def test_what_a_resumed_run_did_not_begin_with_is_said(whole, tmp_path, capsys):
    recipe, out = whole
    shutil.copytree(out, tmp_path / 'out')
    free = ['--set', 'steps=9', '--set', 'workers=0', '--set', 'evaluation.limit=1']
    assert run(recipe, tmp_path / 'out', '--resume', *free) == 0
    said = capsys.readouterr()
    assert 'began with' not in said.err and f'the result is {tmp_path}' in said.out + said.err
    assert run(recipe, tmp_path / 'out', '--resume', '--set', 'steps=10', '--set', 'seed=7',
               '--set', 'optim.lr=1e-2', '--set', 'batch=1') == 0
    said = capsys.readouterr().err
    for change in ('seed 5, now it is 7', 'optim.lr 0.001, now it is 0.01', 'batch '):
        assert f'this run began with {change}' in said
    assert said.count('began with') == 3


@pytest.mark.parametrize('changes, maker', [
    (['init=none.safetensors'], 'training.train'),
    (['model.backbone.weights=none.safetensors'], 'training.pretrain'),
    (['model.text={file: none.npz, width: 8}', 'model.adapter.text_link=all'],
     'training.embed_classes')])
def test_a_file_to_start_from_is_missed_before_pictures_are_drawn(
        tmp_path, capsys, monkeypatch, changes, maker):
    monkeypatch.setattr('training.train.to_learn_from', None)
    given = [word for change in changes for word in ('--set', change)]
    assert run(write_recipe(tmp_path), tmp_path / 'out', *given) == 1
    said = capsys.readouterr().err
    assert 'there is no file none' in said and f'python -m {maker} makes one' in said


def test_run_that_is_further_than_the_recipe_is_refused(whole, capsys):
    recipe, out = whole
    assert run(recipe, out, '--resume', '--set', 'steps=3') == 1
    assert 'is at step 8, beyond the steps 3' in capsys.readouterr().err


def test_checkpoint_without_an_optimizer_is_nothing_to_resume_from(whole, tmp_path, capsys):
    recipe, out = whole
    save_checkpoint(tmp_path / LAST, *load_segmenter(out / FINAL))
    assert run(recipe, tmp_path, '--resume') == 1
    assert 'has no optimizer state' in capsys.readouterr().err


def test_two_data_sets_of_one_name_are_both_measured(tmp_path):
    recipe = write_recipe(tmp_path)
    write_pictures(tmp_path / 'other' / 'boxes', count=2)
    specs = [f'folder:{tmp_path}/boxes', f'folder:{tmp_path}/other/boxes']
    assert run(recipe, tmp_path / 'out', '--set', 'steps=1', '--set',
               f'evaluation.data={json.dumps(specs)}') == 0
    assert {f'miou/{spec}' for spec in specs} <= set(lines(tmp_path / 'out')[-1])


# Draws pictures slowly, so that a signal meets it there.
DRAWING = """
import sys, time, training.train as train
from dgtl_core.data.datasets import PicturePairs
def slow(self, index, get=PicturePairs.__getitem__):
    if index:
        print('drawing', flush=True)
        time.sleep(60)
    return get(self, index)
PicturePairs.__getitem__ = slow
sys.exit(train.main())
"""


def test_sigterm_while_pictures_are_drawn_leaves_no_half_a_cache(tmp_path):
    recipe, out = write_recipe(tmp_path, cache=True), tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, '-c', DRAWING, str(recipe), '--out', str(out)], env=ENVIRONMENT,
        cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'drawing\n'
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == Stop.TERMINATED
    assert not list((out / 'cache').iterdir())


def test_nan_stops_with_step_files_and_last_good_checkpoint(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    out = tmp_path / 'out'
    assert run(recipe, out, '--set', 'steps=2') == 0
    (out / FINAL).unlink()
    good = load_file(out / LAST)
    wild = ['--set', 'optim.lr=1e30', '--set', 'optim.clip_norm=0', '--set', 'save_every=100']
    assert run(recipe, out, '--resume', *wild) == 1
    message = capsys.readouterr().err
    assert 'the loss of step 4 is nan' in message or 'the loss of step 3 is' in message
    assert 'boxes/0' in message and f'the last good checkpoint is {out / LAST}' in message
    after = load_file(out / LAST)
    assert all(torch.equal(after[key], good[key]) for key in good)


def test_full_disk_keeps_the_last_checkpoint(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    out = tmp_path / 'out'
    assert run(recipe, out, '--set', 'steps=2') == 0
    size = (out / LAST).stat().st_size
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', f'size={int(1.6 * size)}', 'tmpfs', str(disk)],
        capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'a small file system needs root: {mounted.stderr.strip()}')
    try:
        (disk / LAST).write_bytes((out / LAST).read_bytes())
        assert run(recipe, disk, '--resume') == 1
        assert 'cannot write' in capsys.readouterr().err
        assert same(out / LAST, disk / LAST)
        assert not list(disk.glob('.*part'))
    finally:
        subprocess.run(['umount', str(disk)], check=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(('link', 'alignment', 'batch'), [
    ('present', 'released', 2),  # one picture a process: alone it would link no text
    ('all', 'similarity', 4)])
def test_two_processes_learn_what_one_learns_from_the_joint_batch(
        link, alignment, batch, tmp_path):
    write_texts(tmp_path / 'texts.npz', [f'box {i}' for i in range(4)], 0)
    recipe = write_recipe(
        tmp_path, steps=4, batch=batch,
        model={**MODEL, 'adapter': {**MODEL['adapter'], 'text_link': link},
               'text': {'file': str(tmp_path / 'texts.npz'), 'width': 64}},
        loss={'num_points': 64, 'semantic_weight': 1.0, 'alignment': alignment,
              'alignment_weight': 1.0})
    for number, file in enumerate(sorted((tmp_path / 'boxes' / 'labels').iterdir())):
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        labels[:3 * number] = 255  # the processes get different numbers of pixels
        cv2.imwrite(str(file), labels)
    assert run(recipe, tmp_path / 'one') == 0
    module = command(recipe, tmp_path / 'two')[1:]
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         *module], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (lines(tmp_path / name)[-1] for name in ('one', 'two'))
    for name in ('loss', 'cls', 'mask', 'dice', 'semantic', 'align'):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name
    first, second = (load_file(tmp_path / name / FINAL) for name in ('one', 'two'))
    moved = 0.0
    for key, value in first.items():
        assert (value - second[key]).abs().max() < 2e-3, key
        moved = max(moved, (value - second[key]).abs().mean().item())
    assert moved < 1e-4


def test_accumulated_parts_learn_about_what_the_whole_batch_learns(tmp_path):
    recipe = write_recipe(tmp_path)
    assert run(recipe, tmp_path / 'one', '--set', 'steps=1') == 0
    assert run(recipe, tmp_path / 'two', '--set', 'steps=1', '--set', 'accumulate=2') == 0
    one, two = (lines(tmp_path / name)[-1] for name in ('one', 'two'))
    # the divisors are those of a part, so the sums agree only roughly
    assert two['loss'] == pytest.approx(one['loss'], rel=0.05) and two['loss'] != one['loss']


@pytest.mark.parametrize(('change', 'message'), [
    ('optim.learning_rate=1', 'unknown key learning_rate'),
    ('loss.num_point=3', 'did you mean num_points'),
    ('batch', 'a change must be key=value'),
    ('batch=3', 'must be a multiple of processes x accumulate'),
    ('data=[]', 'names no data'),
    ('data=[folder:x', "the value of 'data=[folder:x' is not YAML"),
    ('data=[folder:nowhere,classes=x.yaml]', 'in quotes: data=["NAME:FOLDER,key=value"]'),
    ('preset=dgtl-dinov2-x', 'unknown preset'),
    ('evaluation.data=["streetworld:clear,count=1"]', 'has other classes'),
    ('init=nothing.safetensors', 'there is no file nothing.safetensors'),
])
def test_wrong_recipes_are_refused_in_words(change, message, tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    extra = ['--set', 'accumulate=2'] if change == 'batch=3' else []
    assert run(recipe, tmp_path / 'out', '--set', change, *extra) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out' / LAST).exists()


def test_wrong_label_is_named_with_its_file_also_from_a_worker(tmp_path, capfd):
    recipe = write_recipe(tmp_path, workers=1)
    for file in (tmp_path / 'boxes' / 'labels').iterdir():
        cv2.imwrite(str(file), np.full((32, 64), 9, np.uint8))
    assert run(recipe, tmp_path / 'out') == 1
    shown = capfd.readouterr().err
    said = [line for line in shown.splitlines() if line.startswith('train: ')]
    assert len(said) == 1 and 'holds the ids [9]; boxes has 0-3, 255' in said[0]
    assert str(tmp_path / 'boxes' / 'labels') in said[0] and 'Traceback' not in shown


@pytest.mark.parametrize(('device', 'message'), [
    ('cuda', 'take --device cpu'), ('gpu', 'must be auto, cpu, cuda or cuda:N')])
def test_device_that_is_not_there_is_refused_in_words(
        device, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run(write_recipe(tmp_path), tmp_path / 'out', '--device', device) == 1
    assert message in capsys.readouterr().err


def test_fine_tuning_starts_from_a_checkpoint_as_far_as_it_fits(whole, tmp_path, capsys):
    _, out = whole
    recipe = write_recipe(tmp_path, init=str(out / FINAL), steps=1)
    file = tmp_path / 'boxes' / 'classes.yaml'
    classes = yaml.safe_load(file.read_text())
    classes['classes'].append({'id': 4, 'name': 'more', 'color': [1, 1, 1]})
    file.write_text(yaml.safe_dump(classes))
    assert run(recipe, tmp_path / 'out', '--set', 'optim.lr=1e-9') == 0
    assert 'these start afresh: mask_decoder.class_head.bias, mask_decoder.class_head.weight' in (
        capsys.readouterr().out)
    before, after = load_file(out / FINAL), load_file(tmp_path / 'out' / FINAL)
    key = 'model.backbone.vit.blocks.1.attn.qkv.weight'
    torch.testing.assert_close(before[key], after[key], rtol=1e-4, atol=1e-6)


def write_texts(path: Path, names: list[str], seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(len(names), 64)).astype(np.float32)
    np.savez(path, embeddings=rows, classes=np.array(names))
    return rows


def test_fine_tuning_needs_no_other_files_and_takes_texts_of_its_own_classes(tmp_path, capsys):
    names = [f'box {i}' for i in range(4)]
    first = write_texts(tmp_path / 'first.npz', names, 0)
    linked = {**MODEL, 'adapter': {**MODEL['adapter'], 'text_link': 'all'}}
    text = {'file': str(tmp_path / 'first.npz'), 'width': 64}
    recipe = write_recipe(tmp_path, model={**linked, 'text': text}, steps=1)
    assert run(recipe, tmp_path / 'one') == 0
    key = 'model.adapter.text_link.texts'
    assert np.array_equal(load_file(tmp_path / 'one' / FINAL)[key].numpy(), first)
    # the checkpoint has the backbone and the texts: neither timm's file nor theirs is asked for
    again = ['--set', f'init={tmp_path / "one" / FINAL}', '--set', 'model.text.file=""',
             '--set', 'model.backbone.weights=nowhere.safetensors']
    assert run(recipe, tmp_path / 'two', *again) == 0
    assert np.array_equal(load_file(tmp_path / 'two' / FINAL)[key].numpy(), first)
    # other classes, as many of them: the checkpoint's texts would say the wrong thing
    file = tmp_path / 'boxes' / 'classes.yaml'
    file.write_text(file.read_text().replace('box 3', 'tree'))
    assert run(recipe, tmp_path / 'three', *again) == 1
    assert 'learns with class texts' in capsys.readouterr().err
    other = write_texts(tmp_path / 'other.npz', [*names[:3], 'tree'], 1)
    again[3] = f'model.text.file={tmp_path / "other.npz"}'
    assert run(recipe, tmp_path / 'three', *again) == 0
    assert np.array_equal(load_file(tmp_path / 'three' / FINAL)[key].numpy(), other)


def test_fine_tuning_keeps_what_the_checkpoint_has_of_the_backbone(whole, tmp_path):
    _, out = whole
    learned = load_file(out / FINAL)
    published = {key.removeprefix('model.backbone.vit.'): value + 1
                 for key, value in learned.items() if key.startswith('model.backbone.vit.')}
    published['pos_embed'] = torch.full((1, 17, 64), 5.0)  # class token, 4 x 4
    save_file(published, tmp_path / 'published.safetensors')
    larger = {**MODEL, 'backbone': {**MODEL['backbone'], 'img_size': [64, 64],
                                    'weights': str(tmp_path / 'published.safetensors')}}
    recipe = write_recipe(tmp_path, init=str(out / FINAL), steps=1, model=larger)
    assert run(recipe, tmp_path / 'out', '--set', 'optim.lr=1e-9') == 0
    after = load_file(tmp_path / 'out' / FINAL)
    key = 'model.backbone.vit.blocks.1.attn.qkv.weight'
    torch.testing.assert_close(after[key], learned[key], rtol=1e-4, atol=1e-6)
    # but its position embedding is for another size: that comes from the published weights
    torch.testing.assert_close(
        after['model.backbone.vit.pos_embed'], torch.full((1, 65, 64), 5.0))


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ('--resume', '--set KEY=VALUE', '--out', 'torchrun'))


def test_eight_pictures_are_learned_by_heart(tmp_path):
    recipe = write_recipe(tmp_path)
    plain = {'steps': 150, 'batch': 8, 'save_every': 1000, 'optim.lr': 3e-3, 'optim.warmup': 20,
             'transforms.scale': [1.0, 1.0], 'transforms.photometric': 0, 'transforms.flip': False,
             'evaluation.data': [f'folder:{tmp_path}/boxes']}
    changes = [word for key, value in plain.items()
               for word in ('--set', f'{key}={json.dumps(value)}')]
    assert run(recipe, tmp_path / 'out', *changes) == 0
    assert lines(tmp_path / 'out')[-1]['miou/boxes'] > 0.95
