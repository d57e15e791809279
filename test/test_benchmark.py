# SPDX-License-Identifier: Apache-2.0
import json
import mmap

from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.files import file_sha256
from dgtl_core.model_file import onnx_metadata
from dgtl_core.predictor import default_model
from fake_gpu import engine_bytes
from fake_robot import fake_robot
import pytest
from tiny_onnx import write_tiny_onnx
from tiny_segmenter_onnx import write_tiny_segmenter
import torch
from training.bench.contenders import Contender, parse, Spec
from training.bench.latency import check_batches, measure_latency
from training.bench.onnx_work import count_onnx
from training.bench.roofline import count, label_network
from training.benchmark import main
from training.device import choose_device

MINI = ('dgtl-mini', '--size', '64', '128', '--threads', '1', '--device', 'cpu')


def test_ratio_is_of_the_same_run(tmp_path):
    clock = {'calls': []}

    def call(name):
        return lambda images: clock['calls'].append((name, images.shape))

    contenders = [Contender('a', call('a'), (4, 6), 2), Contender('b', call('b'), (8, 8))]
    rows = measure_latency(contenders, [1, 2], runs=3, warmup=1)
    # In turn, call by call, and only at the batches that each one takes.
    assert clock['calls'][:4] == [('a', (1, 4, 6, 3)), ('b', (1, 8, 8, 3))] * 2
    assert clock['calls'][8:] == [('a', (2, 4, 6, 3))] * 4
    assert [(r.name, r.batch, r.runs) for r in rows] == [('a', 1, 3), ('b', 1, 3), ('a', 2, 3)]
    assert rows[0].ratio == 1 and rows[1].ratio == pytest.approx(rows[1].p50_ms / rows[0].p50_ms)
    assert rows[1].ratio_of_best == pytest.approx(rows[1].best_ms / rows[0].best_ms)
    with pytest.raises(ValueError, match='batch 4 is more than any'):
        check_batches(contenders, [2, 4])
    check_batches(contenders, [1, 2])


def test_peak_memory_is_of_the_call():
    def call(images):
        with mmap.mmap(-1, 60 * 2**20) as fresh:  # malloc may give what it holds already
            fresh[:] = bytes([1]) * len(fresh)

    idle, busy = measure_latency([Contender('idle', lambda x: None, (8, 8)),
                          Contender('busy', call, (8, 8))], [1], runs=1)
    assert busy.peak_mib - idle.peak_mib > 40


def test_json_of_two_files(tmp_path, capsys):
    quick = write_tiny_onnx(tmp_path / 'quick.onnx', batch='batch')
    slow = write_tiny_onnx(tmp_path / 'slow.onnx', slow=1)
    assert main([str(quick), str(slow), '--json', '--runs', '3', '--batch', '1', '4',
                 '--device', 'cpu', '--no-roofline']) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row['batch'] for row in data['rows']] == [1, 1, 4]
    first, second, four = data['rows']
    assert second['ratio'] > 2 and second['p50_ms'] <= second['p95_ms'] <= second['p99_ms']
    assert four['pictures_per_s'] == pytest.approx(4e3 / four['p50_ms'])
    assert first['peak_mib'] > 10 and data['models'][0]['input_size'] == [32, 64]
    assert first['gflop'] is None and not data['peaks']


