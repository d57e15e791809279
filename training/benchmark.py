# SPDX-License-Identifier: Apache-2.0
"""
How fast is a model, and what does it need?

Several contenders are timed in turn, call by call, so that their ratios are of one run on one
machine in one state; compare nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
import importlib.util
import json
from pathlib import Path
import sys
from typing import Any

from dgtl_core.folding.precision import PRECISIONS
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import BACKENDS, MAX_THREADS, RunOptions
from dgtl_core.runtime.cuda import CudaError
import torch
from training.bench import parts, train_step
from training.bench.contenders import (
    Contender,
    open_contender,
    parse,
    RELEASED,
    released,
    Spec,
    WORDS,
)
from training.bench.latency import (
    check_batches,
    check_numbers,
    latency_table,
    measure_latency,
    noise,
    Row,
)
from training.bench.machine import machine
from training.bench.roofline import bandwidth, count, count_by_part, peak_flops, Work
from training.device import add_device, choose_device

EXAMPLES = f"""
MODEL[:WORD]... is a preset (random weights), a .safetensors checkpoint, an .onnx or an engine; the
words choose how a preset or checkpoint runs: {", ".join(WORDS)}.
A preset or checkpoint runs folded in float32 unless a word or an option says otherwise.

  python -m training.benchmark models/dgtl_mini.onnx --threads 2
  python -m training.benchmark dgtl-mini --batch 1 4
  python -m training.benchmark dgtl-dinov2-l:unfolded --threads 2 --parts --runs 5
  python -m training.benchmark dgtl-dinov2-l dgtl-dinov2-l:bf16 --against {RELEASED} --threads 2
  python -m training.benchmark model.safetensors model.onnx model.engine --device cuda --json
  python -m training.benchmark dgtl-dinov2-l --size 512 1024 --precision bf16 --compile
  python -m training.benchmark dgtl-dinov2-l --train --batch 2 --threads 2 --runs 1
"""


def has_roof(contender: Contender, device: torch.device) -> bool:
    """Whether a roof can be given: its work is known, and PyTorch knows the device it runs on."""
    if contender.network is not None or contender.spec is None:
        return contender.network is not None
    return (Path(contender.spec.model).suffix == '.onnx' and
            importlib.util.find_spec('onnx') is not None and
            contender.on_cpu == (device.type == 'cpu') and
            contender.spec.precision in (('fp32',) if contender.on_cpu else PRECISIONS))


def measured_peaks(contenders: Sequence[Contender], device: torch.device) -> dict[str, float]:
    """Return the device's FLOP/s by precision, of those that are needed, and bytes per second."""
    types = {str(c.spec.precision): c.spec.dtype
             for c in contenders if c.spec is not None and has_roof(c, device)}
    peaks = {precision: peak_flops(device, dtype) for precision, dtype in types.items()}
    return {**peaks, 'bytes_per_s': bandwidth(device)} if peaks else {}


def with_roofline(rows: Sequence[Row], contenders: Sequence[Contender],
                  peaks: dict[str, float], device: torch.device) -> list[Row]:
    """
    Add to each row its own work and how near it comes to what is possible; not of an engine file.

    The roof is the time of its arithmetic at the peak of its precision, or of one reading of its
    weights; the best call is compared with it.
    """
    by_name = {c.name: c for c in contenders}
    found = []
    for row in rows:
        contender = by_name[row.name]
        if contender.spec is None or not has_roof(contender, device):
            found.append(row)
            continue
        try:
            work = _work(contender, row.batch)
        except ValueError as error:
            print(f'no roofline: {error}', file=sys.stderr)
            found.append(row)
            continue
        roof = 1e3 * work.seconds(
            peaks[contender.spec.precision], peaks['bytes_per_s'], contender.spec.dtype.itemsize)
        found.append(replace(
            row, gflop=work.flops / 1e9, traffic_mb=work.traffic / 1e6 or None, roof_ms=roof,
            of_roof_percent=100 * roof / (row.gpu_ms or row.best_ms)))
    return found


def _work(contender: Contender, batch: int) -> Work:
    if contender.network is not None:
        return count(contender.network, contender.input_size, batch)
    from training.bench.onnx_work import count_onnx  # a robot that times an engine has no onnx
    assert contender.spec is not None
    return count_onnx(Path(contender.spec.model), batch)


def parts_of(contender: Contender, runs: int) -> list[parts.Part]:
    """Break one picture of a torch network down into its parts, in eager mode."""
    assert contender.network is not None
    picture = noise(1, contender.input_size)
    call = contender.eager()
    seconds = parts.seconds_by_part(
        contender.network, lambda: call(picture), contender.device, runs)
    return parts.breakdown(seconds, count_by_part(contender.network, contender.input_size))


def _specs(options: argparse.Namespace) -> list[Spec]:
    """Return what to measure; what the others are compared with comes first."""
    defaults = Spec(model='', precision=options.precision, compiled=options.compile)
    specs = [parse(text, defaults) for text in options.model]
    if options.against is not None:
        with_weights = [spec for spec in specs if not spec.is_file]
        if not with_weights:
            raise ValueError(
                f'--against {RELEASED} needs weights: name a preset or a .safetensors checkpoint')
        specs.insert(0, released(with_weights[0]))
    return specs


