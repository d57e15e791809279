# SPDX-License-Identifier: Apache-2.0
"""
The command that builds an engine, and what it does around the builder.

The comparison after the build runs on stand-ins for the GPU and for TensorRT.
"""

from dataclasses import replace
import errno
from functools import partial
import importlib.util
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
import weakref

from dgtl_core.cli import engine as engine_command
from dgtl_core.cli.engine import main
from dgtl_core.engine import build as command
from dgtl_core.engine.build import build_engine
from dgtl_core.engine.builder import BuildReport
from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.model_file import ModelError
from dgtl_core.pictures import find_pictures, write_image
from dgtl_core.predictor import Predictor
from dgtl_core.runtime import cuda
from fake_gpu import engine_bytes, FakeDriver, FakeLibrary, FakeTensorRT
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA, write_tiny_onnx
from tiny_segmenter_onnx import write_tiny_segmenter

rtx = pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_rtx') is None,
    reason='TensorRT-RTX is not installed (extra tensorrt-check)')


@pytest.fixture
def no_gpu():
    if not cuda.cuda_fault('auto'):
        pytest.skip('this machine has a GPU')


@rtx
def test_the_command_writes_an_engine_and_its_side_file(tmp_path, no_gpu, capsys):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', np.float16)
    out = tmp_path / 'm.engine'
    assert main([str(path), str(out), '--unverified', '--module', 'tensorrt_rtx', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['precision'] == 'fp16' and told['labels_equal'] is None
    info = EngineInfo.beside(out)
    assert info.module == 'tensorrt_rtx' and info.gpu == '' and info.precision == 'fp16'
    assert info.metadata.input_size == (64, 128) and info.labels_equal is None
    with pytest.raises(ModelError, match='m.engine needs a GPU'):
        Predictor.load(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'm.engine', 'm.engine.json', 'm.onnx']
    plan = tmp_path / 'm.plan'  # both can be had
    assert main([str(path), str(plan), '--unverified', '--module', 'tensorrt_rtx']) == 0
    assert EngineInfo.beside(plan) and EngineInfo.beside(out) == info


@rtx
@pytest.mark.parametrize('number, code, message', [
    (signal.SIGINT, 130, 'stopped; {out} is as it was'),
    (signal.SIGTERM, 143, 'stopped by SIGTERM'), (signal.SIGHUP, 129, 'stopped by SIGHUP')])
def test_a_signal_stops_the_command_and_leaves_the_old_engine(
        tmp_path, no_gpu, number, code, message):
    path = write_tiny_segmenter(tmp_path / 'm.onnx')
    out = tmp_path / 'm.engine'
    out.write_bytes(b'old')
    with subprocess.Popen(
            [sys.executable, '-m', 'dgtl_core.cli', 'engine', str(path), str(out),
             '--unverified', '--module', 'tensorrt_rtx'],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).resolve().parents[1],
            # a test run in the background ignores SIGINT, under nohup SIGHUP; that is handed down
            preexec_fn=partial(signal.signal, number, signal.SIG_DFL)) as process:
        assert 'building the engine' in process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code and message.format(out=out) in said
    assert 'Traceback' not in said and out.read_bytes() == b'old'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['m.engine', 'm.onnx']


@pytest.fixture
def robot(tmp_path, monkeypatch):
    """A GPU, and a builder that gives the engine in ``robot.engine``."""
    driver = FakeDriver()
    trt = FakeTensorRT(driver)
    robot = SimpleNamespace(
        engine=engine_bytes(), trt=trt, driver=driver, out=tmp_path / 'out' / 'm.engine',
        model=write_tiny_onnx(tmp_path / 'm.onnx'), folder=tmp_path / 'pictures')
    robot.out.parent.mkdir()
    robot.folder.mkdir()
    for seed in range(3):
        picture = np.random.default_rng(seed).integers(0, 150, (32, 64, 3), np.uint8)
        write_image(robot.folder / f'{seed}.png', picture)
    report = BuildReport(
        tensorrt='tensorrt 10.3.0', precision='fp16', layers=9, grid_samples={},
        softmax_layers=1, fused_attentions=1, parse_s=0.1, build_s=2.0, engine_mib=0.1)
    monkeypatch.setitem(sys.modules, 'tensorrt', trt)
    monkeypatch.setattr(cuda, '_bindings', lambda: driver)
    monkeypatch.setattr(cuda, '_installed', lambda module: True)
    monkeypatch.setattr(cuda.ctypes, 'CDLL', lambda name: FakeLibrary())
    monkeypatch.setattr(command, 'build', lambda *_: (robot.engine, report))
    robot.command = [str(robot.model), str(robot.out), '--pictures', str(robot.folder)]
    return robot


def test_an_engine_that_agrees_is_put_in_place(robot, capsys):
    assert main(robot.command) == 0
    assert 'labels_equal 1.0' in capsys.readouterr().out
    info = EngineInfo.beside(robot.out)
    assert info.labels_equal == 1.0 and info.gpu == 'Orin' and info.compute_capability == '8.7'
    predict = Predictor.load(robot.out)
    assert predict(np.full((32, 64, 3), 16, np.uint8)).labels[0, 0] == 2
    predict.close()
    assert robot.trt.alive == 0 and not robot.driver.memory


def test_the_engine_is_in_memory_once_while_it_is_compared(robot, monkeypatch):
    class Buffer(bytearray):
        """What a builder returns, as an object that can be watched."""

    made, gone = [], []
    build_here, verify_here = command.build, command.verify_engine

    def build(*arguments):
        content, report = build_here(*arguments)
        buffer = Buffer(content)
        made.append(weakref.ref(buffer))
        return buffer, report

    def verify(*arguments):
        gone.append(made[0]() is None)
        return verify_here(*arguments)

    monkeypatch.setattr(command, 'build', build)
    monkeypatch.setattr(command, 'verify_engine', verify)
    assert main(robot.command) == 0 and gone == [True]


def test_an_engine_that_disagrees_is_refused_and_the_old_one_stays(robot, capsys):
    main(robot.command)
    before = {p.name: p.read_bytes() for p in robot.out.parent.iterdir()}
    robot.engine = engine_bytes(divisor=9)
    capsys.readouterr()
    assert main(robot.command) == 1
    assert 'labels only' in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in robot.out.parent.iterdir()} == before
    assert robot.trt.alive == 0
    assert main([*robot.command, '--min-agreement', '0.1']) == 0