def test_the_work_of_a_model_file_is_that_of_its_network(capsys):
    size = (384, 768)
    network = label_network('dgtl-rt-mini', size)
    assert count_onnx(default_model()).flops == count(network, size).flops
    assert main([str(default_model()), '--runs', '1', '--device', 'cpu', '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    row = data['rows'][0]
    assert set(data['peaks']) == {'bytes_per_s', 'fp32'}
    assert row['gflop'] == pytest.approx(18.4, 0.1)
    assert row['roof_ms'] == pytest.approx(row['gflop'] * 1e12 / data['peaks']['fp32'])
    assert row['of_roof_percent'] == pytest.approx(100 * row['roof_ms'] / row['best_ms'])


def test_work_of_an_open_batch(tmp_path):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', batch='batch', sampling='')
    one, four = (count_onnx(path, batch) for batch in (1, 4))
    assert four.flops == 4 * one.flops > 0 and four.weights == one.weights


def test_work_that_cannot_be_counted_costs_no_measurement(tmp_path, capsys):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', batch='batch')  # its sampling is of batch 1
    with pytest.raises(ValueError, match='m.onnx do not follow from its input'):
        count_onnx(path, 4)
    assert main([str(path), '--runs', '1', '--batch', '1', '--device', 'cpu', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['rows'][0]['gflop'] > 0


@pytest.mark.parametrize('device, current', [
    ('auto', []), ('cuda', []), ('cuda:0', [0]), ('cuda:1', [1])])
def test_the_device_with_a_number_becomes_the_current_one(monkeypatch, device, current):
    found = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda chosen: found.append(chosen.index))
    assert choose_device(device).type == 'cuda' and found == current


def test_forms_of_a_preset_against_the_released_one(capsys):
    assert main([*MINI, 'dgtl-mini:unfolded', 'dgtl-mini:bf16', '--against', 'released-eager',
                 '--runs', '2', '--parts', '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    names = ['dgtl-mini: released-eager', 'dgtl-mini: folded fp32', 'dgtl-mini: unfolded fp32',
             'dgtl-mini: folded bf16']
    assert [row['name'] for row in data['rows']] == names == list(data['parts'])
    released, folded, unfolded, _ = data['rows']
    assert released['ratio'] == 1
    assert released['gflop'] > unfolded['gflop'] > folded['gflop'] > 0.1
    assert released['traffic_mb'] > unfolded['traffic_mb'] > folded['traffic_mb']
    for row in data['rows']:
        assert row['roof_ms'] > 0
        assert row['of_roof_percent'] == pytest.approx(100 * row['roof_ms'] / row['best_ms'])
    assert set(data['peaks']) == {'bytes_per_s', 'fp32', 'bf16'}
    found = data['parts'][names[1]]
    assert sum(part['percent'] for part in found) == pytest.approx(100)
    assert sum(part['gflop'] for part in found) == pytest.approx(folded['gflop'])


def test_a_larger_picture_whole_or_through_windows(capsys):
    assert main(['dgtl-mini', 'dgtl-mini:slide', '--size', '256', '544', '--runs', '1',
                 '--warmup', '0', '--device', 'cpu', '--json', '--no-roofline']) == 0
    rows = json.loads(capsys.readouterr().out)['rows']
    assert [row['name'] for row in rows] == [
        'dgtl-mini: folded fp32', 'dgtl-mini: folded fp32 slide']
    assert rows[0]['gflop'] is None


def test_training_steps(capsys):
    assert main([*MINI, 'dgtl-mini:bf16', '--train', '--batch', '2', '--runs', '1', '--points',
                 '100', '--json']) == 0
    plain, half = json.loads(capsys.readouterr().out)['steps']
    assert plain['name'] == 'dgtl-mini: fp32' and plain['ratio'] == 1 and plain['batch'] == 2
    assert min(plain['forward_s'], plain['backward_s'], plain['optimizer_s']) > 0
    # DGTL with all texts: classes, masks, dice and the alignment of 4 predictions.
    assert set(plain['losses']) == {'cls', 'mask', 'dice', 'align'}
    assert all(0 < value < 1000 for value in plain['losses'].values())
    assert half['losses'].keys() == plain['losses'].keys()


def test_a_light_head_is_timed_by_parts_and_in_training(capsys):
    small = ['--size', '128', '256', '--device', 'cpu', '--runs', '1', '--json']
    assert main(['dgtl-rt-mini', '--parts', '--no-roofline', *small]) == 0
    row, = json.loads(capsys.readouterr().out)['parts'].values()
    assert sum(part['percent'] for part in row) == pytest.approx(100)
    assert {'light head: upscaling', 'light head: queries and masks'} <= {p['name'] for p in row}
    assert main(['dgtl-rt-mini', '--train', '--batch', '2', *small]) == 0
    step, = json.loads(capsys.readouterr().out)['steps']
    assert set(step['losses']) == {'cross_entropy', 'dice'}


def test_words_after_a_model():
    spec = parse('a.safetensors:unfolded:bf16', Spec(model='', compiled=True))
    assert (spec.form, spec.precision, spec.compiled) == ('unfolded', 'bf16', True)
    assert spec.name == 'a.safetensors: unfolded bf16 compiled'
    plain = parse('a:released-eager', Spec(model='', precision='bf16', compiled=True))
    assert (plain.precision, plain.compiled, plain.slide) == ('fp32', False, True)
    with pytest.raises(ValueError, match="'fold' in 'a:fold'; did you mean folded"):
        parse('a:fold', Spec(model=''))
    with pytest.raises(ValueError, match='plain float32'):
        parse('a:released-eager:bf16', Spec(model=''))
    with pytest.raises(ValueError, match='as it was exported'):
        parse('a.onnx:bf16', Spec(model=''))


@pytest.mark.parametrize('arguments, message', [
    (['dgtl-dinov2-x'], "unknown preset 'dgtl-dinov2-x'; did you mean dgtl-dinov2"),
    (['no.onnx'], 'no model file'),
    ([300 * 'a' + '.onnx'], 'no model file'),
    ([300 * 'a' + '.safetensors'], 'too long'),
    (['no.safetensors'], 'there is no file'),
    (['dgtl-mini', '--size', '100', '128'], 'multiples of the patch'),
    (['dgtl-mini:unfolded', '--size', '100', '128'], 'multiples of the patch'),
    (['no.onnx', '--against', 'released-eager'], 'name a preset'),
    (['no.onnx', '--parts'], '--parts takes torch networks apart: name a preset'),
    (['dgtl-mini', '--device', 'tpu'], 'device must be auto, cpu'),
    (['dgtl-mini', '--threads', '-1'], 'threads must be'),
    (['dgtl-mini:compiled', '--train'], 'in eager mode'),
    (['dgtl-mini', '--size', '16', '512'], 'two patches of 16 each way, got 16x512'),
    ([*MINI, '--runs', '0'], 'runs and batch must be at least 1'),
    ([*MINI, '--batch', '1', '0', '--runs', '1'], 'got 1, 0 and 2'),
    ([*MINI, '--warmup', '-1', '--runs', '1'], 'warmup 0, got 1, 1 and -1'),
    ([*MINI, '--warmup', '-1', '--runs', '1', '--train'], 'warmup 0, got 1, 1 and -1'),
])
def test_clear_errors(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_batch_that_nothing_takes_is_said_before_the_first_call(tmp_path, capsys, monkeypatch):
    model = write_tiny_onnx(tmp_path / 'm.onnx')
    monkeypatch.setattr('training.benchmark.measured_peaks', None)
    assert main([str(model), '--device', 'cpu', '--batch', '1', '99']) == 2
    assert 'batch 99 is more than any of these models takes (at most 1)' in capsys.readouterr().err


def test_ctrl_c_ends_it_in_a_line(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr('training.benchmark.open_contender', stop)
    assert main([*MINI]) == 130
    assert capsys.readouterr().err == 'benchmark: stopped\n'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu_is_said():
    with pytest.raises(ValueError, match='sees 0 CUDA devices'):
        choose_device('cuda')
    assert choose_device('auto').type == 'cpu'


def test_a_model_file_needs_no_torch_that_knows_the_gpu(tmp_path, monkeypatch, capsys):
    with fake_robot(tmp_path, monkeypatch) as robot:
        robot.load(build='blocking').close()
        engine = next(robot.cache.glob('*.engine'))
        out = tmp_path / 'm.engine'
        out.write_bytes(engine.read_bytes())
        side_file(out).write_text(EngineInfo(
            metadata=onnx_metadata(robot.model), module='tensorrt', version='10.3.0', gpu='Orin',
            compute_capability='8.7', precision='fp16', model_sha256='',
            engine_sha256=file_sha256(out)).to_json())
        for device in ('auto', 'cuda'):
            assert main([str(out), '--runs', '2', '--device', device, '--json']) == 0
            data = json.loads(capsys.readouterr().out)
            assert data['rows'][0]['name'] == 'm.engine: tensorrt 10.3.0 (Orin, fp16)'
            assert data['device'] == device


def test_an_engine_is_built_before_it_is_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    with fake_robot(tmp_path, monkeypatch) as robot:
        assert main([str(robot.model), '--runs', '2', '--backend', 'tensorrt', '--json']) == 0
        data = json.loads(capsys.readouterr().out)
        assert data['rows'][0]['name'].startswith('tiny.onnx: tensorrt 10.3.0')


def test_the_engine_of_an_open_batch_takes_all_batches(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    with fake_robot(tmp_path, monkeypatch) as robot:
        write_tiny_onnx(robot.model, batch='pictures')
        robot.builds_give(engine_bytes(batch=-1, most=4))
        assert main([str(robot.model), '--runs', '2', '--backend', 'tensorrt', '--json',
                     '--batch', '1', '4']) == 0
        assert '--max-batch 4 ' in robot.builds[0]
        data = json.loads(capsys.readouterr().out)
        assert [row['batch'] for row in data['rows']] == [1, 4]


def test_table_and_file_of_another_size(tmp_path, capsys):
    model = write_tiny_onnx(tmp_path / 'quick.onnx')
    assert main([str(model), '--runs', '2', '--device', 'cpu']) == 0
    assert 'quick.onnx: onnxruntime (CPU)' in capsys.readouterr().out
    assert main([str(model), '--size', '64', '64', '--device', 'cpu']) == 2
    assert 'takes pictures of 32x64, and --size asks for 64x64' in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    assert 'dgtl-dinov2-l --train --batch 2' in capsys.readouterr().out
