# SPDX-License-Identifier: Apache-2.0
"""A model on a labelled data set: what it made of the pictures, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import time
from typing import Any

from dgtl_core.data.datasets import LabelledPicture, Pictures
from dgtl_core.evaluation.protocols import Labeler
from dgtl_core.learning.processes import Processes
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.predictor import Segmentation
from dgtl_core.reliability import Reliability
import numpy as np
from tqdm import tqdm

Change = Callable[[LabelledPicture, int], np.ndarray]  # picture and its index -> another picture
Worst = tuple[float, LabelledPicture, np.ndarray]  # mean IoU, picture with its truth, labels given

# of the confidence, in the table and on the page; the methods of Reliability
FIGURES = {
    'ece': 'ECE', 'auroc': 'AUROC', 'fpr95': 'FPR95', 'aupr_success': 'AUPR success',
    'aupr_error': 'AUPR error', 'aurc': 'AURC'}


@dataclass
class Score:
    """What a model made of one data set."""

    matrix: ConfusionMatrix
    keep_worst: int = 0
    reliability: Reliability = field(default_factory=Reliability)
    pictures: int = 0
    seconds: float = 0.0  # in the model, with resizing
    worst: list[Worst] = field(default_factory=list)  # the worst first

    def add(self, picture: LabelledPicture, found: Segmentation, seconds: float) -> None:
        """Take one picture, what a model made of it, and how long that took."""
        self.pictures += 1
        self.seconds += seconds
        alone = ConfusionMatrix(self.matrix.num_classes)
        alone.update(found.labels, picture.labels)
        self.matrix.counts += alone.counts
        self.reliability.update(found.labels, found.confidence, picture.labels)
        if self.keep_worst and alone.counts.any():  # a picture without a truth has no score
            self._keep([(alone.mean_iou(), picture, found.labels)])

    def gather(self, processes: Processes) -> None:
        """Make this the score of all processes together; every one of them must call it."""
        counted = np.array([self.pictures, self.seconds])
        processes.add_up(self.matrix.counts)
        processes.add_up(self.reliability.counts)
        processes.add_up(counted)
        self.pictures, self.seconds = int(counted[0]), float(counted[1])
        others = processes.collect(self.worst)
        self.worst = []
        self._keep([entry for part in others for entry in part])

    def gist(self) -> dict[str, float | None]:
        """Return the figures that a corruption is judged by."""
        return {'miou': self.matrix.mean_iou(), 'ece': _known(self.reliability.ece()),
                'auroc': _known(self.reliability.auroc())}

    def summary(self, name: str) -> dict[str, Any]:
        """
        Return the numbers of one data set; IoU null for a class that does not occur in it.

        ``confidence`` holds the figures of :class:`Reliability`, null where they are not defined,
        its bins and its risk by coverage.
        """
        truth = self.matrix.counts.sum(1) > 0
        return {
            'name': name, 'pictures': self.pictures, 'miou': self.matrix.mean_iou(),
            'accuracy': self.matrix.accuracy(),
            'pictures_per_s': round(self.pictures / max(self.seconds, 1e-9), 2),
            'iou': [float(value) if known else None
                    for value, known in zip(self.matrix.iou(), truth)],
            'confidence': {
                **{figure: _known(getattr(self.reliability, figure)()) for figure in FIGURES},
                'bins': [
                    {'confidence': _known(sure), 'right': _known(right), 'pixels': int(pixels)}
                    for sure, right, pixels in zip(*self.reliability.bins())],
                'risk_coverage': [list(point) for point in zip(
                    *(values.tolist() for values in self.reliability.risk_coverage()))]}}

    def _keep(self, entries: Sequence[Worst]) -> None:
        self.worst = sorted(
            [*self.worst, *entries], key=lambda entry: entry[0])[:self.keep_worst]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def score(label: Labeler, pictures: Pictures, limit: int = 0, *,
          processes: Processes | None = None, change: Change | None = None, keep_worst: int = 0,
          quiet: bool = True) -> Score:
    """
    Label ``limit`` pictures (0: all) and compare with the truth.

    :param processes: share the pictures; each of them returns the score of all.
    """
    processes = processes or Processes()
    result = Score(ConfusionMatrix(len(pictures.classes)), keep_worst)
    indices = range(
        processes.rank, min(limit or len(pictures), len(pictures)), processes.world)
    for index in tqdm(indices, desc=pictures.name, unit='picture', leave=False,
                      disable=quiet or processes.rank > 0):
        picture = pictures[index]
        if change is not None:
            picture = picture._replace(image=change(picture, index))
        start = time.perf_counter()
        found = label(picture.image, pictures.protocol_sizes)
        result.add(picture, found, time.perf_counter() - start)
    result.gather(processes)
    return result


def iou_table(results: dict[str, Any]) -> str:
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
        f'{results["model"]} on {results["runs_on"]}, protocol {results["protocol"]}; '
        'IoU of classes and figures of the confidence in %',
        line('', [domain['name'] for domain in domains])]
    lines += [line(name, [percent(domain['iou'][i]) for domain in domains])
              for i, name in enumerate(results['classes'])]
    lines.append(line('mean', [percent(domain['miou']) for domain in domains]))
    lines += [line(title, [percent(domain['confidence'][figure]) for domain in domains])
              for figure, title in FIGURES.items()]
    lines.append(line('pictures', [str(domain['pictures']) for domain in domains]))
    if len(domains) > 1:
        lines.append(f'mean over data sets: {percent(results["mean_miou"])}')
    lines += [f'{entry["domain"]} + {entry["corruption"]} {entry["severity"]}: '
              f'{percent(entry["miou"])}, ECE {percent(entry["ece"])}'
              for entry in results['corrupted']]
    return '\n'.join(lines)
