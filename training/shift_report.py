# SPDX-License-Identifier: Apache-2.0
"""
Measure the verdict on the domain: python -m training.shift_report OUT

It writes OUT/shift.json, shift.md and shift.html. StreetWorld is drawn; with --camvid, a folder
with {train,val,test}/images, the verdict is fitted on photographs of one place and tried on
another: fitted on train, looked at on val and test, and on corrupted test pictures. What the model
makes of pictures is remembered in --cache, so a second run takes a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

import cv2
from dgtl_core.cli.arguments import minutes
from dgtl_core.domain import DomainLimits, DomainMonitor
from dgtl_core.domain_drives import Copies
from dgtl_core.domain_model import DomainModel
from dgtl_core.files import make_folder, print_any_text, write_atomically
from dgtl_core.predictor import default_model, Predictor
from dgtl_core.progress import Progress
from dgtl_core.streetworld import StreetWorld
import numpy as np
from training.bench import shift_figures as figures
from training.bench.shift_figures import Experiment
from training.bench.shift_page import markdown, page
from training.bench.shift_sets import KINDS, photographs, Signals, Streets
from training.device import add_device

CONDITIONS = ('fog', 'night', 'rain', 'snow', 'low_sun')
CORRUPTED = ('fog', 'night', 'snow', 'glare')
_FIT, _UNSEEN, _DRIVES = 100, 400, 500  # seeds of streets
_FPS = 10.0
_QUIET_FPS = 2.0  # of drives on which false alarms are counted
_FULL_HD = (1920, 1080)  # as OpenCV has sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.shift_report', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='OUT', help='the folder for the results')
    parser.add_argument('--model', type=Path, metavar='FILE',
                        help='a model file with a signature; the embedded one if left out')
    parser.add_argument('--camvid', type=Path, metavar='FOLDER',
                        help='photographs of two places, see above')
    parser.add_argument('--cache', type=Path, default=Path('~/.cache/dgtl/shift'), metavar='DIR',
                        help='where signals of pictures are remembered (%(default)s)')
    add_device(parser)
    parser.add_argument('--minutes', type=minutes, default=1.0, metavar='N',
                        help='drive so long through clear streets to count false alarms; 20 '
                             'without one bound them at 9 in an hour, and take 2,400 pictures '
                             '(default: %(default)s)')
    parser.add_argument('--quick', action='store_true',
                        help='few small pictures: shows that it works, and nothing else')
    options = parser.parse_args(arguments)
    try:
        for folder in (options.out, options.cache.expanduser()):
            make_folder(folder)
        if options.camvid is not None:
            check_camvid(options.camvid)
        predict = Predictor.load(options.model or default_model(), device=options.device)
        progress = Progress(None, 'picture')
        try:
            results = measure(predict, options, progress)
        finally:
            progress.close()
            predict.close()
        write_atomically(options.out / 'shift.json', json.dumps(results, indent=1) + '\n')
        write_atomically(options.out / 'shift.md', markdown(results))
        write_atomically(options.out / 'shift.html', page(results))
    except (OSError, ValueError) as error:
        print(f'shift_report: {error}', file=sys.stderr)
        return 1
    print(markdown(results))
    return 0


def measure(predict: Predictor, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Return all figures, ready for JSON."""
    signals = Signals(predict, options.cache.expanduser(), progress.advance)
    size = (64, 128) if options.quick else predict.input_size
    severities = (3,) if options.quick else (1, 2, 3, 4, 5)
    streets = Streets(size=size)
    experiments = [_drawn(signals, streets, severities, options.quick)]
    if options.camvid is not None:
        experiments.append(_photographed(signals, options.camvid, severities, options.quick))
    models = [experiment.fitted() for experiment in experiments]
    classes = len(predict.classes)
    return {
        'model': predict.metadata.name, 'sha256': predict.sha256[:12], 'quick': options.quick,
        'runs_on': predict.backend_name,
        'experiments': [{
            'name': experiment.name, 'drives': {n: len(d) for n, d in experiment.drives.items()},
            'channels': list(model.channels), 'expected_false_windows': model.false_alarms,
            'separation': figures.separation(experiment, model),
            'false_alarms': figures.false_alarms(experiment, model),
            'by_drives': figures.by_drives(experiment),
            'signals': figures.ablation(experiment, classes, 3),
        } for experiment, model in zip(experiments, models)],
        'streams': _streams(signals, streets, models[0], options.minutes, options.quick),
        'cost': _cost(predict, models[0])}