def test_another_file_can_be_the_reference(robot, tmp_path):
    other = write_tiny_onnx(tmp_path / 'nine.onnx', divisor=9)
    robot.engine = engine_bytes(divisor=9)
    assert main([*robot.command, '--reference', str(other)]) == 0


def test_the_builder_gets_the_gpu_that_was_asked_for(robot, monkeypatch):
    build_here, current = command.build, []

    def build_in_thread(*arguments):
        def work():
            arguments[-1]()
            current.append(robot.driver.current)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return build_here(*arguments)

    monkeypatch.setattr(command, 'build', build_in_thread)
    assert main(robot.command) == 0 and current == ['context']


@pytest.mark.parametrize('name, message', [
    ('m.onnx', 'ends in one of .*engine.* got'), ('m.json', 'ends in one of'),
    ('m.onnx/m.engine', 'm.onnx'), ('folder.engine', 'must be a file .* got .*folder.engine'),
    ('held.engine', 'must be a file .* got .*held.engine.json')])
def test_a_place_for_no_engine_is_refused_before_the_build(
        robot, monkeypatch, name, message, capsys):
    before = robot.model.read_bytes()
    for folder in ('folder.engine', 'held.engine.json'):
        (robot.model.parent / folder).mkdir()
    monkeypatch.setattr(command, 'build', None)
    robot.command[1] = str(robot.model.parent / name)
    assert main(robot.command) == 1
    assert re.search(message, capsys.readouterr().err)
    assert robot.model.read_bytes() == before


