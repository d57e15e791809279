# SPDX-License-Identifier: Apache-2.0
"""
Sizes and speed of every form and backbone, side by side: python -m training.sizes

For DINOv2 S, B and L: the released form, the folded Mask2Former head, and the light head on
patches of 16 and of 32, and SegFormer-B0 beside them, all with random weights. The contenders of
one size run in turn, on the CPU, so that the ratios, of processor time, are of one run; the times
of two sizes are compared through SegFormer-B0, which runs with each. Scores are those of
training.experiment, where it was run with the two heads; its backbone is another, the same for
both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys

from dgtl_core.cli.arguments import at_least
from dgtl_core.files import destination, print_any_text, write_atomically
from dgtl_core.folding.precision import Precision, PRECISIONS
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.runtime.contract import MAX_THREADS
import torch
from training.bench.contenders import Contender, open_contender, parse, Spec
from training.bench.latency import measure_latency
from training.bench.roofline import count
from training.bench.segformer import NAME, segformer
from training.experiment_report import statistics, UNSEEN

MASK2FORMER = 'Mask2Former head, folded'
FORMS = {  # form: model of a size, method of the experiment
    MASK2FORMER: ('dgtl-dinov2-{}', 'head-mask2former'),
    'released form': ('dgtl-dinov2-{}:released-eager', ''),
    'light head': ('dgtl-rt-{}', 'head-light-texts'),
    'light head, patch 32': ('dgtl-rt-{}-p32', '')}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contender."""

    size: str  # S, B or L; '' of SegFormer
    form: str
    parameters: float  # millions, of the model that is trained
    gflop: float
    ms: float  # processor time of the call that other programs disturbed least
    to_mask2former: float  # ratio to the folded Mask2Former head of the same size
    to_segformer: float | None
    miou: float | None  # percent, mean over the unseen domains of the experiment


def compare(letter: str, size: tuple[int, int], runs: int, precision: Precision,
            scores: dict[str, float]) -> list[Line]:
    """
    Time the forms of one backbone on pictures of ``size``, and SegFormer where it is there.

    :param precision: of all but the released form, which runs in float32.
    """
    contenders: list[Contender] = []
    parameters = []
    for model, _ in FORMS.values():
        spec = parse(model.format(letter), Spec(model='', precision=precision))
        cache: dict[str, Segmenter] = {}
        contenders.append(open_contender(spec, size, 'cpu', 0, 'auto', cache))
        parameters.append(sum(p.numel() for p in cache[spec.model].parameters()) / 1e6)
    try:
        contenders.append(segformer(size, Spec(model='', precision=precision).dtype))
        assert contenders[-1].network is not None
        parameters.append(sum(p.numel() for p in contenders[-1].network.parameters()) / 1e6)
    except ImportError:
        print(f'{NAME} is left out: pip install transformers', file=sys.stderr)
    measure_latency(contenders, [1], runs=runs, warmup=1)
    times = [1e3 * min(contender.cpu[1]) for contender in contenders]
    lines = []
    for form, ms, contender, weights in zip([*FORMS, NAME], times, contenders, parameters):
        assert contender.network is not None
        lines.append(Line(
            size='' if form == NAME else letter.upper(), form=form, parameters=weights,
            gflop=count(contender.network, size).flops / 1e9, ms=ms, to_mask2former=ms / times[0],
            to_segformer=ms / times[-1] if contenders[-1].name == NAME else None,
            miou=scores.get(FORMS[form][1]) if form in FORMS else None))
    return lines


def sizes_table(lines: Sequence[Line]) -> str:
    """Return the lines in Markdown."""
    rows = ['| backbone | form | parameters, M | GFLOP | ms | Mask2Former head = 1 | '
            f'{NAME} = 1 | mIoU of the unseen, small experiment |', '|---|---' + '|---:' * 6 + '|']
    for line in lines:
        numbers = [f'{line.parameters:.1f}', f'{line.gflop:.0f}', f'{line.ms:.0f}',
                   f'{line.to_mask2former:.2f}',
                   *('–' if value is None else f'{value:.1f}'
                     for value in (line.to_segformer, line.miou))]
        rows.append(' | '.join([f'| {line.size or "–"}', line.form, *numbers]) + ' |')
    return '\n'.join(rows)


def experiment_scores(file: Path) -> dict[str, float]:
    """
    Return the mean of the unseen in percent by method, from ``results.json`` of the experiment.

    :raises ValueError: it is none.
    """
    try:
        results = json.loads(file.read_text(encoding='utf-8'))
        methods = next(iter(results.values()))
        return {method: found[UNSEEN][0] for method, found in statistics(methods).items()}
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        raise ValueError(f'{file} holds no results of training.experiment') from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all was measured."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.sizes', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--sizes', nargs='+', choices=('s', 'b', 'l'), default=['s', 'b', 'l'],
        metavar='SIZE', help='of the backbone: s, b, l (all)')
    add('--picture', type=int, nargs=2, metavar=('H', 'W'), default=(512, 1024),
        help='(512 1024)')
    add('--runs', type=at_least(1), default=3, help='timed calls of each (%(default)s)')
    add('--precision', choices=PRECISIONS, default='fp32',
        help='of all but the released form, which has float32 (%(default)s)')
    add('--threads', type=int, default=1, help='(%(default)s)')
    add('--experiment', type=Path, metavar='FILE', help='results.json of training.experiment')
    add('--out', type=Path, metavar='FILE', help='write the numbers here (.json)')
    add('--force', action='store_true', help='overwrite this file')
    options = parser.parse_args(argv)
    try:
        if not 1 <= options.threads <= MAX_THREADS:
            raise ValueError(f'--threads must be 1 to {MAX_THREADS}, got {options.threads}')
        if options.out:  # now, and not when all is measured
            destination(options.out, '.json', force=options.force)
        scores = experiment_scores(options.experiment) if options.experiment else {}
        torch.set_num_threads(options.threads)
        lines: list[Line] = []
        for letter in options.sizes:
            lines += compare(letter, tuple(options.picture), options.runs, options.precision,
                             scores)
            if options.out:
                write_atomically(options.out, json.dumps([asdict(x) for x in lines], indent=1))
    except (OSError, ValueError) as error:
        print(f'sizes: {error}', file=sys.stderr)
        return 1
    print(sizes_table(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
