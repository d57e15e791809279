# SPDX-License-Identifier: Apache-2.0
"""``dgtl calibrate``: teach a model file what its robot's normal drives look like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import json
from pathlib import Path
import sys

from dgtl_core.runtime.contract import RunOptions
import numpy as np


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog='dgtl calibrate', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Fit the verdict on the domain of a model file on normal drives.\n\n'
        'Each SOURCE is one drive: a folder of pictures, a video or a bag, in the order of time. '
        'Three or\nmore drives in different places tell how often a new place would be a false '
        'alarm.',
        epilog='dgtl calibrate monday.mcap tuesday.mcap friday.mcap --model m.onnx --out own.onnx'
        '\ndgtl calibrate --check foggy.mp4 --model own.onnx')
    parser.add_argument('sources', nargs='*', metavar='SOURCE', help='a normal drive')
    parser.add_argument('--model', metavar='IN.onnx', type=Path, help='the model file to start '
                        'from, or to check; the embedded demonstration model if left out')
    parser.add_argument('--out', metavar='OUT.onnx', type=Path, help='the model file to write')
    parser.add_argument('--check', metavar='SOURCE', action='append', default=[],
                        help='report the verdicts on a recording instead; can be repeated')
    parser.add_argument('--stride', type=int, default=1, help='take each N-th frame', metavar='N')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='the most frames of each source; 0: all')
    parser.add_argument('--device', default=RunOptions.device, help='where the model runs')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    options = parser.parse_args(arguments)
    if bool(options.check) == bool(options.sources):
        parser.error('give SOURCEs of normal drives, or --check SOURCE, and not both')
    if options.sources and options.out is None:
        parser.error('name the model file to write: --out OUT.onnx')
    if options.check and options.out is not None:
        parser.error('--check writes no file; omit --out')
    from dgtl_core.domain_model import DomainError
    from dgtl_core.model_file import ModelError
    from dgtl_core.predictor import default_model

    try:
        model = options.model or default_model()
        return _check(options, model) if options.check else _fit(options, model)
    except (DomainError, ModelError, OSError, ValueError) as error:
        print(f'dgtl calibrate: {error}', file=sys.stderr)
        return 1


def _pictures(options: argparse.Namespace, word: str) -> Iterator[np.ndarray]:
    from dgtl_core.recorded.sources import frames, open_sources

    for frame in frames(open_sources([word]), options.stride, options.limit):
        yield frame.image


def _fit(options: argparse.Namespace, path: Path) -> int:
    from dgtl_core.calibration import calibrate, write_domain
    from dgtl_core.domain_fit import LEAST_DRIVES
    from dgtl_core.files import destination
    from dgtl_core.predictor import Predictor

    destination(options.out, '.onnx')
    predict = Predictor.load(path, device=options.device)
    try:
        model = calibrate(predict, {word: _pictures(options, word) for word in options.sources})
    finally:
        predict.close()
    write_domain(path, options.out, model)
    told = {
        'out': str(options.out), 'drives': {d.name: d.pictures for d in model.drives},
        'channels': list(model.channels), 'false_alarms': model.false_alarms,
        'cross_validated': model.cross_validated}
    if options.json:
        print(json.dumps(told))
        return 0
    for drive in model.drives:
        print(f'{drive.pictures:6d} pictures of {drive.name}')
    print(f'found are: {", ".join(model.channels)}')
    print(f'{model.false_alarms:.1%} of the windows of a {model.cross_validated} that was left '
          'out would be false alarms')
    if model.cross_validated != 'drive':
        print(f'{LEAST_DRIVES - len(model.drives)} more drives, best in other places, would show '
              'how the verdict holds where the robot has not been yet')
    print(f'wrote {options.out}')
    return 0


def _check(options: argparse.Namespace, path: Path) -> int:
    from dgtl_core.calibration import shares, windows
    from dgtl_core.domain import domain_of
    from dgtl_core.domain_model import CALIBRATE, DomainError
    from dgtl_core.predictor import Predictor

    predict = Predictor.load(path, device=options.device)
    try:
        model = domain_of(predict.metadata)
        if model is None:
            raise DomainError(f'{path} knows no normal drives: {CALIBRATE}')
        found = [verdict for word in options.check
                 for verdict in windows(predict, model, _pictures(options, word))]
    finally:
        predict.close()
    told = shares(found)
    if not found:
        raise DomainError('a check needs at least five pictures')
    if options.json:
        print(json.dumps({**told, 'scores': [round(v.score, 4) for v in found]}))
        return 0
    for number, verdict in enumerate(found):
        print(f'window {number:4d}  {verdict.state:<9} {verdict.score:.2f}  '
              f'{", ".join(verdict.causes)}')
    print(f'{told["windows"]} windows: {told["familiar"]:.1%} familiar, {told["shifted"]:.1%} '
          f'shifted, {told["unusable"]:.1%} unusable')
    return 0
