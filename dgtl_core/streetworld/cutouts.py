# SPDX-License-Identifier: Apache-2.0
"""Flat things with a texture: panels (house fronts, walls, fences) and plants."""

from __future__ import annotations

from collections.abc import Callable
import math

import cv2
from dgtl_core.streetworld.camera import Camera, FAR, NEAR
from dgtl_core.streetworld.canvas import clipped, cross, inverse_depth, SUBPIXEL
from dgtl_core.streetworld.scene import Foliage, Light, Panel
from dgtl_core.streetworld.shading import lit
import numpy as np

_RAMP = np.linspace(0, 1, 256)[:, None]
_SIGHT = 260.0  # metres; plants farther away are left out
_BARK = ((30, 28, 26), (205, 196, 182))  # darkest and brightest twig of a bare tree

Paint = Callable[[np.ndarray], None]


class Panels:
    """All panels of a scene; ``place`` puts one on the canvas and returns what paints it."""

    def __init__(self, panels: list[Panel], camera: Camera, light: Light) -> None:
        self.panels, self.camera = panels, camera
        rows = np.array([(p.corner, p.right, p.up, p.tint) for p in panels], np.float64)
        corner, right, up, tint = (rows.reshape(-1, 4, 3)[:, i] for i in range(4))
        normal = cross(right, up)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        away = (normal * (corner - camera.position)).sum(1) > 0
        above = normal[:, 1] * np.where(away, -1, 1) > 0
        normal[away] *= -1
        distance = np.linalg.norm(corner + right / 2 + up / 2 - camera.position, axis=1)
        quads = np.stack([corner, corner + right, corner + right + up, corner + up], 1)
        self.quads = camera.to_camera(quads)
        self.base = lit(light, np.zeros_like(tint), normal, distance)
        self.gain = lit(light, tint, normal, distance) - self.base
        self.seen = above | ~np.array([p.one_sided for p in panels], bool)
        self.up = np.abs(normal[:, 1])
        self.plane = inverse_depth(self.quads, np.ones(len(panels), bool), camera)

    def place(self, i: int, number: int, faces: np.ndarray, windows: np.ndarray) -> Paint | None:
        """Draw panel ``i`` as ``number``; None where it is not in the picture."""
        if not self.seen[i]:
            return None
        camera, panel, quad = self.camera, self.panels[i], self.quads[i]
        polygon = clipped(quad, camera)
        if polygon is None:
            return None
        height, width = camera.size
        box = cv2.boundingRect(polygon >> SUBPIXEL)
        x0, y0 = max(0, box[0] - 1), max(0, box[1] - 1)
        x1, y1 = min(width, box[0] + box[2] + 2), min(height, box[1] + box[3] + 2)
        if x0 >= x1 or y0 >= y1:
            return None
        cv2.fillConvexPoly(faces, polygon, number, 8, SUBPIXEL)
        span = (box[2] * box[3]) ** 0.5
        color = np.column_stack([np.diag(self.gain[i]), self.base[i]])

        def paint(image: np.ndarray) -> None:
            tex = panel.texture
            h, w = tex.levels[0].shape[:2]
            level = 0
            size = (h * panel.repeat[1] * w * panel.repeat[0]) ** 0.5
            while level + 1 < len(tex.levels) and size / 2 ** level > span * 1.5:
                level += 1
            h, w = tex.levels[level].shape[:2]
            axes = np.column_stack([quad[1] - quad[0], quad[3] - quad[0], quad[0]])
            # texture pixel -> share of the panel -> pixel of the picture
            share = np.array([[1 / (w * panel.repeat[0]), 0, 0],
                              [0, -1 / (h * panel.repeat[1]), 1], [0, 0, 1]])
            move = np.array([[1.0, 0, -x0], [0, 1, -y0], [0, 0, 1]])
            try:
                inverse = np.linalg.inv(move @ (camera.intrinsics @ axes) @ share)
            except np.linalg.LinAlgError:  # seen exactly from the side
                return
            seen = (faces[y0:y1, x0:x1] == number).view(np.uint8)
            extent = (x1 - x0, y1 - y0)
            piece = cv2.warpPerspective(tex.levels[level], inverse, extent,
                                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                        borderMode=cv2.BORDER_WRAP)
            cv2.copyTo(cv2.transform(piece, color), seen, image[y0:y1, x0:x1])
            if windows.size and tex.windows:
                numbers = cv2.warpPerspective(tex.windows[min(level, len(tex.windows) - 1)],
                                              inverse, extent,
                                              flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                                              borderMode=cv2.BORDER_WRAP)
                cv2.copyTo(numbers, seen, windows[y0:y1, x0:x1])

        return paint


