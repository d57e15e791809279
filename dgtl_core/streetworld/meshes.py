# SPDX-License-Identifier: Apache-2.0
"""Solid bodies made of four-sided faces: vehicles, people, street furniture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

Point = tuple[float, float, float]
Color = tuple[float, ...]  # RGB, 0..255


@dataclass(frozen=True)
class Mesh:
    """
    Faces in drawing order; where bodies can hide each other they form groups, drawn far to near.

    Shapes: vertices (V, 3) metres, x right, y up, z towards the front of the thing; faces (F, 4)
    vertex numbers; slots (F,) which of the instance's colours; labels (F,) train ids; flat (F,)
    True for faces that are seen from both sides; glow (F,) 0 none, 1 white lamp, 2 red lamp,
    3 window, 4 signal; groups (F,); centres (G, 3) of the groups.
    """

    vertices: np.ndarray
    faces: np.ndarray
    slots: np.ndarray
    labels: np.ndarray
    flat: np.ndarray
    glow: np.ndarray
    groups: np.ndarray
    centres: np.ndarray


class MeshBuilder:
    """Collects faces; ``label`` and ``group`` apply to what is added next."""

    def __init__(self, label: int) -> None:
        self.label, self.group = label, 0
        self._vertices: list[Point] = []
        self._faces: list[tuple[int, int, int, int]] = []
        self._rows: list[tuple[int, int, bool, int, int]] = []

    def quad(self, points: Sequence[Point], slot: int, away: Point | None = None,
             glow: int = 0) -> None:
        """Add a face that looks away from ``away``; without it, it is seen from both sides."""
        if away is not None:
            (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[0], points[1], points[2]
            ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
            out = ((uy * vz - uz * vy) * (ax - away[0]) + (uz * vx - ux * vz) * (ay - away[1])
                   + (ux * vy - uy * vx) * (az - away[2]))
            if out < 0:
                points = list(points)[::-1]
        first = len(self._vertices)
        self._vertices.extend(points)
        self._faces.append((first, first + 1, first + 2, first + 3))
        self._rows.append((slot, self.label, away is None, glow, self.group))

    def hexa(self, bottom: tuple[float, float, float, float],
             top: tuple[float, float, float, float], y: tuple[float, float], slots: Sequence[int],
             glow: int = 0, tilt: float = 0.0) -> None:
        """
        Add a body with a rectangle below and one above, each (x0, x1, z0, z1).

        ``slots``: front, back, left, right, top (-1 leaves a face out); one number means all.
        ``tilt`` raises the front of the lid.
        """
        f, b, le, r, t = slots if len(slots) == 5 else [slots[0]] * 5
        lower = [(bottom[i], y[0], bottom[j]) for i, j in ((0, 2), (1, 2), (1, 3), (0, 3))]
        upper = [(top[i], y[1] + (tilt if j == 3 else 0), top[j]) for i,
                 j in ((0, 2), (1, 2), (1, 3), (0, 3))]
        corners = lower + upper
        x, y_, z = (sum(p[i] for p in corners) / 8 for i in range(3))
        middle = (x, y_, z)
        for slot, (i, j) in ((b, (0, 1)), (r, (1, 2)), (f, (2, 3)), (le, (3, 0))):
            if slot >= 0:
                self.quad([lower[i], lower[j], upper[j], upper[i]], slot, middle, glow)
        if t >= 0:
            self.quad(upper, t, middle, glow)

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float],
            slots: Sequence[int], glow: int = 0) -> None:
        """Add an upright box."""
        self.hexa((*x, *z), (*x, *z), y, slots, glow)

    def disc(self, centre: Point, radius: float, axis: str, slot: int, away: Point | None = None,
             corners: int = 12, glow: int = 0, stretch: float = 1.0) -> None:
        """Add a regular polygon that is normal to ``axis`` ('x' or 'z'); corners must be even."""
        ring = []
        for i in range(corners):
            a = math.tau * i / corners
            u, v = radius * math.cos(a), radius * math.sin(a) * stretch
            ring.append((centre[0], centre[1] + v, centre[2] + u) if axis == 'x'
                        else (centre[0] + u, centre[1] + v, centre[2]))
        half = corners // 2
        for i in range(half - 1):
            self.quad([ring[i], ring[i + 1], ring[corners - 2 - i], ring[corners - 1 - i]], slot,
                      away, glow)

    def build(self) -> Mesh:
        """Freeze the faces into arrays."""
        rows = np.array(self._rows)
        vertices = np.array(self._vertices, np.float64)
        faces = np.array(self._faces)
        middles = vertices[faces].mean(1)
        groups = rows[:, 4]
        centres = np.array([middles[groups == g].mean(0) for g in range(groups.max() + 1)])
        return Mesh(vertices, faces, rows[:, 0], rows[:, 1], rows[:, 2].astype(bool), rows[:, 3],
                    groups, centres)
