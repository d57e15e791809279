# SPDX-License-Identifier: Apache-2.0
"""
Labels on 3-D points: back-projection of depth, projection of lidar, and what hides what.

Points are in metres in a camera's optical frame: x right, y down, z forward. A picture's point
(u, v) is the middle of the pixel in column u and row v. Nothing here knows ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

MODELS = ('', 'plumb_bob', 'rational_polynomial', 'equidistant')
UNSEEN = 255  # the label of a point that the camera does not see
_CELL = 4  # pixels; two points in one cell compete for it
_BEHIND = (0.02, 0.15)  # share of the distance and metres by which a hidden point lies behind
# Metres of each depth in millimetres; 0 is no depth.
_METRES = np.where(np.arange(1 << 16), np.arange(1 << 16) * 1e-3, np.nan).astype(np.float32)
_WIDEST = 1.5  # radians from the axis, where a search for a ray begins at most
_ROUNDS = 12  # of Newton's method at most; five are enough for most lenses
_EXACT = 1e-10  # of x / z; where all rays are that exact, the search ends
_MARGIN = 1.02  # a point may lie so much outside of the picture's own rays, as rounding does


@dataclass(frozen=True)
class PinholeCamera:
    """
    How a camera projects: intrinsics in pixels, and a distortion model of ROS's ``CameraInfo``.

    ``plumb_bob`` has the coefficients k1 k2 p1 p2 k3, ``rational_polynomial`` k4 k5 k6 beside
    them, ``equidistant`` k1 k2 k3 k4 of the angle. No coefficients, or all zero: no distortion.

    :raises ValueError: the model is unknown, or a number is impossible.
    """

    size: tuple[int, int]  # (height, width)
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = ''
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f'distortion model {self.model!r} is not supported: use one of '
                f'{list(filter(None, MODELS))}, or rectified pictures')
        if min(self.size) < 1 or not (self.fx > 0 and self.fy > 0):
            raise ValueError(
                f'a camera needs a size and positive focal lengths, got size {self.size}, fx '
                f'{self.fx:g}, fy {self.fy:g}; is the camera calibrated?')
        if not np.isfinite([self.fx, self.fy, self.cx, self.cy, *self.distortion]).all():
            raise ValueError('the camera has a number that is not finite; calibrate it again')
        most = {'equidistant': 4, 'rational_polynomial': 8}.get(self.model, 5)
        if any(self.distortion[most:]):
            raise ValueError(
                f'{self.model or "a camera without a model"} has at most {most} coefficients, '
                f'got {len(self.distortion)}')

    @property
    def matrix(self) -> np.ndarray:
        """The intrinsic matrix K. Shape: (3, 3) float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    def resized(self, size: tuple[int, int]) -> PinholeCamera:
        """Return the camera of the same picture at another (height, width)."""
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        return PinholeCamera(
            size, self.fx * across, self.fy * down, (self.cx + 0.5) * across - 0.5,
            (self.cy + 0.5) * down - 0.5, self.model, self.distortion)

    @cached_property
    def rays(self) -> np.ndarray:
        """
        x / z and y / z of every pixel's ray; nan beyond 90 degrees. Shape: (2, H, W) float32.
        """
        u = (np.arange(self.size[1]) - self.cx) / self.fx
        v = (np.arange(self.size[0]) - self.cy) / self.fy
        bent = np.stack(np.meshgrid(u, v))
        with np.errstate(over='ignore'):  # infinitely far from the axis is no ray either
            return (self._straight(bent) if any(self.distortion) else bent).astype(np.float32)

    def _straight(self, bent: np.ndarray) -> np.ndarray:
        """Undo the distortion by Newton's method. Shape: (2, H, W) float64 -> the same."""
        found = bent.copy()
        if self.model == 'equidistant':  # near the solution: the angle, before the polynomial
            angle = np.hypot(*bent)
            found *= np.tan(np.minimum(angle, _WIDEST)) / np.maximum(angle, 1e-12)
        with np.errstate(divide='ignore', invalid='ignore', over='ignore'):  # of what is lost
            for _ in range(_ROUNDS):
                x, y = found
                wrong = np.stack(self._distorted(x, y)) - bent
                if not (np.abs(wrong) > _EXACT).any():
                    break
                step = 1e-6 * (1 + np.abs(found))
                by_x = (np.stack(self._distorted(x + step[0], y)) - wrong - bent) / step[0]
                by_y = (np.stack(self._distorted(x, y + step[1])) - wrong - bent) / step[1]
                scale = by_x[0] * by_y[1] - by_x[1] * by_y[0]
                found[0] -= (by_y[1] * wrong[0] - by_y[0] * wrong[1]) / scale
                found[1] -= (by_x[0] * wrong[1] - by_x[1] * wrong[0]) / scale
            lost = ~(np.abs(np.stack(self._distorted(*found)) - bent) < 1e-6).all(0)
        found[:, lost] = np.nan
        return found

    @cached_property
    def _reach(self) -> float:
        """The farthest of the picture's rays: beyond it a polynomial may fold back."""
        x, y = self.rays
        edge = np.concatenate([(x ** 2 + y ** 2)[rows] for rows in (0, -1)] +
                              [(x ** 2 + y ** 2)[:, column] for column in (0, -1)])
        edge = edge[np.isfinite(edge)]
        if not edge.size:
            raise ValueError(
                f'the camera has no rays at the edge of its pictures with fx {self.fx:g}, fy '
                f'{self.fy:g} and these coefficients; calibrate it again')
        return float(np.sqrt(edge.max())) * _MARGIN

    def project(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[
            np.ndarray, np.ndarray, np.ndarray]:
        """
        Return column and row of points, rounded to pixels, and which of them are in the picture.

        Shape: (N,) float32 each -> (N,) int32, int32, bool; the numbers of a point outside of the
        picture mean nothing. The formulas are those of OpenCV's calib3d, as ``CameraInfo`` asks.
        """
        front = z > 1e-3
        depth = np.where(front, z, np.float32(1))
        x, y = x / depth, y / depth
        inside = front & (np.abs(x) < self._reach) & (np.abs(y) < self._reach)
        x, y = np.where(inside, x, np.float32(0)), np.where(inside, y, np.float32(0))
        if any(self.distortion):
            inside &= x * x + y * y < self._reach ** 2
            x, y = self._distorted(x, y)
        u = np.rint(x * np.float32(self.fx) + np.float32(self.cx)).astype(np.int32)
        v = np.rint(y * np.float32(self.fy) + np.float32(self.cy)).astype(np.int32)
        inside &= (u >= 0) & (u < self.size[1]) & (v >= 0) & (v < self.size[0])
        return u, v, inside

    def _distorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r2 = x * x + y * y
        if self.model == 'equidistant':
            k1, k2, k3, k4 = _padded(self.distortion, 4)
            r = np.sqrt(r2)
            angle = np.arctan(r)
            a2 = angle * angle
            bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
            factor = np.where(r > 1e-6, bent / np.maximum(r, 1e-6), 1).astype(x.dtype)
            return x * factor, y * factor
        k1, k2, p1, p2, k3, k4, k5, k6 = _padded(self.distortion, 8)
        factor = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        xy = x * y
        return (x * factor + 2 * p1 * xy + p2 * (r2 + 2 * x * x),
                y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * xy)


def _padded(numbers: Sequence[float], count: int) -> Sequence[float]:
    return (*numbers, *[0.0] * count)[:count]


def from_depth(depth: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """
    Return the point of each pixel; where there is no depth, it is nan.

    Shape: (H, W) float32 metres along z, or uint16 millimetres -> (3, H, W) float32.

    :raises ValueError: the depth has another size than the camera's pictures, or another type.
    """
    if depth.shape != camera.size:
        raise ValueError(
            f'the depth image is {depth.shape[1]}x{depth.shape[0]}, the CameraInfo says '
            f'{camera.size[1]}x{camera.size[0]}: take the depth that is aligned to the camera '
            'whose pictures are labelled')
    if depth.dtype == np.uint16:
        z = _METRES[depth]
    elif depth.dtype == np.float32:
        z = np.where((depth > 0) & (depth < np.inf), depth, np.float32(np.nan))
    else:
        raise ValueError(
            f'depth must be float32 metres (32FC1) or uint16 millimetres (16UC1), got '
            f'{depth.dtype}')
    points = np.empty((3, *z.shape), np.float32)
    np.multiply(camera.rays, z, out=points[:2])
    points[2] = z
    return points


def moved(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Apply a rigid transform. Shape: (3, N) float32, (4, 4) -> (3, N) float32."""
    matrix = transform.astype(np.float32)
    with np.errstate(over='ignore', invalid='ignore'):  # of points that are nan or far away
        result: np.ndarray = matrix[:3, :3] @ points
    result += matrix[:3, 3:]
    return result


def transform_of(numbers: Sequence[float]) -> np.ndarray:
    """
    Build the (4, 4) transform of x y z roll pitch yaw, or x y z qx qy qz qw; metres, radians.

    :raises ValueError: it is neither, or a number is impossible.
    """
    if len(numbers) not in (6, 7) or not np.isfinite(numbers).all():
        raise ValueError(
            f'a transform is x y z roll pitch yaw, or x y z qx qy qz qw, all finite; got '
            f'{list(numbers)}')
    result = np.eye(4)
    result[:3, 3] = numbers[:3]
    if len(numbers) == 6:
        roll, pitch, yaw = numbers[3:]
        (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
        result[:3, :3] = [[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                          [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                          [-sp, cp * sr, cp * cr]]
        return result
    length = float(np.linalg.norm(numbers[3:]))
    if length < 1e-6:
        raise ValueError(f'the quaternion of a transform must not be zero, got {list(numbers)}')
    x, y, z, w = np.asarray(numbers[3:]) / length
    result[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                      [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                      [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]
    return result


def seen_pixels(points: np.ndarray, camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """
    Find the pixel of each point that the camera sees, and not one behind another.

    A point is hidden where nearer ones surround it: above it, and below it or on both sides,
    within two cells of 4x4 pixels and by more than 2 % and 15 cm. The ground and a wall that run
    away from the camera have nearer points below or on one side alone, and hide nothing. The check
    needs a few points in each cell: of a single far beam behind a fence it knows nothing.

    Shape: (3, N) float32 in the camera's frame -> indices (M,) of the points that are seen, and
    their places (M,) in the flattened picture.
    """
    x, y, z = points
    ahead = np.flatnonzero(z > 1e-3)  # nan is not
    u, v, inside = camera.project(x[ahead], y[ahead], z[ahead])
    inside = np.flatnonzero(inside)
    index, u, v = ahead[inside], u[inside], v[inside]
    depth = z[index]
    columns = camera.size[1] // _CELL + 1
    cell = v // _CELL * columns + u // _CELL
    nearest = np.full((camera.size[0] // _CELL + 1, columns), np.inf, np.float32)
    farthest_first = np.argsort(depth)[::-1]
    nearest.reshape(-1)[cell[farthest_first]] = depth[farthest_first]  # the last one stays
    share, least = _BEHIND
    limit = (depth - np.float32(least)) / np.float32(1 + share)
    above, below, left, right = (_nearest(nearest, way).reshape(-1)[cell] < limit
                                 for way in ('above', 'below', 'left', 'right'))
    seen = ~(above & (below | left & right))
    return index[seen], v[seen] * camera.size[1] + u[seen]


def _nearest(cells: np.ndarray, way: str) -> np.ndarray:
    """Return for each cell the least value of the two cells beside it on one side."""
    kernel = np.ones((2, 1) if way in ('above', 'below') else (1, 2), np.uint8)
    x, y = {'above': (0, 2), 'below': (0, -1), 'left': (2, 0), 'right': (-1, 0)}[way]
    padded = cv2.copyMakeBorder(cells, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=float('inf'))
    height, width = cells.shape
    least = cv2.erode(padded, kernel, anchor=(0, 0))  # of a cell and the next one
    return np.ascontiguousarray(least[2 - y:2 - y + height, 2 - x:2 - x + width])


def label_points(points: np.ndarray, camera: PinholeCamera, labels: np.ndarray,
                 confidence: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Give each point of an unordered cloud the label of its pixel.

    Shape: points (3, N) float32 in the camera's frame, labels and confidence (H, W) uint8 ->
    labels (N,) uint8, UNSEEN where the camera does not see the point, and confidence (N,) uint8,
    0 there, 255 elsewhere if none is given.
    """
    index, place = seen_pixels(points, camera)
    found = np.full(points.shape[1], UNSEEN, np.uint8)
    sure = np.zeros(points.shape[1], np.uint8)
    found[index] = labels.reshape(-1)[place]
    sure[index] = 255 if confidence is None else confidence.reshape(-1)[place]
    return found, sure
