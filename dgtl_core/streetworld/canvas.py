# SPDX-License-Identifier: Apache-2.0
"""The canvas: one number per pixel says which face is seen there; and the depth of faces."""

from __future__ import annotations

import cv2
from dgtl_core.streetworld.camera import Camera, FAR, NEAR
import numpy as np

SUBPIXEL = 4  # bits


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products of (N, 3) rows; several times faster than np.cross."""
    ax, ay, az, bx, by, bz = a[:, 0], a[:, 1], a[:, 2], b[:, 0], b[:, 1], b[:, 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)


class Outlines:
    """Faces (N, 4, 3) in camera axes as polygons of the picture."""

    def __init__(self, points: np.ndarray, camera: Camera) -> None:
        height, width = camera.size
        depth = points[:, :, 2]
        self.points, self.camera = points, camera
        self.whole = depth.min(1) > NEAR  # no corner has to be cut off
        pixels = np.zeros((*points.shape[:2], 2))
        pixels[self.whole] = camera.project(points[self.whole])
        low, high = pixels.min(1), pixels.max(1)
        self.span = high - low
        inside = (high > 0).all(1) & (low[:, 0] < width) & (low[:, 1] < height)
        self.visible = (depth.max(1) > NEAR) & (inside | ~self.whole)
        self._fixed = np.round(pixels * (1 << SUBPIXEL)).astype(np.int32)

    def fill(self, canvas: np.ndarray, which: list[int], numbers: list[int]) -> None:
        """Draw the faces ``which`` in this order, each with its number."""
        for i, number in zip(which, numbers, strict=True):
            polygon = self._fixed[i] if self.whole[i] else clipped(self.points[i], self.camera)
            if polygon is not None:
                cv2.fillConvexPoly(canvas, polygon, number, 8, SUBPIXEL)


def clipped(points: np.ndarray, camera: Camera) -> np.ndarray | None:
    """Cut a polygon off at the near plane; fixed-point pixels, or None where nothing is left."""
    out = []
    for i in range(len(points)):
        p, q = points[i - 1], points[i]
        if (p[2] > NEAR) != (q[2] > NEAR):
            out.append(p + (q - p) * ((NEAR - p[2]) / (q[2] - p[2])))
        if q[2] > NEAR:
            out.append(q)
    if len(out) < 3:
        return None
    pixels = camera.project(np.array(out))
    return np.round(np.clip(pixels, -60000, 60000) * (1 << SUBPIXEL)).astype(np.int32)


def inverse_depth(points: np.ndarray, large: np.ndarray, camera: Camera) -> np.ndarray:
    """
    Write 1 / depth of faces (N, 4, 3) as a u + b v + c of the pixel (u, v): rows (a, b, c).

    Exact for the ``large`` ones (N,) bool; the others get one depth.
    """
    height, width = camera.size
    out = np.zeros((len(points), 3), np.float32)
    out[:, 2] = 1 / np.clip(points[:, :, 2].mean(1), NEAR / 2, FAR)
    p = points[large]
    normal = cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    offset = (normal * p[:, 0]).sum(1)
    good = np.abs(offset) > 1e-3 * np.linalg.norm(normal, axis=1) + 1e-12  # not seen edge on
    normal = normal[good] / offset[good][:, None]
    which = np.flatnonzero(large)[good]
    out[which, 0] = normal[:, 0] / camera.focal
    out[which, 1] = normal[:, 1] / camera.focal
    out[which, 2] = normal[:, 2] - (normal[:, 0] * width / 2
                                    + normal[:, 1] * height / 2) / camera.focal
    return out


def follow_bend(corners: np.ndarray, material: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut long pieces of ground (N, 4, 3) across, so that they can follow a bend."""
    length = np.abs(corners[:, 3, 2] - corners[:, 0, 2])
    pieces = np.maximum(1, np.ceil(length / 8).astype(int))
    index = np.repeat(np.arange(len(corners)), pieces)
    step = np.concatenate([np.arange(n) for n in pieces])
    a = (step / pieces[index])[:, None]
    b = ((step + 1) / pieces[index])[:, None]
    c = corners[index]
    left, right = c[:, 3] - c[:, 0], c[:, 2] - c[:, 1]
    parts = [c[:, 0] + left * a, c[:, 1] + right * a, c[:, 1] + right * b, c[:, 0] + left * b]
    return np.stack(parts, 1), material[index]
