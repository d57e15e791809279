# SPDX-License-Identifier: Apache-2.0
"""
Tell whether the camera still delivers something that the model can judge.

Each picture gives figures of its own and, where the model file holds the statistics of normal
drives, evidence for a shift. Evidence is summed over time (:mod:`dgtl_core.domain_change`), so
that one flare is nothing and a real change is seen within a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import threading
from typing import Literal
import zlib

from dgtl_core.appearance import appearance, NAMES, thinned
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.domain_change import ChangeDetector, NOMINAL_S
from dgtl_core.domain_model import DomainError, DomainModel
from dgtl_core.predictor import ModelMetadata, Segmentation
import numpy as np

__all__ = [
    'domain_of', 'DomainError', 'DomainLimits', 'DomainModel', 'DomainMonitor', 'features',
    'odds', 'Verdict', 'WINDOW']

State = Literal['familiar', 'shifted', 'unusable']
WINDOW = 10  # pictures whose evidence makes the score and the causes
_STEP = 4    # every fourth pixel of every fourth row is looked at, fewer of large pictures
_ENOUGH = (96, 192)  # rows and columns
_MOST = 10.0  # of the logarithm of one picture's odds, either way
_WORDS = {
    'contrast': 'low contrast', 'defocus_blur': 'blurred', 'fog': 'fog-like contrast',
    'gaussian_noise': 'noisy', 'night': 'dark', 'snowfall': 'snow or rain in the air',
    'unfamiliar': 'unfamiliar scene', 'unsure': 'the model is unsure'}


@dataclass(frozen=True, kw_only=True)
class DomainLimits:
    """Fixed limits; the first two are judged only where no normal drives are known."""

    min_mean_confidence: float = 0.6
    max_entropy: float = 0.5        # estimated from the confidence, 0..1
    dark_luma: float = 25.0         # of 255
    bright_luma: float = 230.0
    blur_laplacian: float = 20.0    # variance of the Laplacian
    window: int = 30                # pictures


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of the pictures of the last moments."""

    score: float = 0.0       # 0 as on the normal drives .. 1 surely shifted
    state: State = 'familiar'
    causes: tuple[str, ...] = ()
    values: dict[str, float] = field(default_factory=dict)  # figures, averaged over the window


@dataclass(frozen=True)
class _Figures:
    """What is kept of one picture."""

    luma_mean: float
    luma_saturated_fraction: float
    blur: float
    mean_confidence: float
    entropy: float
    unlabeled_fraction: float
    histogram: np.ndarray
    evidence: np.ndarray  # per channel of the model


def domain_of(metadata: ModelMetadata) -> DomainModel | None:
    """
    Return what a model file knows about normal drives, None where that is nothing.

    :raises DomainError: it is broken.
    """
    return None if metadata.domain is None else DomainModel.from_dict(metadata.domain)


def features(image: np.ndarray, result: Segmentation,
             ignored: np.ndarray | None = None) -> np.ndarray:
    """
    Return what a domain is fitted on: appearance, mean confidence and signature, (D,).

    :param ignored: (H, W) bool, pixels of the robot itself. The network has seen them; on the
        robot's own drives they are the same in all pictures.
    """
    signature = np.zeros(0, np.float32) if result.signature is None else result.signature
    confidence = _thin(result.confidence)
    if ignored is not None and not ignored.all():
        confidence = confidence[~_thin(ignored)]
    return np.concatenate((appearance(image, ignored), [confidence.mean() / 255], signature))


def odds(evidence: np.ndarray) -> np.ndarray:
    """
    Return the logarithm of the odds that a picture is shifted, by the channel that says most.

    The score of a window is made of its mean; no single picture decides it.
    Shape: (N, C) -> (N,).
    """
    return np.asarray(np.clip(evidence, -_MOST, _MOST).max(axis=1))


