# SPDX-License-Identifier: Apache-2.0
"""
What a verdict on the domain is fitted on, as it lies in a model file.

A channel is one way in which pictures leave the domain: towards fog, night, blur and so on, as
corrupted copies of normal pictures showed it, towards less confidence (``unsure``), or anywhere
(``unfamiliar``). It gives the logarithm of how much better the shift explains a signature than the
normal drives do.
Shape legend: N pictures, D length of a signature, C channels, R directions of normal variation.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from dgtl_core.model_file import ModelError
import numpy as np

FORMAT = 1
UNSURE = 'unsure'          # the last channel but one
UNFAMILIAR = 'unfamiliar'  # the last channel
CALIBRATE = 'run "dgtl calibrate" on this model file'


class DomainError(ModelError):
    """Statistics that cannot be fitted or read; the message says what was got and what to do."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """What was seen of one drive."""

    name: str
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Axes:
    """
    Where the channels look.

    A signature s stands at ``(s - mean) / scale``. Channel c projects that on ``directions[c]``;
    the last one takes its distance from the normal drives, which vary along ``basis`` with the
    variances ``variances`` and by ``rest`` everywhere else.
    """

    mean: np.ndarray        # (D,)
    scale: np.ndarray       # (D,)
    directions: np.ndarray  # (C - 1, D)
    basis: np.ndarray       # (R, D), orthonormal rows
    variances: np.ndarray   # (R,)
    rest: float

    def positions(self, signatures: np.ndarray) -> np.ndarray:
        """Return where pictures stand on the axes of the channels, (N, D) -> (N, C)."""
        if signatures.shape[1:] != self.mean.shape:
            raise DomainError(
                f'signatures have {signatures.shape[1:]} numbers, the domain was fitted on '
                f'{self.mean.shape}: {CALIBRATE}')
        x = (signatures - self.mean) / self.scale
        inside = x @ self.basis.T
        outside = np.maximum((x ** 2).sum(1) - (inside ** 2).sum(1), 0)
        distance = np.sqrt(((inside ** 2 / self.variances).sum(1) + outside / self.rest)
                           / x.shape[1])
        return np.concatenate((x @ self.directions.T, distance[:, None]), axis=1)


@dataclass(frozen=True, kw_only=True)
class DomainModel:
    """
    Statistics of the normal drives and of what shifts do to them.

    On the axis of a channel normal pictures lie at ``normal`` and shifted ones at ``shifted``,
    with the deviation ``spread``.
    """

    drives: tuple[Drive, ...]
    channels: tuple[str, ...]
    axes: Axes
    normal: np.ndarray      # (C,)
    shifted: np.ndarray     # (C,)
    spread: np.ndarray      # (C,)
    false_alarms: float     # share of windows, of drives that were left out
    alarmed: int            # how many of what was left out had one
    cross_validated: str    # by 'drive', or by 'segment' of the only one

    def evidence(self, signatures: np.ndarray) -> np.ndarray:
        """
        Return the logarithm of the odds that a picture is shifted, per channel, (N, D) -> (N, C).

        A signature that is not finite, of a network that overflowed, is as unlike the normal
        drives as can be: infinite.

        :raises DomainError: the signatures are of another model file.
        """
        broken = ~np.isfinite(signatures).all(axis=1)
        if broken.any():
            signatures = np.where(broken[:, None], 0, signatures)
        evidence = self.weigh(self.axes.positions(signatures))
        evidence[broken] = np.inf
        return evidence

    def weigh(self, positions: np.ndarray) -> np.ndarray:
        """
        Return the evidence of positions, (N, C) -> (N, C).

        Of two normal distributions of equal deviation: (b - a) (z - (a + b) / 2) / spread^2.
        """
        middle = (self.normal + self.shifted) / 2
        return (positions - middle) * (self.shifted - self.normal) / self.spread ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored under ``domain`` in the metadata of a model file."""
        return {
            'format': FORMAT, 'drives': [[d.name, d.pictures] for d in self.drives],
            'channels': list(self.channels), 'rest': self.axes.rest,
            'false_alarms': self.false_alarms, 'alarmed': self.alarmed,
            'cross_validated': self.cross_validated,
            **{name: _packed(getattr(self.axes, name)) for name in _AXES},
            **{name: _packed(getattr(self, name)) for name in _ENDS}}

    @classmethod
    def from_dict(cls, data: Any) -> DomainModel:
        """
        Read what :meth:`to_dict` gave.

        :raises DomainError: it is broken, or of another format.
        """
        try:
            if data['format'] != FORMAT:
                raise DomainError(
                    f'the domain has format {data["format"]!r}, this version reads {FORMAT}: '
                    f'{CALIBRATE}')
            axes = Axes(
                rest=float(data['rest']), **{name: _unpacked(data[name]) for name in _AXES})
            model = cls(
                drives=tuple(Drive(name=str(n), pictures=int(p)) for n, p in data['drives']),
                channels=tuple(map(str, data['channels'])), axes=axes,
                false_alarms=float(data['false_alarms']),
                alarmed=int(data.get('alarmed', data['false_alarms'] > 0)),
                cross_validated=str(data['cross_validated']),
                **{name: _unpacked(data[name]) for name in _ENDS})
            if model.evidence(np.zeros((1, len(axes.mean)))).shape[1] != len(model.channels):
                raise ValueError(f'{len(model.channels)} channels, and arrays for others')
            return model
        except DomainError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DomainError(
                f'the "domain" of the model file is broken ({type(error).__name__}: {error}): '
                f'{CALIBRATE}') from None


_AXES = ('mean', 'scale', 'directions', 'basis', 'variances')
_ENDS = ('normal', 'shifted', 'spread')


def _packed(array: np.ndarray) -> dict[str, Any]:
    """Base64 of little-endian numbers: float16 for matrices, float32 for the rest."""
    kind = '<f2' if array.ndim == 2 else '<f4'
    return {'shape': list(array.shape), 'type': kind,
            'data': base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()}


def _unpacked(data: dict[str, Any]) -> np.ndarray:
    if data['type'] not in ('<f2', '<f4'):
        raise ValueError(f'numbers of type {data["type"]!r}')
    raw = np.frombuffer(base64.b64decode(data['data'], validate=True), data['type'])
    array = raw.reshape(data['shape']).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError('numbers that are not finite')
    return array
