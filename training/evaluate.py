# SPDX-License-Identifier: Apache-2.0
"""
Score a model on labelled pictures: python -m training.evaluate MODEL DATA...

MODEL is a checkpoint (.safetensors), an .onnx file or an engine. DATA is a data set by name:
streetworld:fog, camvid:FOLDER, acdc:FOLDER,condition=night, folder:FOLDER, ...

Several processes share the pictures and give the same numbers:
torchrun --nproc-per-node 4 -m training.evaluate MODEL DATA...

Protocols (a score means nothing without its protocol):
  whole  the picture is stretched to the model's input, as on the robot
  slide  sliding windows over the picture at its own size, enlarged where it is below a window
  low    sliding windows at the sizes of Rein and DGTL (Cityscapes 1024x512, BDD100K 1280x720)
  high   sliding windows at the sizes of tqdm, MFuser and SoMA (Cityscapes 2048x1024)
  vltseg low with BDD100K at 1024x512; twice the sizes for a model of 1024 pixels
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
import json
from pathlib import Path
import sys
from typing import Any

from dgtl_core.data.catalog import open_named
from dgtl_core.data.checks import check
from dgtl_core.data.corruptions import corrupt, CORRUPTIONS, WEATHER
from dgtl_core.evaluation.protocols import Labeler, labeler_of_file, labeler_of_model, PROTOCOLS
from dgtl_core.evaluation.score import Change, iou_table, score
from dgtl_core.files import destination, print_any_text, write_atomically
from dgtl_core.learning.processes import Processes
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.predictor import Predictor
import numpy as np
import torch
from training.device import add_device, choose_device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f'--limit must be 0 (all) or more, got {options.limit}')
    processes = Processes()
    try:
        for file, suffix in ((options.json, '.json'), (options.report, '.html')):
            if file is not None:  # now, and not when all is measured
                destination(file, suffix, force=options.force, sources=[options.model])
        corruptions, severities = _corruptions(options.corrupt, options.severity)
        processes, device = Processes.join(torch.device('cpu')), options.device
        if options.model.suffix == '.safetensors':  # else the engine has its own ideas
            processes = Processes.join(choose_device(device))
            device = str(processes.device)
        label, classes, runs_on = open_model(options.model, options.protocol, device)
        domains = open_named(options.data)
        for domain, pictures in domains.items():
            if pictures.classes.names != classes:
                raise ValueError(
                    f'{domain} has the classes {list(pictures.classes.names)}, the model '
                    f'{list(classes)}; they must be equal')
            if 'depth_fog' in corruptions and pictures[0].depth is None:
                raise ValueError(
                    f'{domain} has no depth, which the corruption depth_fog needs; take fog')
            for line in check(pictures, options.limit):
                _say(processes, line)
        measure = partial(score, label, limit=options.limit, processes=processes, quiet=False)
        scores = {domain: measure(pictures=pictures, keep_worst=3 if options.report else 0)
                  for domain, pictures in domains.items()}
        changed = [
            {'domain': domain, 'corruption': name, 'severity': severity, **measure(
                pictures=pictures, change=_change(name, severity)).gist()}
            for domain, pictures in domains.items()
            for name in corruptions for severity in severities]
        results = {
            'model': options.model.name, 'runs_on': runs_on, 'protocol': options.protocol,
            'classes': list(classes),
            'domains': [found.summary(domain) for domain, found in scores.items()],
            'corrupted': changed}
        results['mean_miou'] = float(np.mean([d['miou'] for d in results['domains']]))
        if processes.rank == 0:
            _write(options, results, [
                (domains[domain].classes, found.worst) for domain, found in scores.items()])
    except (ValueError, OSError) as error:
        _say(processes, str(error))
        return 1
    except KeyboardInterrupt:
        _say(processes, 'stopped')
        return 130
    finally:
        processes.leave()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluate', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, metavar='MODEL', help='what to score')
    parser.add_argument('data', nargs='+', metavar='DATA', help=(
        'what to score it on, see above; docs/train.md lists all data sets'))
    parser.add_argument('--protocol', choices=PROTOCOLS, default='whole',
                        help='see above (%(default)s)')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='only the first N pictures of each data set; 0: all (%(default)s)')
    parser.add_argument('--corrupt', default='', metavar='NAMES',
                        help='score it on corrupted pictures, too: names with commas, or "all" '
                             'for the 15 of ImageNet-C')
    parser.add_argument('--severity', default='1,3,5', metavar='N',
                        help='how strong these are: numbers from 1 to 5 with commas (%(default)s)')
    add_device(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers here')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write a page with plots here (.html)')
    parser.add_argument('--force', action='store_true', help='overwrite these files')
    return parser


def _say(processes: Processes, text: str) -> None:
    if processes.rank == 0:
        print(f'evaluate: {text}', file=sys.stderr)


def _write(options: argparse.Namespace, results: dict[str, Any], worst: Sequence[Any]) -> None:
    print(iou_table(results))
    if options.json:
        write_atomically(options.json, json.dumps(results, indent=1) + '\n')
    if options.report:
        from dgtl_core.evaluation.report import write_report
        write_report(options.report, results, worst)


def open_model(path: Path, protocol: str, device: str) -> tuple[Labeler, tuple[str, ...], str]:
    """
    Return what labels pictures, the names of its classes, and what runs it.

    :raises ModelError: the file is missing, no model, or cannot run here.
    """
    if path.suffix == '.safetensors':
        where = choose_device(device)
        model, config = load_segmenter(path)
        label = labeler_of_model(model.to(where), where, torch.float32, protocol)
        return label, config.classes.names, f'torch ({where})'
    predict = Predictor.load(path, device=device)
    return labeler_of_file(predict, protocol), predict.classes.names, predict.backend_name


def _corruptions(names: str, severities: str) -> tuple[list[str], list[int]]:
    chosen = list(CORRUPTIONS) if names == 'all' else [n for n in names.split(',') if n]
    for name in chosen:
        if name not in CORRUPTIONS + WEATHER:
            raise ValueError(
                f'unknown corruption {name!r}; there are {", ".join(CORRUPTIONS + WEATHER)}')
    levels = severities.split(',')
    if not set(levels) <= set('12345'):
        raise ValueError(f'--severity must be numbers from 1 to 5 with commas, got {severities!r}')
    return chosen, [int(level) for level in levels]


def _change(name: str, severity: int) -> Change:
    return lambda picture, index: corrupt(
        picture.image, name, severity, seed=index, depth=picture.depth)


if __name__ == '__main__':
    sys.exit(main())
