# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera of StreetWorld, and the ground it sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEAR = 0.7  # metres; what is nearer is cut off
SKY_DEPTH = 1000.0  # metres; the depth of the sky, larger than any other depth
FAR = 900.0  # metres; the largest depth of anything that is not sky

Ground = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # see Camera.ground


@dataclass(frozen=True, kw_only=True)
class Camera:
    """
    World axes: x right, y up, z along the street, metres. Camera axes: x right, y down, z forward.

    ``bend`` makes the street curve away: ``d`` metres ahead it is ``bend * d ** 2`` aside.
    """

    size: tuple[int, int]  # (height, width), pixels
    focal: float  # pixels
    x: float
    height: float
    z: float
    yaw: float  # radians, positive looks to the right
    pitch: float  # radians, positive looks down
    roll: float  # radians
    bend: float = 0.0  # 1 / metre

    @cached_property
    def rotation(self) -> np.ndarray:
        """Turn world directions into camera directions, (3, 3) float64."""
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        flip = np.diag([1.0, -1.0, 1.0])
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw @ flip

    @property
    def position(self) -> np.ndarray:
        """Where the camera is, (3,)."""
        return np.array([self.x, self.height, self.z])

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """K of the pinhole model, (3, 3)."""
        height, width = self.size
        return np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1]])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) -> camera points (..., 3); here the street is bent."""
        relative = points - self.position
        if self.bend:
            ahead = np.maximum(relative[..., 2], 0)
            relative[..., 0] += self.bend * ahead * ahead
        return relative @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera points (..., 3) in front of the camera -> pixels (..., 2)."""
        height, width = self.size
        pixels = points[..., :2] * (self.focal / points[..., 2:])
        pixels[..., 0] += width / 2
        pixels[..., 1] += height / 2
        return pixels

    @cached_property
    def horizon(self) -> tuple[int, int]:
        """First and one-past-last row between which the horizon lies."""
        height, width = self.size
        down = self.rotation[:, 1]  # camera coordinates of "up"; zero on the horizon
        rows = [height / 2 - (down[2] * self.focal + down[0] * (u - width / 2)) / down[1]
                for u in (0, width)]
        top, bottom = int(np.floor(min(rows))), int(np.ceil(max(rows))) + 1
        return int(np.clip(top, 0, height)), int(np.clip(bottom, 0, height))

    def ground(self) -> Ground:
        """
        Meet the plane y = 0 with the ray of each pixel below the horizon.

        :return: first row; world x, world z and camera depth, each (H - row, W) float32, metres.
        """
        height, width = self.size
        first = self.horizon[0]
        u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.focal
        v = (np.arange(first, height, dtype=np.float32) + 0.5 - height / 2) / self.focal
        rows = self.rotation
        rays = [(rows[0, i] * u)[None] + (rows[1, i] * v + rows[2, i])[:, None] for i in range(3)]
        rays = [ray.astype(np.float32) for ray in rays]
        depth = self.height / np.maximum(-rays[1], self.height / FAR)
        ahead = depth * rays[2]
        x = depth * rays[0] + self.x
        if self.bend:
            x -= self.bend * np.square(np.maximum(ahead, 0))
        return first, x, ahead + self.z, depth
