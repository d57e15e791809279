# SPDX-License-Identifier: Apache-2.0
"""A training that was stopped, by whatever: it goes on without loss, or says why not."""

from functools import partial
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.learning.stop import Stop
from dgtl_core.model.checkpoint import load_segmenter, read_header, save_checkpoint
import pytest
from safetensors.torch import load_file
from small_recipe import write_recipe
from small_training import ENVIRONMENT, lines, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
import torch

pytestmark = pytest.mark.usefixtures('one_thread')


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first)


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


@pytest.mark.parametrize('change', ['data=["folder:nowhere"]', 'transforms.crop=[20,32]'])
def test_a_run_that_does_not_begin_removes_none(whole, tmp_path, change):
    recipe, out = whole
    shutil.copytree(out, tmp_path / 'out')
    assert run(recipe, tmp_path / 'out', '--force', '--set', change) == 1
    assert all(same(out / name, tmp_path / 'out' / name) for name in (LAST, FINAL))


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


def test_run_that_is_further_than_the_recipe_is_refused(whole, capsys):
    recipe, out = whole
    assert run(recipe, out, '--resume', '--set', 'steps=3') == 1
    assert 'beyond the steps 3; to go on, set steps to more' in capsys.readouterr().err


def test_checkpoint_without_an_optimizer_is_nothing_to_resume_from(whole, tmp_path, capsys):
    recipe, out = whole
    save_checkpoint(tmp_path / LAST, *load_segmenter(out / FINAL))
    assert run(recipe, tmp_path, '--resume') == 1
    assert 'has no optimizer state' in capsys.readouterr().err


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