class DomainMonitor:
    """Looks at pictures and labels in one thread, reports in another."""

    def __init__(self, num_classes: int, model: DomainModel | None = None) -> None:
        """
        Start with nothing seen.

        :param model: of the model file; None: only the limits are judged.
        """
        self._num_classes, self._model = num_classes, model
        self._entropy = _entropy_table(num_classes)
        self._frames: deque[_Figures] = deque(maxlen=600)
        self._first: list[np.ndarray] = []  # class histograms that later ones are compared with
        self._checksum: int | None = None
        self._frozen = 0
        self._change = self._detector()
        self._lock = threading.Lock()

    def look(self, image: np.ndarray, result: Segmentation, seconds: float = NOMINAL_S,
             ignored: np.ndarray | None = None) -> None:
        """
        Take in one picture and what the model made of it, before thresholds.

        :param seconds: since the picture before it.
        :param ignored: (H, W) bool, pixels that show the robot itself.
        """
        labels, confidence = _thin(result.labels), _thin(result.confidence)
        checksum = zlib.adler32(thinned(image, *labels.shape).data)
        seen = features(image, result, ignored)
        figures = dict(zip(NAMES, seen.tolist()))
        evidence = (np.zeros(0) if self._model is None
                    else self._model.evidence(seen[None])[0])
        # The network judged nothing about what a crop cut away, so it was not unsure there.
        judged = labels != IGNORE_INDEX
        if ignored is not None:
            robot = _thin(ignored)
            labels, judged = labels[~robot], judged & ~robot
        sure = np.bincount(confidence[judged] if judged.any() else [0], minlength=256)
        sure = sure / sure.sum()
        counts = np.bincount(labels.ravel(), minlength=256)
        known = counts[:self._num_classes]
        frame = _Figures(
            luma_mean=255 * figures['luma_mean'],
            luma_saturated_fraction=figures['luma_saturated_fraction'],
            blur=float(np.expm1(figures['blur'])),
            mean_confidence=float(sure @ np.arange(256)) / 255,
            entropy=float(sure @ self._entropy),
            unlabeled_fraction=1 - float(known.sum() / max(counts.sum(), 1)),
            histogram=known / max(known.sum(), 1), evidence=evidence)
        with self._lock:
            self._frozen = self._frozen + 1 if checksum == self._checksum else 0
            self._checksum = checksum
            self._frames.append(frame)
            if len(self._first) < 30:
                self._first.append(frame.histogram)
            self._change.add(evidence, seconds)

    def reset(self) -> None:
        """Forget everything, also what later pictures are compared with."""
        with self._lock:
            self._frames.clear()
            self._first.clear()
            self._checksum, self._frozen = None, 0
            self._change = self._detector()

    def report(self, limits: DomainLimits) -> Verdict:
        """
        Return the verdict; any thread may ask.

        ``class_hist_shift`` is the total variation distance (0..1) between the class frequencies
        in the window and in the first pictures; it is shown, not judged.
        """
        with self._lock:
            frames = list(self._frames)[-limits.window:]
            first, frozen, alarmed = list(self._first), self._frozen, self._change.changed
        if not frames:
            return Verdict()
        names = ('mean_confidence', 'entropy', 'unlabeled_fraction', 'luma_mean',
                 'luma_saturated_fraction', 'blur')
        values = {n: sum(getattr(f, n) for f in frames) / len(frames) for n in names}
        now = np.mean([f.histogram for f in frames], 0)
        values['class_hist_shift'] = float(np.abs(now - np.mean(first, 0)).sum() / 2)
        values['frozen_frames'] = frozen
        blind = _beyond(
            ('the picture is dark', values['luma_mean'], '<', limits.dark_luma),
            ('the picture is overexposed', values['luma_mean'], '>', limits.bright_luma),
            ('the picture is blurred', values['blur'], '<', limits.blur_laplacian))
        if frozen >= limits.window:
            blind.append(f'the camera repeats one picture ({frozen} times)')
        if self._model is None:
            causes = _beyond(
                ('the model is unsure: mean confidence', values['mean_confidence'], '<',
                 limits.min_mean_confidence),
                ('the model is unsure: entropy', values['entropy'], '>', limits.max_entropy))
            score, alarmed = float(bool(causes)), bool(causes)
        else:
            score, causes = self._weigh([f.evidence for f in frames[-WINDOW:]], alarmed)
        state: State = 'unusable' if blind else 'shifted' if alarmed else 'familiar'
        return Verdict(1.0 if blind else score, state, (*blind, *causes), values)

    def _detector(self) -> ChangeDetector:
        return ChangeDetector(len(self._model.channels) if self._model is not None else 0)

    def _weigh(self, evidence: list[np.ndarray], alarmed: bool) -> tuple[float, list[str]]:
        """Score (0..1) and, of an alarm, causes: the channels that speak for it, most first."""
        assert self._model is not None
        mean = np.clip(evidence, -_MOST, _MOST).mean(axis=0)
        score = 1 / (1 + np.exp(-float(odds(np.stack(evidence)).mean())))
        order = [i for i in np.argsort(-mean) if mean[i] > 0 or i == mean.argmax()]
        names = [self._model.channels[i] for i in order[:3]] if alarmed else []
        return float(score), [_WORDS.get(name, name) for name in names]


def _thin(pixels: np.ndarray) -> np.ndarray:
    """Return evenly spread pixels, contiguous."""
    height, width = pixels.shape[:2]
    step = max(_STEP, min(height // _ENOUGH[0], width // _ENOUGH[1]))
    return np.ascontiguousarray(pixels[::step, ::step])


def _beyond(*limits: tuple[str, float, str, float]) -> list[str]:
    return [f'{text} ({value:.3g} {sign} {limit:g})' for text, value, sign, limit in limits
            if (value < limit if sign == '<' else value > limit)]


def _entropy_table(num_classes: int) -> np.ndarray:
    """
    Estimate the normalised entropy (0..1) of a pixel from its confidence 0..255.

    The model file gives the largest probability p alone. What is left, 1 - p, is taken as spread
    evenly over the other classes, which is the most entropy that p allows.
    """
    p = np.clip(np.arange(256) / 255, 1 / num_classes, 1)
    rest = 1 - p
    with np.errstate(divide='ignore', invalid='ignore'):
        entropy = -p * np.log(p) - np.where(rest > 0, rest * np.log(rest), 0)
    entropy += rest * np.log(max(num_classes - 1, 1))
    return entropy / np.log(max(num_classes, 2))
