# SPDX-License-Identifier: Apache-2.0
"""The command ``dgtl`` itself: what it loads, how it ends, what it says."""

import importlib.metadata
import os
from pathlib import Path
import signal
import subprocess
import sys

from dgtl_core.cli import main as door
from dgtl_core.cli.main import COMMANDS, main
import pytest

ROOT = Path(__file__).resolve().parent.parent


def dgtl(*arguments, **options):
    return subprocess.run(
        [sys.executable, '-m', 'dgtl_core.cli', *arguments], capture_output=True, text=True,
        cwd=ROOT, timeout=60, check=False, **options)


def test_the_help_lists_every_command_and_each_has_its_own():
    done = dgtl('--help')
    assert done.returncode == 0 and not done.stderr
    for name in COMMANDS:
        assert f'\n  {name} ' in done.stdout
        with pytest.raises(SystemExit) as ended:
            main([name, '--help'])
        assert ended.value.code == 0


def test_the_help_loads_nothing_that_is_heavy():
    script = ('import sys; from dgtl_core.cli.main import main; main(["--help"]); '
              'print(*sorted({"torch", "onnxruntime", "cv2", "numpy"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == ''


@pytest.mark.parametrize('words, said', [
    (['inof'], "did you mean 'info'"),
    (['segment'], 'dgtl --help'),
])
def test_an_unknown_command_is_wrong_use(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_fault_is_one_line_and_the_code_1(capsys):
    assert main(['info', '/nowhere/model.onnx']) == 1
    err = capsys.readouterr().err
    assert err.startswith('dgtl info: there is no model file') and err.count('\n') == 1


@pytest.mark.parametrize('fault, said', [
    (OSError(28, 'No space left on device'), 'No space left on device; make room, and repeat'),
    (MemoryError(), 'there is not enough memory for this; close other programs')])
def test_a_machine_that_is_too_small_is_told_in_one_line(monkeypatch, capsys, fault, said):
    def broken(arguments):
        raise fault
    monkeypatch.setattr('dgtl_core.cli.info.main', broken)
    assert main(['info', 'model.onnx']) == 1
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1


def test_a_camera_that_is_not_there_is_told_once(tmp_path):
    done = dgtl('predict', 'camera:77', '--out', str(tmp_path / 'out'), '--quiet')
    assert done.returncode == 1 and 'camera:77 cannot be opened' in done.stderr
    assert done.stderr.count('\n') == 2, done.stderr  # the source, and how many


@pytest.mark.parametrize('words', [
    ['info', ''], ['predict', 'streetworld', '--limit', '1', '--out', 'OUT', '--model', '']])
def test_a_model_without_a_name_is_not_the_embedded_one(words, tmp_path, monkeypatch, capsys):
    """As where a variable of a script is empty."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert 'file' in capsys.readouterr().err and not (tmp_path / 'OUT').exists()


def test_wrong_use_is_the_code_2():
    assert dgtl('info', '--jsno').returncode == 2


def test_a_reader_that_is_gone_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, '-m', 'dgtl_core.cli', 'info', '--json'], stdout=writer,
                          stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ''


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_in_one_line(number, code):
    script = (
        'import os, sys, types, time\n'
        'command = types.ModuleType("dgtl_core.cli.info")\n'
        f'command.main = lambda _: (os.kill(os.getpid(), {int(number)}), time.sleep(30))\n'
        'sys.modules["dgtl_core.cli.info"] = command\n'
        'from dgtl_core.cli.main import main\n'
        'sys.exit(main(["info"]))')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          cwd=ROOT, timeout=20, check=False)
    assert done.returncode == code
    assert 'stopped' in done.stderr and 'Traceback' not in done.stderr


def test_another_package_adds_a_command(monkeypatch, capsys):
    point = importlib.metadata.EntryPoint('sing', 'math:prod', 'dgtl.commands')
    monkeypatch.setattr('dgtl_core.cli.external.entry_points', lambda **kind: [
        point] * (kind == {'group': 'dgtl.commands', 'name': 'sing'}))
    assert main(['sing']) == 1  # the product of no arguments
    assert door.main(['song']) == 2


def test_info_describes_the_embedded_model(capsys):
    assert main(['info']) == 0
    out = capsys.readouterr().out
    assert 'traffic light' in out and '250 170  30' in out and 'sha256' in out
    assert 'calibrated on streetworld:clear' in out and 'pictures of 16 drives; 0.0%' in out
    assert 'not calibrated' not in out


def test_info_says_what_is_not_calibrated_and_what_does_it(tmp_path, capsys):
    pytest.importorskip('onnx')
    from tiny_onnx import write_tiny_onnx

    assert main(['info', str(write_tiny_onnx(tmp_path / 'own.onnx'))]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note ')]
    assert [line.split('"')[1].split()[:3] for line in notes] == [
        ['python', '-m', 'training.export'], ['dgtl', 'calibrate', 'DRIVE...']]