@pytest.mark.parametrize('options', [
    ['--min-agreement', '7'], ['--min-agreement', 'nan'], ['--device', 'cuda:9']])
def test_what_can_never_hold_is_refused_before_the_build(robot, monkeypatch, options, capsys):
    monkeypatch.setattr(command, 'build', None)
    assert main([*robot.command, *options]) == 1
    assert re.search(r'in 0\.\.1, got|number of GPUs is 1', capsys.readouterr().err)


def test_a_device_that_is_not_there_is_said_without_pictures_too(tmp_path, no_gpu, capsys):
    path = write_tiny_onnx(tmp_path / 'm.onnx')
    pytest.importorskip('tensorrt_rtx')
    assert main([str(path), str(tmp_path / 'm.engine'), '--unverified', '--module',
                 'tensorrt_rtx', '--device', 'cuda']) == 1
    assert 'on the GPU that will run it, but' in capsys.readouterr().err


def test_a_reference_without_pictures_is_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['m.onnx', 'm.engine', '--unverified', '--reference', 'other.onnx'])
    assert 'leave out --unverified' in capsys.readouterr().err


@pytest.mark.parametrize('changes, message', [
    ({'precision': 'bf16'}, 'computes in bf16.*name the same model in fp32 or fp16'),
    ({'input_size': (64, 64)}, r'takes pictures of \(64, 64\).*the model \(32, 64\)'),
    (None, 'No such file')])
