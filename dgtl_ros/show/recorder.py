# SPDX-License-Identifier: Apache-2.0
"""What went into the node and what came out, paired by time stamp. Knows nothing of ROS."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
import math
from typing import Any

import cv2
from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.metrics import ConfusionMatrix
import numpy as np

_KEPT = 64       # pictures that wait for their labels
SAMPLES = 4      # pictures of each condition that are kept whole
_CLIP = 48       # small pictures in a row of each condition: a few seconds of video
_CLIP_WIDTH = 512
_SKIPPED = 0.9   # labels per picture, below which the node is what limits the rate


@dataclass
class Condition:
    """What was seen under one condition of weather and light."""

    inputs: int = 0
    outputs: int = 0
    latencies: list[float] = field(default_factory=list)
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    next_sample: float = 0.0
    clip: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    clip_times: list[float] = field(default_factory=list)
    confusion: ConfusionMatrix | None = None


class Recorder:
    """
    Takes in pictures, truth and labels as they come.

    :param spacing: least time in seconds between two sample pictures of one condition.
    """

    def __init__(self, spacing: float) -> None:
        self._spacing = spacing
        self._waiting: OrderedDict[int, tuple[np.ndarray, str]] = OrderedDict()
        self._truth: OrderedDict[int, np.ndarray] = OrderedDict()
        self._inputs: dict[int, float] = {}
        self._outputs: dict[int, float] = {}
        self.latencies: list[float] = []  # milliseconds, one for each output
        self.conditions: dict[str, Condition] = {}
        self.classes: ClassSet | None = None
        self.diagnostics: dict[str, dict[str, str]] = {}

    def add_input(self, stamp: int, image: np.ndarray, condition: str, now: float) -> None:
        """Note a picture of the camera. Times in seconds by the steady clock."""
        self._inputs[stamp] = now
        _keep(self._waiting, stamp, (image, condition))
        self._of(condition).inputs += 1

    def add_truth(self, stamp: int, labels: np.ndarray) -> None:
        """Note what is really to be seen in a picture."""
        _keep(self._truth, stamp, labels)

    def add_output(self, stamp: int, labels: np.ndarray, latency_ms: float, now: float) -> None:
        """Note labels of the node, and how old the picture was when they came."""
        self._outputs[stamp] = now
        self.latencies.append(latency_ms)
        image, name = self._waiting.pop(stamp, (None, ''))
        truth = self._truth.pop(stamp, None)
        if image is None:
            return
        condition = self._of(name)
        condition.outputs += 1
        condition.latencies.append(latency_ms)
        if now >= condition.next_sample and len(condition.samples) < SAMPLES:
            condition.next_sample = now + self._spacing
            condition.samples.append((image.copy(), labels.copy()))
        if len(condition.clip) < _CLIP:
            condition.clip.append(_small(image, labels))
            condition.clip_times.append(now)
        if truth is not None and self.classes is not None and (
                self.classes.names == CITYSCAPES.names):
            if condition.confusion is None:
                condition.confusion = ConfusionMatrix(len(CITYSCAPES))
            condition.confusion.update(labels, truth)

    def _of(self, name: str) -> Condition:
        return self.conditions.setdefault(name or 'input', Condition())

    @property
    def outputs(self) -> int:
        """How many label pictures came."""
        return len(self._outputs)

    def dropped(self) -> int:
        """Count the pictures that the node passed over: a newer one has its labels already."""
        newest = max(self._outputs, default=0)
        return sum(s < newest and s not in self._outputs for s in self._inputs)

    def line(self, now: float) -> str:
        """Describe the last seconds in one line."""
        p50, p95 = _percentiles(self.latencies[-100:], 50, 95)
        condition = next(reversed(self.conditions), '')
        incoming, outgoing = _recent(self._inputs, now), _recent(self._outputs, now)
        return (f'{condition:>9} | in {incoming:4.1f} Hz | out {outgoing:4.1f} Hz | '
                f'limit: {self._limit(incoming, outgoing)} | latency p50 {p50:.0f} ms, '
                f'p95 {p95:.0f} ms | dropped {self.dropped()}')

    def limit(self) -> str:
        """Say what held the rate of the labels down: the node, or the camera."""
        return self._limit(_rate(self._inputs), _rate(self._outputs))

    def _limit(self, incoming: float, outgoing: float) -> str:
        if outgoing >= _SKIPPED * incoming:
            return 'the camera'
        took = self.diagnostics.get('inference', {}).get('latency_ms_p50')
        return f'the node, {float(took):.0f} ms a picture' if took else 'the node'

    def timeline(self) -> list[tuple[float, float]]:
        """Return (seconds since the first picture, latency in milliseconds) of each output."""
        start = min(self._inputs.values(), default=0.0)
        return [(at - start, ms) for at, ms in zip(self._outputs.values(), self.latencies)]

    def rates(self) -> tuple[list[float], list[float]]:
        """Return how many pictures came, and how many labels, in each whole second."""
        start = min(self._inputs.values(), default=0.0)
        end = max([*self._inputs.values(), *self._outputs.values()], default=start)
        edges = np.arange(int(end - start) + 1)
        incoming, outgoing = (
            np.histogram([t - start for t in times.values()], edges)[0].tolist()
            if len(edges) > 1 else [] for times in (self._inputs, self._outputs))
        return incoming, outgoing

    def report(self) -> dict[str, Any]:
        """Return all figures, ready for JSON."""
        p50, p95, most = _percentiles(self.latencies, 50, 95, 100)
        return {
            'inputs': len(self._inputs), 'outputs': len(self._outputs),
            'dropped': self.dropped(), 'limit': self.limit(),
            'input_rate_hz': _rate(self._inputs), 'output_rate_hz': _rate(self._outputs),
            'latency_ms': {'p50': _number(p50), 'p95': _number(p95), 'max': _number(most)},
            'conditions': {name: {
                'inputs': c.inputs, 'outputs': c.outputs,
                'latency_ms_p50': _number(_percentiles(c.latencies, 50)[0]),
                'mean_iou': None if c.confusion is None else _number(c.confusion.mean_iou()),
            } for name, c in self.conditions.items()},
            'node': self.diagnostics}


def _small(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring a picture and its labels to the width of a clip, with even sides for the encoder."""
    height = max(round(image.shape[0] * _CLIP_WIDTH / image.shape[1] / 2), 1) * 2
    return (cv2.resize(image, (_CLIP_WIDTH, height), interpolation=cv2.INTER_AREA),
            cv2.resize(labels, (_CLIP_WIDTH, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _keep(place: OrderedDict[int, Any], stamp: int, item: object) -> None:
    place[stamp] = item
    while len(place) > _KEPT:
        place.popitem(last=False)


def _percentiles(values: Sequence[float], *percents: float) -> list[float]:
    return [float(p) for p in np.percentile(values, percents)] if values else [
        math.nan for _ in percents]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)  # JSON knows no nan


def _rate(times: dict[int, float]) -> float:
    span = max(times.values()) - min(times.values()) if times else 0
    return round((len(times) - 1) / span, 3) if span else 0.0


def _recent(times: dict[int, float], now: float, seconds: float = 3.0) -> float:
    return sum(t > now - seconds for t in list(times.values())[-1000:]) / seconds
