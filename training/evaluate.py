# SPDX-License-Identifier: Apache-2.0
"""
Score a model on labelled pictures: python -m training.evaluate MODEL DATA...

MODEL is a checkpoint (.safetensors), an .onnx file or an engine. DATA is a data set by name:
streetworld:fog, camvid:FOLDER, acdc:FOLDER,condition=night, folder:FOLDER, ...

Protocols (a score means nothing without its protocol):
  whole  the picture is stretched to the model's input, as on the robot
  slide  sliding windows over the picture at its own size, enlarged where it is below a window
  low    sliding windows at the sizes of Rein and DGTL (Cityscapes 1024x512, BDD100K 1280x720)
  high   sliding windows at the sizes of tqdm, MFuser and SoMA (Cityscapes 2048x1024)
  vltseg low with BDD100K at 1024x512; twice the sizes for a model of 1024 pixels
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
import sys
import time
from typing import Any

from dgtl_core.data.catalog import open_named
from dgtl_core.data.corruptions import corrupt, CORRUPTIONS, WEATHER
from dgtl_core.data.datasets import LabelledPicture, Pictures
from dgtl_core.evaluation.protocols import Labeler, labeler_of_file, labeler_of_model, PROTOCOLS
from dgtl_core.files import write_atomically
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.checkpoint import load_segmenter
from dgtl_core.predictor import Predictor
import numpy as np
import torch
from tqdm import tqdm
from training.bench.machine import choose_device

Change = Callable[[LabelledPicture, int], np.ndarray]  # picture and its index -> another picture


@dataclass
class Score:
    """What a model made of one data set."""

    matrix: ConfusionMatrix
    pictures: int = 0
    seconds: float = 0.0  # in the model, with resizing
    # (mean IoU, picture with its truth, the labels given), worst first
    worst: list[tuple[float, LabelledPicture, np.ndarray]] = field(default_factory=list)


def score(label: Labeler, pictures: Pictures, limit: int = 0, *, first: int = 0, stride: int = 1,
          change: Change | None = None, keep_worst: int = 0, quiet: bool = True) -> Score:
    """Label every ``stride``-th of ``limit`` pictures (0: all), and compare with the truth."""
    result = Score(ConfusionMatrix(len(pictures.classes)))
    indices = range(first, min(limit or len(pictures), len(pictures)), stride)
    for index in tqdm(indices, desc=pictures.name, unit='picture', leave=False, disable=quiet):
        picture = pictures[index]
        if change is not None:
            picture = picture._replace(image=change(picture, index))
        start = time.perf_counter()
        labels = label(picture.image, pictures.name)
        result.seconds += time.perf_counter() - start
        result.pictures += 1
        result.matrix.update(labels, picture.labels)
        if keep_worst:
            alone = ConfusionMatrix(len(pictures.classes))
            alone.update(labels, picture.labels)
            if alone.counts.any():  # a picture without a truth has no score
                result.worst.append((alone.mean_iou(), picture, labels))
                result.worst = sorted(result.worst, key=lambda item: item[0])[:keep_worst]
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluate', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, metavar='MODEL')
    parser.add_argument('data', nargs='+', metavar='DATA')
    parser.add_argument('--protocol', choices=PROTOCOLS, default='whole',
                        help='see above (%(default)s)')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='first N pictures of each data set alone; 0: all (%(default)s)')
    parser.add_argument('--corrupt', default='', metavar='NAMES',
                        help='corruptions by name, comma between, or "all": the 15 of ImageNet-C')
    parser.add_argument('--severity', default='1,3,5', metavar='N',
                        help='of the corruptions, 1 to 5, comma between (%(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers here')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write a page with plots here (.html)')
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f'--limit must be 0 (all) or more, got {options.limit}')
    try:
        corruptions, severities = _corruptions(options.corrupt, options.severity)
        label, classes, runs_on = open_model(options.model, options.protocol, options.device)
        domains = open_named(options.data)
        for domain, pictures in domains.items():
            if pictures.classes.names != classes:
                raise ValueError(
                    f'{domain} has the classes {list(pictures.classes.names)}, the model '
                    f'{list(classes)}; they must be equal')
            if 'depth_fog' in corruptions and pictures[0].depth is None:
                raise ValueError(
                    f'{domain} has no depth, which the corruption depth_fog needs; take fog')
        for file in (options.json, options.report):  # now, and not when all is measured
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        scores = {domain: score(
            label, pictures, options.limit, keep_worst=3 if options.report else 0, quiet=False)
            for domain, pictures in domains.items()}
        for domain, found in scores.items():
            if not found.matrix.counts.any():
                raise ValueError(f'{domain}: no pixel of {found.pictures} pictures has a label')
        changed = [
            {'domain': domain, 'corruption': name, 'severity': severity,
             'miou': score(label, pictures, options.limit, change=_change(name, severity),
                           quiet=False).matrix.mean_iou()}
            for domain, pictures in domains.items()
            for name in corruptions for severity in severities]
        results = {
            'model': options.model.name, 'runs_on': runs_on, 'protocol': options.protocol,
            'classes': list(classes),
            'domains': [summary(domain, found) for domain, found in scores.items()],
            'corrupted': changed}
        results['mean_miou'] = float(np.mean([d['miou'] for d in results['domains']]))
        print(table(results))
        if options.json:
            write_atomically(options.json, json.dumps(results, indent=1) + '\n')
        if options.report:
            from dgtl_core.evaluation.report import write_report
            write_report(options.report, results, [
                (domains[domain].classes, found.worst) for domain, found in scores.items()])
    except (ValueError, OSError) as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('evaluate: stopped', file=sys.stderr)
        return 130
    return 0


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


def summary(name: str, found: Score) -> dict[str, Any]:
    """Return the numbers of one data set; IoU null for a class that does not occur in it."""
    truth = found.matrix.counts.sum(1) > 0
    return {
        'name': name, 'pictures': found.pictures, 'miou': found.matrix.mean_iou(),
        'accuracy': found.matrix.accuracy(),
        'pictures_per_s': round(found.pictures / max(found.seconds, 1e-9), 2),
        'iou': [float(value) if known else None
                for value, known in zip(found.matrix.iou(), truth)]}


def table(results: dict[str, Any]) -> str:
    """Return the results as text: a line for each class, a column for each data set, in %."""
    domains = results['domains']
    widths = [max(len(domain['name']), 6) + 2 for domain in domains]
    first = max(len(name) for name in ['traffic light', *results['classes']]) + 3

    def line(head: str, cells: Sequence[str]) -> str:
        return f'{head:<{first}}' + ''.join(
            f'{cell:>{width}}' for cell, width in zip(cells, widths))

    def percent(value: float | None) -> str:
        return '-' if value is None else f'{100 * value:.1f}'

    lines = [
        f'{results["model"]} on {results["runs_on"]}, protocol {results["protocol"]}; IoU in %',
        line('', [domain['name'] for domain in domains])]
    lines += [line(name, [percent(domain['iou'][i]) for domain in domains])
              for i, name in enumerate(results['classes'])]
    lines.append(line('mean', [percent(domain['miou']) for domain in domains]))
    lines.append(line('pictures', [str(domain['pictures']) for domain in domains]))
    if len(domains) > 1:
        lines.append(f'mean over data sets: {percent(results["mean_miou"])}')
    lines += [f'{entry["domain"]} + {entry["corruption"]} {entry["severity"]}: '
              f'{percent(entry["miou"])}' for entry in results['corrupted']]
    return '\n'.join(lines)


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