def test_a_reference_that_cannot_be_one_is_refused_before_the_build(
        robot, tmp_path, monkeypatch, changes, message, capsys):
    monkeypatch.setattr(command, 'build', None)
    other = tmp_path / 'other.onnx'
    if changes is not None:
        write_tiny_onnx(other, metadata=replace(METADATA, **changes).to_json())
    assert main([*robot.command, '--reference', str(other)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(robot.out.parent.iterdir())


@pytest.mark.parametrize('most, names', [(2, [0, 1]), (1, [0]), (9, [0, 1, 2])])
def test_pictures_are_taken_from_all_over_the_folder(robot, monkeypatch, most, names):
    taken, read = [], engine_command.read_image
    monkeypatch.setattr(
        engine_command, 'read_image', lambda path: taken.append(int(path.stem)) or read(path))
    assert main([*robot.command, '--most', str(most)]) == 0 and taken == names
    taken.clear()
    for number in range(3, 6):
        write_image(robot.folder / f'{number}.png', read(robot.folder / '0.png'))
    main([*robot.command, '--most', '4'])
    assert taken == [0, 1, 3, 4]


def test_no_pictures_at_all_cannot_be_asked_for(robot, capsys):
    with pytest.raises(SystemExit):
        main([*robot.command, '--most', '0'])
    assert '--most must be 1 or more, got 0' in capsys.readouterr().err


def test_a_gpu_that_fails_is_a_message(robot, capsys):
    robot.driver.fail['cuStreamCreate'] = 2
    assert main(robot.command) == 1
    said = capsys.readouterr().err
    assert 'dgtl engine: cuStreamCreate failed: CUDA error 2 (out of memory)' in said
    assert not list(robot.out.parent.iterdir())


@pytest.mark.parametrize('error', [KeyboardInterrupt(), ModelError('no kernel')])
def test_a_build_that_ends_early_leaves_nothing(robot, monkeypatch, error, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(command, 'build', fail)
    assert main(robot.command) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert not list(robot.out.parent.iterdir()) and not robot.driver.memory


def test_a_full_disk_leaves_the_old_engine(robot, monkeypatch, capsys):
    main(robot.command)
    before = robot.out.read_bytes()

    def write(path, content):
        with open(path, 'wb') as file:
            file.write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))

    monkeypatch.setattr(Path, 'write_bytes', write)
    robot.engine = engine_bytes(most=7)
    assert main(robot.command) == 1
    assert re.search('No space left on device.* is as it was', capsys.readouterr().err)
    assert robot.out.read_bytes() == before and len(list(robot.out.parent.iterdir())) == 2


def test_both_files_are_on_the_disk_before_they_have_their_names(robot, monkeypatch):
    seen, sync = [], os.fsync

    def look(number):
        seen.append((os.fstat(number).st_size, robot.out.exists()))
        sync(number)

    monkeypatch.setattr(os, 'fsync', look)
    assert main(robot.command) == 0
    sizes = [path.stat().st_size for path in (robot.out, side_file(robot.out))]
    assert seen == [(size, False) for size in sizes]


def test_a_place_that_cannot_be_written_is_left_clean(robot, capsys):
    robot.out.mkdir()
    assert main(robot.command) == 1
    assert 'must be a file' in capsys.readouterr().err
    assert [p.name for p in robot.out.parent.iterdir()] == ['m.engine']


def test_a_cut_between_the_two_files_is_noticed(robot):
    main(robot.command)
    old_side = side_file(robot.out).read_bytes()
    robot.engine = engine_bytes(most=7)
    main(robot.command)
    side_file(robot.out).write_bytes(old_side)
    with pytest.raises(ModelError, match='is not the engine that'):
        Predictor.load(robot.out)


def test_building_needs_a_gpu_but_for_a_check(robot, monkeypatch, capsys):
    monkeypatch.setattr(cuda.ctypes, 'CDLL', lambda name: FakeLibrary(status=100))
    assert main(robot.command) == 1
    said = capsys.readouterr().err
    assert 'no CUDA-capable device' in said and '--module tensorrt_rtx --unverified' in said


def test_a_model_without_metadata_is_refused_before_the_build(robot, capsys):
    write_tiny_onnx(robot.model, metadata=None)
    assert main(robot.command) == 1
    assert 'has no "dgtl" metadata' in capsys.readouterr().err


def test_without_pictures_drawn_streets_are_compared(robot, monkeypatch):
    compared = []
    real = engine_command.build_engine
    monkeypatch.setattr(engine_command, 'build_engine', lambda *words, **options: (
        compared.append(len(options['pictures'])) or real(*words, **options)))
    assert main(robot.command[:2]) == 0 and compared == [len(engine_command.street_pictures())]


def test_the_engine_lies_beside_its_model(robot):
    assert main(robot.command[:1]) == 0
    assert robot.model.with_suffix('.engine').is_file()


def test_pictures_are_found(robot, tmp_path):
    (robot.folder / 'readme.txt').write_text('no picture')
    (robot.folder / 'more').mkdir()
    write_image(robot.folder / 'more' / 'x.JPG', np.zeros((4, 4, 3), np.uint8))
    names = [p.name for p in find_pictures([robot.folder, robot.folder / '0.png'])]
    assert names == ['0.png', '1.png', '2.png', 'x.JPG', '0.png']
    with pytest.raises(ValueError, match='no pictures at .*empty'):
        find_pictures([tmp_path / 'empty'])


def test_the_engine_is_compared_on_every_given_picture(robot):
    pictures = [np.full((32, 64, 3), 8 * i, np.uint8) for i in range(4)]
    robot.engine = engine_bytes(divisor=12)  # right for 0 alone
    with pytest.raises(ModelError, match='only 25.00% of the pixels of 4 pictures'):
        build_engine(robot.model, robot.out, pictures=pictures)
    assert not list(robot.out.parent.iterdir())


def test_the_command_loads_no_engine_library_before_it_needs_one():
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'dgtl_core.cli', 'engine', '--help'],
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[1])
    assert '--pictures' in done.stdout
    assert not {'torch', 'tensorrt', 'tensorrt_rtx', 'onnxruntime'} & {
        line.split('|')[-1].strip() for line in done.stderr.splitlines()}