def _drawn(signals: Signals, streets: Streets, severities: Sequence[int],
           quick: bool) -> Experiment:
    count, copied, clear, shifted = (40, 8, 20, 10) if quick else (120, 24, 80, 40)
    fitted = signals(streets.pictures(_FIT, count))
    parts = np.array_split(fitted, 2 if quick else 6)
    return Experiment(
        name='StreetWorld, fitted on clear streets, tried on other streets',
        drives={f'streets {number}': part for number, part in enumerate(parts)},
        copies={kind: Copies(fitted[:copied], signals(streets.pictures(
            _FIT, copied, corruption=kind))) for kind in KINDS},
        normal={'clear streets': signals(streets.pictures(_UNSEEN, clear))},
        shifted={(condition, severity): signals(streets.pictures(
            _UNSEEN, shifted if severity == 3 else shifted // 2, condition, severity))
            for severity in severities for condition in CONDITIONS})


def check_camvid(folder: Path) -> None:
    """
    Find out before anything is measured whether the photographs are there.

    :raises ValueError: a folder is missing, or holds no pictures.
    """
    for part in ('train', 'val', 'test'):
        if not (folder / part / 'images').is_dir():
            raise ValueError(
                f'there is no folder {folder / part / "images"}; --camvid needs a folder with '
                '{train,val,test}/images')
        photographs(folder / part / 'images')


def _photographed(signals: Signals, folder: Path, severities: Sequence[int],
                  quick: bool) -> Experiment:
    train, val, test = (folder / part / 'images' for part in ('train', 'val', 'test'))
    step = 4 if quick else 1
    names = sorted({file.name.partition('_')[0] for file in train.iterdir()})
    return Experiment(
        name='CamVid, fitted on train by day, tried on test, another place',
        drives={name: signals(photographs(train, f'{name}_', step)) for name in names},
        copies={kind: Copies(signals(photographs(train, step=8 * step)), signals(photographs(
            train, step=8 * step, corruption=kind))) for kind in KINDS},
        normal={'test by day': signals(photographs(test, step=step)),
                'val by day': signals(photographs(val, step=step))},
        shifted={(kind, severity): signals(photographs(
            test, step=step if severity == 3 else 6 * step, corruption=kind, severity=severity))
            for severity in severities for kind in CORRUPTED})


def _streams(signals: Signals, streets: Streets, model: DomainModel, minutes: float,
             quick: bool) -> dict[str, Any]:
    seconds, changes, length = (2, 1, 12) if quick else (4, 2, 40)
    drives = math.ceil(60 * _QUIET_FPS * minutes / length)
    quiet = [signals(streets.drive(_DRIVES + number, length, _QUIET_FPS, ('clear',)))
             for number in range(drives)]
    return {
        'onset_s': {condition: [figures.onset(model, signals(streets.drive(
            _DRIVES + number, round(seconds * _FPS), _FPS, ('clear', condition))), _FPS)
            for number in range(changes)] for condition in CONDITIONS},
        'false_alarms': figures.per_hour(model, quiet, _QUIET_FPS)}


def _cost(predict: Predictor, model: DomainModel) -> dict[str, float]:
    """Time the inference, and the verdict in processor time; the least of some calls each."""
    small = StreetWorld(seed=1, size=predict.input_size).picture(0).image
    large = cv2.resize(small, _FULL_HD)
    monitor = DomainMonitor(len(predict.classes), model)
    infer: list[float] = []
    verdict: dict[int, list[float]] = {}
    for image in (small, large):
        result = predict(image)
        for _ in range(10):
            if image is small:
                start = time.perf_counter()
                predict(image)
                infer.append(time.perf_counter() - start)
            start = time.process_time()
            monitor.look(image, result)
            monitor.report(DomainLimits())
            verdict.setdefault(image.size, []).append(time.process_time() - start)
    return {'inference_ms': 1e3 * min(infer), 'verdict_ms': 1e3 * min(verdict[small.size]),
            'verdict_full_hd_ms': 1e3 * min(verdict[large.size]),
            'allowed_ms': 1 + 10 * min(infer),  # 1 ms and 1 %
            'statistics_kib': len(json.dumps(model.to_dict())) / 1024}


if __name__ == '__main__':
    sys.exit(main())