class Plants:
    """All plants of a scene; ``place`` puts one on the canvas and returns what paints it."""

    def __init__(self, plants: list[Foliage], camera: Camera, light: Light) -> None:
        self.plants, self.camera = plants, camera
        foot = np.array([(p.x, p.y, p.z) for p in plants], np.float64).reshape(-1, 3)
        rise = np.array([(0, p.height, 0) for p in plants], np.float64).reshape(-1, 3)
        self.ends = camera.to_camera(np.stack([foot, foot + rise], 1))
        self.depth = self.ends[:, :, 2].mean(1)
        normal = np.array([(-0.2 * math.copysign(1, p.x), 0.5, -0.6) for p in plants])
        normal = normal.reshape(-1, 3)
        tones = [(p.dark, p.bright) if p.plant.kind == 'leafy' else _BARK for p in plants]
        pairs = np.array(tones, np.float64).reshape(-1, 2, 3)
        self.dark = lit(light, pairs[:, 0], normal, self.depth)
        self.bright = lit(light, pairs[:, 1], normal, self.depth)

    def plane(self, i: int) -> tuple[float, float, float]:
        """1 / depth of plant ``i`` as a linear function of the pixel: it is upright and flat."""
        return 0.0, 0.0, 1 / min(float(self.depth[i]), FAR)

    def place(self, i: int, number: int, faces: np.ndarray, sky: np.ndarray) -> Paint | None:
        """Draw plant ``i`` as ``number``; None where it is not in the picture."""
        plant, ends = self.plants[i], self.ends[i]
        if ends[:, 2].min() < NEAR * 1.5 or ends[0, 2] > _SIGHT:
            return None
        height, width = self.camera.size
        (u0, v0), (u1, v1) = self.camera.project(ends)
        tall = math.hypot(u1 - u0, v1 - v0)
        wide = tall * plant.width / plant.height
        if tall < 2 or wide < 2:
            return None
        x0 = max(0, math.floor(min(u0, u1) - wide / 2))
        x1 = min(width, math.ceil(max(u0, u1) + wide / 2))
        y0, y1 = max(0, math.floor(min(v0, v1))), min(height, math.ceil(max(v0, v1)) + 1)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return None
        levels = plant.plant.levels
        level = 0
        while level + 1 < len(levels) and levels[level].shape[0] > tall * 1.5:
            level += 1
        h, w = levels[level].shape[:2]
        # pixel of the picture -> pixel of the plant
        ax, ay = (u0 - u1) / tall, (v0 - v1) / tall  # down the trunk
        m = np.array([[ay * w / wide, -ax * w / wide, 0], [ax * h / tall, ay * h / tall, 0]])
        m[0, 2] = w / 2 - (m[0, 0] * (u1 - x0) + m[0, 1] * (v1 - y0))
        m[1, 2] = -(m[1, 0] * (u1 - x0) + m[1, 1] * (v1 - y0))
        piece = cv2.warpAffine(levels[level], m, (x1 - x0, y1 - y0),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        part = faces[y0:y1, x0:x1]
        bare = plant.plant.kind == 'bare'
        sky_behind = (part == 0).view(np.uint8) if bare else None
        np.copyto(part, number, where=piece[:, :, 1] > 127)
        dark, bright = self.dark[i], self.bright[i]
        table = np.clip(dark + (bright - dark) * _RAMP, 0, 255).astype(np.uint8)

        def paint(image: np.ndarray) -> None:
            seen = faces[y0:y1, x0:x1] == number
            shade = cv2.extractChannel(piece, 0)
            color = cv2.LUT(cv2.merge([shade] * 3), table[None])
            rows = min(len(sky), y1) - y0
            if sky_behind is not None and rows > 0:  # fine twigs let the sky through
                through = cv2.extractChannel(piece[:rows], 2) * sky_behind[:rows]
                alpha = cv2.merge([through] * 3)
                color[:rows] = cv2.add(
                    cv2.multiply(sky[y0:y0 + rows, x0:x1], alpha, scale=1 / 255),
                    cv2.multiply(color[:rows], 255 - alpha, scale=1 / 255))
            cv2.copyTo(color, seen.view(np.uint8), image[y0:y1, x0:x1])

        return paint