def run(options: argparse.Namespace) -> dict[str, Any]:
    """
    Do what the command line asks for; return what is printed with ``--json``.

    :raises ValueError: something that cannot be measured.
    """
    if not 0 <= options.threads <= MAX_THREADS:
        raise ValueError(
            f'threads must be 0 (automatic) to {MAX_THREADS}, got {options.threads}')
    check_numbers(options.batch, runs=options.runs, warmup=options.warmup)
    if options.threads:
        torch.set_num_threads(options.threads)
    specs = _specs(options)
    if options.parts and not options.train and all(spec.is_file for spec in specs):
        raise ValueError(
            '--parts takes torch networks apart: name a preset or a .safetensors checkpoint, got '
            + ', '.join(spec.model for spec in specs))
    size = None if options.size is None else tuple(options.size)
    # PyTorch need not know the GPU where only model files run.
    by_torch = any(not spec.is_file for spec in specs)
    device = choose_device(
        options.device if by_torch or options.train or options.device == 'cpu' else 'auto')
    result: dict[str, Any] = {
        'machine': machine(device), 'device': str(device) if by_torch else options.device,
        'threads': options.threads}
    cache: dict[str, Segmenter] = {}
    if options.train:
        steps = train_step.measure_steps(
            specs, size, device, cache, batch=options.batch[0], runs=options.runs,
            points=options.points, warmup=options.warmup)
        return {**result, 'steps': [asdict(step) for step in steps],
                'text': train_step.steps_table(steps)}
    contenders = []
    for spec in specs:
        contenders.append(open_contender(
            spec, size, options.device, options.threads, options.backend, cache,
            max(options.batch)))
        print(f'{contenders[-1].name}: ready in {contenders[-1].load_s:.1f} s', file=sys.stderr)
    cache.clear()
    check_batches(contenders, options.batch)
    peaks = measured_peaks(contenders, device) if options.roofline else {}
    rows = measure_latency(contenders, options.batch, runs=options.runs, warmup=options.warmup)
    if peaks:  # again, lest another program was in the way
        again = measured_peaks(contenders, device)
        peaks = {key: max(value, again[key]) for key, value in peaks.items()}
        rows = with_roofline(rows, contenders, peaks, device)
    text = [latency_table(rows)]
    if peaks:
        text.append('measured peaks: ' + ', '.join(
            f'{key} {value / 1e12:.3g} TFLOP/s' for key, value in peaks.items()
            if key != 'bytes_per_s') + f', memory {peaks["bytes_per_s"] / 1e9:.3g} GB/s')
    broken = {}
    for contender in contenders if options.parts else []:
        if contender.network is not None:
            broken[contender.name] = parts_of(contender, max(1, min(options.runs, 5)))
            text.append(f'\n{contender.name}, one picture\n'
                        f'{parts.parts_table(broken[contender.name])}')
    return {
        **result, 'peaks': peaks, 'rows': [asdict(row) for row in rows],
        'models': [{'name': c.name, 'input_size': c.input_size, 'load_s': round(c.load_s, 3)}
                   for c in contenders],
        'parts': {name: [asdict(part) for part in found] for name, found in broken.items()},
        'text': '\n'.join(text)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m training.benchmark', description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('model', nargs='+', metavar='MODEL[:WORD]', help='what to time, see below')
    add('--against', choices=(RELEASED,),
        help='compare with the form that the released code runs, on the same weights')
    add('--size', type=int, nargs=2, metavar=('H', 'W'),
        help="of the pictures; default: the model's own")
    add('--batch', type=int, nargs='+', default=[1], help='pictures per call, several to compare')
    add('--runs', type=int, default=20, help='timed calls of each contender (20)')
    add('--warmup', type=int, default=2, help='calls before them (2)')
    add('--precision', default='fp32', choices=PRECISIONS, help='of presets and checkpoints')
    add('--compile', action='store_true',
        help='presets and checkpoints through torch.compile; on a GPU with CUDA graphs')
    add('--backend', default=RunOptions.backend, choices=BACKENDS, help='for model files')
    add_device(parser)
    add('--threads', type=int, default=0, help="CPU threads; 0: the engine's own")
    add('--parts', action='store_true', help='where the time goes, for torch networks (eager)')
    add('--no-roofline', dest='roofline', action='store_false', help='do not measure the peaks')
    add('--train', action='store_true', help='time a training step instead, on generated streets')
    add('--points', type=int, default=12544, help='points of matching and losses, with --train')
    add('--json', action='store_true', help='print one JSON object, no table')
    options = parser.parse_intermixed_args(argv)
    try:
        result = run(options)
    except KeyboardInterrupt:
        print('benchmark: stopped', file=sys.stderr)
        return 130
    except (CudaError, ModelError, OSError, ValueError, torch.OutOfMemoryError) as error:
        print(f'benchmark: {error}', file=sys.stderr)
        return 2
    text = result.pop('text')
    if options.json:
        print(json.dumps(result))
    else:
        print(', '.join(f'{key} {value}' for key, value in result['machine'].items()))
        print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
