# SPDX-License-Identifier: Apache-2.0
"""
From things in metres to pixels: one number per pixel says which face is seen there.

Colour, label and depth are looked up by that number, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np

from dgtl_core.data.streetworld import textures
from dgtl_core.data.streetworld.camera import Camera, FAR, NEAR, SKY_DEPTH
from dgtl_core.data.streetworld.scene import (
    Chunk, Foliage, KERB, Light, NUM_MATERIALS, Panel, Patch, PAVEMENT, SKY, Thing, WALK)

SUBPIXEL = 4  # bits
_RAMP = np.linspace(0, 1, 256)[:, None]
_SMALL = 24.0  # pixels; a face below this size has one depth


@dataclass
class Picture:
    """
    A rendered scene before weather and before the camera's own faults.

    Shapes: image (H, W, 3) uint8 RGB, labels (H, W) uint8, depth (H, W) float32 metres, faces (H, W)
    int32: 0 sky, below NUM_MATERIALS a ground material, else a face; glow (N,) uint8 what each face
    emits; windows (H, W) uint8, 0 or a number per window; up (N,) float32 how far each face looks up.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    faces: np.ndarray
    glow: np.ndarray
    up: np.ndarray
    windows: np.ndarray
    ground: tuple[int, np.ndarray, np.ndarray, np.ndarray]
    camera: Camera


@dataclass
class _Batch:
    """All faces of all meshes, in camera axes."""

    points: np.ndarray  # (F, 4, 3)
    colors: np.ndarray  # (F, 3)
    labels: np.ndarray
    glow: np.ndarray
    visible: np.ndarray
    normal: np.ndarray  # (F, 3), world
    start: list[int]  # first face of each thing


class Renderer:
    """Draws one scene; use once."""

    def __init__(self, camera: Camera, light: Light, chunks: list[Chunk], things: list[Thing],
                 windows: bool = False) -> None:
        self.camera, self.light = camera, light
        self.height, self.width = camera.size
        self.chunks = chunks
        self.things = [t for c in chunks for t in c.things] + things
        self.panels = [p for c in chunks for p in c.panels]
        self.plants = [p for c in chunks for p in c.plants]
        self.faces = np.zeros(camera.size, np.int32)
        self.sun = np.array(light.sun)
        self.want_windows = windows
        self.windows = np.zeros(camera.size if windows else (0, 0), np.uint8)

    def draw(self) -> Picture:
        """Render the scene."""
        ground = self.camera.ground()
        self._sky()
        self._ground_faces()
        batch = self._batch()
        total = NUM_MATERIALS + len(batch.points) + len(self.panels) + len(self.plants)
        self.colors = np.zeros((total, 4), np.uint8)
        self.plane = np.zeros((total, 3), np.float32)
        self.up = np.zeros(total, np.float32)
        glow = np.zeros(total, np.uint8)
        level = self.light.ambient + self.light.sun_strength * self.light.sun[1]
        for i, material in enumerate(self.light.materials):
            self.colors[i] = (*(min(255, c * level) for c in material.color), material.label)
        self.colors[0, 3] = SKY
        self.up[1:NUM_MATERIALS] = 1
        first = NUM_MATERIALS
        last = first + len(batch.points)
        self.colors[first:last, :3] = np.clip(batch.colors, 0, 255)
        self.colors[first:last, 3] = batch.labels
        self.up[first:last] = np.abs(batch.normal[:, 1])
        glow[first:last] = batch.glow
        self._draw_items(batch, last)

        packed = self.colors.view(np.uint32)[:, 0].take(self.faces)
        rgbl = packed.view(np.uint8).reshape(self.height, self.width, 4)
        image = cv2.cvtColor(rgbl, cv2.COLOR_RGBA2RGB)
        labels = cv2.extractChannel(rgbl, 3)
        depth = self._depth(ground)
        self.seen = np.bincount(self.faces.ravel(), minlength=total) > 0
        self._paint_ground(image, ground)
        self._paint_sky(image)
        for paint in self.paints:
            paint(image)
        return Picture(image, labels, depth, self.faces, glow, self.up, self.windows, ground, self.camera)

    # -- sky and ground ---------------------------------------------------------------------------

    def _sky(self) -> None:
        rows = max(1, self.camera.horizon[1])
        light = self.light
        tile = textures.clouds()
        dx, dy = light.cloud_shift
        # rows are compressed towards the horizon, as on a flat ceiling
        down = (rows - np.arange(rows, dtype=np.float32)) / self.camera.focal
        v = (light.cloud_size * 60 / (down + 0.12) + dy)[:, None]
        u = (np.arange(self.width, dtype=np.float32) - self.width / 2)[None] / self.camera.focal
        u = u * light.cloud_size * 160 / (down[:, None] + 0.3) + dx
        field = _sample(tile, u, np.broadcast_to(v, u.shape), (1, 1))
        alpha = np.clip((field + (light.cover * 4 - 2)) * 0.7, 0, 1)
        t = np.clip(down / 0.55, 0, 1)[:, None] ** 0.7
        relief = 1 + 0.05 * np.clip(field, -2, 2) * (0.3 + light.cover)
        planes = []
        for c in range(3):
            clear = light.horizon[c] + (light.zenith[c] - light.horizon[c]) * t
            planes.append(np.clip(clear + alpha * (light.cloud[c] * relief - clear), 0, 255))
        self.sky = cv2.merge(planes).astype(np.uint8)

    def _paint_sky(self, image: np.ndarray) -> None:
        rows = len(self.sky)
        mask = (self.faces[:rows] == 0).view(np.uint8)
        cv2.copyTo(self.sky, mask, image[:rows])
        below = self.faces[rows:] == 0
        if below.any():
            image[rows:][below] = self.light.horizon

    def _ground_faces(self) -> None:
        faces = self.faces
        faces[min(self.height, self.camera.horizon[1]):] = self.light_ground()
        patches: list[Patch] = [p for c in self.chunks for p in c.patches]
        patches += [p for c in self.chunks for p in c.top_patches]
        corners = np.array([p.corners for p in patches], np.float64)
        material = np.array([p.material for p in patches])
        ahead = corners[:, :, 2].max(1) > self.camera.z + NEAR
        corners, material = corners[ahead], material[ahead]
        if self.camera.bend:
            corners, material = _split(corners, material)
        points = self.camera.to_camera(corners)
        self._fill(points, material)

    def light_ground(self) -> int:
        """The material where no patch lies."""
        return 7  # GRASS

    def _fill(self, points: np.ndarray, numbers: np.ndarray) -> None:
        """Draw faces (N, 4, 3) in camera axes, in order."""
        depth = points[:, :, 2]
        safe = depth.min(1) > NEAR
        visible = depth.max(1) > NEAR
        pixels = np.zeros((*points.shape[:2], 2))
        pixels[safe] = self.camera.project(points[safe])
        scaled = np.round(pixels * (1 << SUBPIXEL)).astype(np.int32)
        low, high = pixels.min(1), pixels.max(1)
        inside = (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 0] < self.width) & (low[:, 1] < self.height)
        draw = visible & (inside | ~safe)
        faces = self.faces
        for i in np.flatnonzero(draw):
            if safe[i]:
                cv2.fillConvexPoly(faces, scaled[i], int(numbers[i]), 8, SUBPIXEL)
            else:
                polygon = self._clipped(points[i])
                if polygon is not None:
                    cv2.fillConvexPoly(faces, polygon, int(numbers[i]), 8, SUBPIXEL)

    def _clipped(self, points: np.ndarray) -> np.ndarray | None:
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
        pixels = self.camera.project(np.array(out))
        return np.round(np.clip(pixels, -60000, 60000) * (1 << SUBPIXEL)).astype(np.int32)

    def _paint_ground(self, image: np.ndarray, ground: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> None:
        first, x, z, depth = ground
        if first >= self.height:
            return
        faces = self.faces[first:]
        numbers = np.where(faces < NUM_MATERIALS, faces, 0)
        grain, stain, slab = (np.array([getattr(m, n) for m in self.light.materials], np.float32)
                              for n in ('grain', 'stains', 'slabs'))
        fade = np.minimum(1, 14 / depth)
        fine = _sample(textures.grain(), x, z, (70, 36))
        coarse = _sample(textures.stains(), x, z, (22, 5))
        gain = 1 + grain.take(numbers) * fine * fade + stain.take(numbers) * coarse
        paved = slab.take(numbers)
        rows = np.flatnonzero(paved.any(1))
        if len(rows):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            joints = _sample(textures.paving(), x[part], z[part], (50, 50))
            gain[part] += paved[part] * joints * np.minimum(1, 9 / depth[part])
        # towards the horizon the ground takes the colour of the haze
        gain *= self._shadow(first)
        np.clip(gain * 128, 0, 255, out=gain)
        ground_gain = gain.astype(np.uint8)
        whole = np.tile(textures.unevenness(), (-(-self.height // 512), -(-self.width // 512)))
        whole = whole[:self.height, :self.width].copy()
        np.copyto(whole[first:], ground_gain, where=numbers > 0)
        cv2.multiply(image, cv2.merge([whole] * 3), image, 1 / 128)

    def _shadow(self, first: int) -> np.ndarray:
        """How much light the ground gets: cast shadows and the dark under things, (rows, W)."""
        strength = self.light.sun_strength
        dark = int(255 / (1 + 1.25 * strength))
        things = [t for t in self.things if t.shadow[0]]
        placed = np.array([(t.x, t.z, *t.shadow, t.tall, math.cos(t.yaw), math.sin(t.yaw)) for t in things])
        placed = placed.reshape(-1, 7)
        quads, values = [], []
        if strength > 0.05:
            shift = np.array([-self.sun[0] / self.sun[1], -self.sun[2] / self.sun[1]])
            for quad, value in (self._house_shadows(shift, dark), self._tree_shadows(shift, dark),
                                _thing_shadows(placed, shift, dark)):
                quads.append(quad)
                values.append(value)
        under = placed[placed[:, 2] > 0.15]
        rings = np.stack([_footprints(under, grow) for grow in (1.12, 0.96)], 1).reshape(-1, 4, 2)
        tone = np.tile([150, 62], len(under))
        slim = np.repeat(under[:, 2] <= 0.4, 2)
        quads.append(rings)
        values.append(np.where(slim, (tone + 255) // 2, tone))
        flat = np.concatenate(quads)
        corners = np.zeros((len(flat), 4, 3))
        corners[..., 0], corners[..., 2] = flat[..., 0], flat[..., 1]
        keep = self.faces
        self.faces = np.zeros(self.faces.shape, np.uint8)
        self._fill(self.camera.to_camera(corners), np.concatenate(values))
        shade = self.faces[first:]
        self.faces = keep
        mask = cv2.blur(np.where(shade > 0, shade, 255).astype(np.uint8), (5, 3))
        return mask.astype(np.float32) * (1 / 255)

    def _house_shadows(self, shift: np.ndarray, dark: int) -> tuple[np.ndarray, np.ndarray]:
        """Four swept walls and the roof of each footprint, (N, 4, 2) on the ground."""
        rows = np.array([s for chunk in self.chunks for s in chunk.shades], np.float64).reshape(-1, 5)
        x0, x1, z0, z1, high = rows.T
        move = high[:, None] * shift
        quads = []
        for xa, za, xb, zb in ((x0, z0, x0, z1), (x1, z0, x1, z1), (x0, z0, x1, z0), (x0, z1, x1, z1)):
            a, b = np.stack([xa, za], 1), np.stack([xb, zb], 1)
            quads.append(np.stack([a, b, b + move, a + move], 1))
        roof = [np.stack([x, z], 1) + move for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))]
        quads.append(np.stack(roof, 1))
        out = np.stack(quads, 1).reshape(-1, 4, 2)
        return out, np.full(len(out), dark)

    def _tree_shadows(self, shift: np.ndarray, dark: int) -> tuple[np.ndarray, np.ndarray]:
        """Each crown as an octagon of three quads, (N, 4, 2) on the ground."""
        trees = [p for p in self.plants if p.height > 3 and p.layer > 0 and abs(p.x) < 30]
        rows = np.array([(p.x, p.z, p.width * 0.36, p.height * 0.62) for p in trees], np.float64).reshape(-1, 4)
        a = np.arange(8) * math.pi / 4
        w = rows[:, 2:3]
        cx, cz = rows[:, 0] + shift[0] * rows[:, 3], rows[:, 1] + shift[1] * rows[:, 3]
        ring = np.stack([cx[:, None] + w * np.cos(a) + shift[0] * w * 0.5 * np.cos(a - 0.6),
                         cz[:, None] + w * np.sin(a) + shift[1] * w * 0.5 * np.sin(a)], 2)
        quads = np.stack([ring[:, [k, k + 1, 6 - k, (7 - k) % 8]] for k in range(3)], 1).reshape(-1, 4, 2)
        thin = np.repeat([p.plant.kind == 'bare' for p in trees], 3).astype(bool)
        return quads, np.where(thin, (255 + dark * 2) // 3, dark)

    # -- things, panels, plants -------------------------------------------------------------------

    def _batch(self) -> _Batch:
        camera = self.camera
        reach = [t for t in self.things if t.z - camera.z > -14 and t.z - camera.z < 240]
        self.things = reach
        points, colors, labels, glow, flats, start = [], [], [], [], [], []
        count = 0
        for thing in reach:
            mesh = thing.mesh
            start.append(count)
            faces, slots, label, light, flat = mesh.faces, mesh.slots, mesh.labels, mesh.glow, mesh.flat
            c, s = math.cos(thing.yaw), math.sin(thing.yaw)
            turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
            world = mesh.vertices @ turn * thing.scale + (thing.x, thing.y, thing.z)
            if len(mesh.centres) > 1:
                centres = mesh.centres @ turn + (thing.x - camera.x, thing.y - camera.height, thing.z - camera.z)
                rank = np.argsort(np.argsort(-(centres ** 2).sum(1), kind='stable'))
                order = np.argsort(rank[mesh.groups], kind='stable')
                faces, slots, label, light, flat = (a[order] for a in (faces, slots, label, light, flat))
            points.append(world[faces])
            colors.append(np.array(thing.colors, np.float64)[slots])
            labels.append(label)
            lit = thing.speed != 0 or thing.layer == WALK and not thing.shadow[1] > 0.5
            glow.append(light if lit else np.where(light == 4, 4, 0))
            flats.append(flat)
            count += len(faces)
        start.append(count)
        world = np.concatenate(points)
        flat = np.concatenate(flats)
        relative = world - camera.position
        normal = _cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
        facing = (normal * relative[:, 0]).sum(1)
        visible = flat | (facing < 0)
        normal[flat & (facing > 0)] *= -1
        middle = world.mean(1)
        color = self._lit(np.concatenate(colors), normal, np.linalg.norm(middle - camera.position, axis=1), flat)
        return _Batch(camera.to_camera(world), color, np.concatenate(labels), np.concatenate(glow), visible,
                      normal, start)

    def _lit(self, albedo: np.ndarray, normal: np.ndarray, distance: np.ndarray,
             flat: np.ndarray | None = None) -> np.ndarray:
        """Shade colours (N, 3) by sun, sky and haze."""
        light = self.light
        direct = np.maximum(normal @ self.sun, 0)
        if flat is not None:
            direct = np.where(flat, 0.35, direct)
        sky = light.ambient * (0.72 + 0.28 * normal[:, 1])
        shade = sky[:, None] + (light.sun_strength * direct)[:, None] * np.array(light.warm)
        haze = np.exp(-light.haze * distance)[:, None]
        return albedo * shade * haze + np.array(light.horizon) * (1 - haze)

    def _draw_items(self, batch: _Batch, first_panel: int) -> None:
        camera = self.camera
        items: list[tuple[int, int, float, float, int, int]] = []
        split = math.sqrt(3 / abs(camera.bend)) if camera.bend else 1e9

        def key(layer: int, z: float, kind: int, i: int, aside: float = 0.0) -> None:
            near = z - camera.z < split
            items.append((int(near), layer if near else 0, -aside if near else 0, -z, kind, i))

        for i, thing in enumerate(self.things):
            # a ray from the camera meets lanes in the order of their distance from it
            aside = 0.0 if thing.lane is None else abs(thing.lane - camera.x)
            key(thing.layer, thing.z, 0, i, aside)
        for i, panel in enumerate(self.panels):
            key(panel.layer, panel.corner[2] + (panel.right[2] + panel.up[2]) / 2, 1, i)
        for i, plant in enumerate(self.plants):
            key(plant.layer, plant.z, 2, i)
        items.sort()
        self.paints: list = []

        points = batch.points
        depth = points[:, :, 2]
        nearest = depth.min(1)
        safe = nearest > NEAR
        pixels = np.zeros((*points.shape[:2], 2))
        pixels[safe] = camera.project(points[safe])
        low, high = pixels.min(1), pixels.max(1)
        inside = (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 0] < self.width) & (low[:, 1] < self.height)
        extent = (high - low).max(1)
        area = (high - low + 0.3).prod(1)
        draw = batch.visible & (depth.max(1) > NEAR) & ((inside & (area > 1.0)) | ~safe)
        scaled = np.round(pixels * (1 << SUBPIXEL)).astype(np.int32)
        self._planes(points, (extent > _SMALL) | ~safe, NUM_MATERIALS)
        self._prepare()
        self._planes(self.panel_quads, np.ones(len(self.panels), bool), first_panel)
        faces = self.faces
        for _, _, _, _, kind, i in items:
            if kind == 0:
                a, b = batch.start[i], batch.start[i + 1]
                for j in (np.flatnonzero(draw[a:b]) + a).tolist():
                    if safe[j]:
                        cv2.fillConvexPoly(faces, scaled[j], NUM_MATERIALS + j, 8, SUBPIXEL)
                    else:
                        polygon = self._clipped(points[j])
                        if polygon is not None:
                            cv2.fillConvexPoly(faces, polygon, NUM_MATERIALS + j, 8, SUBPIXEL)
            elif kind == 1:
                self._panel(i, first_panel + i)
            else:
                self._plant(i, first_panel + len(self.panels) + i)

    def _planes(self, points: np.ndarray, large: np.ndarray, first: int) -> None:
        """Store 1 / depth of faces (N, 4, 3) as a linear function of the pixel."""
        f = self.camera.focal
        part = slice(first, first + len(points))
        out = self.plane[part]
        out[:, 2] = 1 / np.clip(points[:, :, 2].mean(1), NEAR / 2, FAR)
        p = points[large]
        normal = _cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
        offset = (normal * p[:, 0]).sum(1)
        good = np.abs(offset) > 1e-3 * np.linalg.norm(normal, axis=1) + 1e-12
        normal, offset = normal[good], offset[good][:, None]
        normal = normal / offset
        which = np.flatnonzero(large)[good]
        out[which, 0] = normal[:, 0] / f
        out[which, 1] = normal[:, 1] / f
        out[which, 2] = normal[:, 2] - (normal[:, 0] * self.width / 2 + normal[:, 1] * self.height / 2) / f

    def _depth(self, ground: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        faces = self.faces
        u = (np.arange(self.width, dtype=np.float32) + 0.5)[None]
        v = (np.arange(self.height, dtype=np.float32) + 0.5)[:, None]
        a, b, c = (np.ascontiguousarray(self.plane[:, i]).take(faces) for i in range(3))
        a *= u
        b *= v
        a += b
        a += c
        np.clip(a, 1 / FAR, 2 / NEAR, out=a)
        depth = np.reciprocal(a, out=a)
        first, _, _, flat = ground
        raised = (faces[first:] == PAVEMENT) | (faces[first:] == KERB)
        soil = (faces[first:] > 0) & (faces[first:] < NUM_MATERIALS)
        np.copyto(depth[first:], flat, where=soil)
        np.copyto(depth[first:], flat * ((self.camera.height - 0.12) / self.camera.height), where=raised)
        np.copyto(depth, SKY_DEPTH, where=faces == 0)
        return depth

    def _prepare(self) -> None:
        """Bring the corners of all panels and the ends of all plants into camera axes; light them."""
        camera = self.camera
        rows = np.array([(p.corner, p.right, p.up, p.tint) for p in self.panels], np.float64).reshape(-1, 4, 3)
        corner, right, up, tint = (rows[:, i] for i in range(4))
        quads = np.stack([corner, corner + right, corner + right + up, corner + up], 1)
        normal = _cross(right, up)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        middle = corner + right / 2 + up / 2 - camera.position
        away = (normal * (corner - camera.position)).sum(1) > 0
        above = normal[:, 1] * np.where(away, -1, 1) > 0
        normal[away] *= -1
        distance = np.linalg.norm(middle, axis=1)
        self.panel_quads = camera.to_camera(quads)
        self.panel_base = self._lit(np.zeros_like(tint), normal, distance)
        self.panel_gain = self._lit(tint, normal, distance) - self.panel_base
        one_sided = np.array([p.one_sided for p in self.panels], bool)
        self.panel_seen = above | ~one_sided
        self.panel_up = np.abs(normal[:, 1])

        foot = np.array([(p.x, p.y, p.z) for p in self.plants], np.float64).reshape(-1, 3)
        top = foot + np.array([(0, p.height, 0) for p in self.plants], np.float64).reshape(-1, 3)
        self.plant_ends = camera.to_camera(np.stack([foot, top], 1))
        distance = self.plant_ends[:, :, 2].mean(1)
        normal = np.array([(-0.2 * math.copysign(1, p.x), 0.5, -0.6) for p in self.plants]).reshape(-1, 3)
        tones = []
        for p in self.plants:
            tones.append((p.dark, p.bright) if p.plant.kind == 'leafy' else ((30, 28, 26), (205, 196, 182)))
        pairs = np.array(tones, np.float64).reshape(-1, 2, 3)
        self.plant_dark = self._lit(pairs[:, 0], normal, distance)
        self.plant_bright = self._lit(pairs[:, 1], normal, distance)

    def _panel(self, i: int, number: int) -> None:
        if not self.panel_seen[i]:
            return
        camera, panel, quad = self.camera, self.panels[i], self.panel_quads[i]
        polygon = self._clipped(quad)
        if polygon is None:
            return
        box = cv2.boundingRect(polygon >> SUBPIXEL)
        x0, y0 = max(0, box[0] - 1), max(0, box[1] - 1)
        x1, y1 = min(self.width, box[0] + box[2] + 2), min(self.height, box[1] + box[3] + 2)
        if x0 >= x1 or y0 >= y1:
            return
        cv2.fillConvexPoly(self.faces, polygon, number, 8, SUBPIXEL)
        self.up[number] = self.panel_up[i]
        self.colors[number, 3] = panel.label
        origin, across, along = quad[0], quad[1] - quad[0], quad[3] - quad[0]
        span = (box[2] * box[3]) ** 0.5
        gain, base = self.panel_gain[i], self.panel_base[i]

        def paint(image: np.ndarray) -> None:
            if not self.seen[number]:
                return
            mask = self.faces[y0:y1, x0:x1] == number
            tex = panel.texture
            h, w = tex.levels[0].shape[:2]
            level = 0
            size = (h * panel.repeat[1] * w * panel.repeat[0]) ** 0.5
            while level + 1 < len(tex.levels) and size / 2 ** level > span * 1.5:
                level += 1
            picture = tex.levels[level]
            h, w = picture.shape[:2]
            plane = camera.intrinsics @ np.column_stack([across, along, origin])
            # texture pixel -> position on the panel
            scale = np.array([[1 / (w * panel.repeat[0]), 0, 0], [0, -1 / (h * panel.repeat[1]), 1], [0, 0, 1]])
            move = np.array([[1.0, 0, -x0], [0, 1, -y0], [0, 0, 1]])
            try:
                inverse = np.linalg.inv(move @ plane @ scale)
            except np.linalg.LinAlgError:  # seen exactly from the side
                return
            size_ = (x1 - x0, y1 - y0)
            piece = cv2.warpPerspective(picture, inverse, size_, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                        borderMode=cv2.BORDER_WRAP)
            piece = cv2.transform(piece, np.column_stack([np.diag(gain), base]))
            small = mask.view(np.uint8)
            cv2.copyTo(piece, small, image[y0:y1, x0:x1])
            if self.want_windows and tex.windows:
                number_map = cv2.warpPerspective(tex.windows[min(level, len(tex.windows) - 1)], inverse, size_,
                                                 flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                                                 borderMode=cv2.BORDER_WRAP)
                cv2.copyTo(number_map, small, self.windows[y0:y1, x0:x1])

        self.paints.append(paint)

    def _plant(self, i: int, number: int) -> None:
        camera, plant, ends = self.camera, self.plants[i], self.plant_ends[i]
        if ends[:, 2].min() < NEAR * 1.5 or ends[0, 2] > 260:
            return
        (u0, v0), (u1, v1) = camera.project(ends)
        tall = math.hypot(u1 - u0, v1 - v0)
        wide = tall * plant.width / plant.height
        if tall < 2 or wide < 2:
            return
        x0, x1 = max(0, math.floor(min(u0, u1) - wide / 2)), min(self.width, math.ceil(max(u0, u1) + wide / 2))
        y0, y1 = max(0, math.floor(min(v0, v1))), min(self.height, math.ceil(max(v0, v1)) + 1)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        levels = plant.plant.levels
        level = 0
        while level + 1 < len(levels) and levels[level].shape[0] > tall * 1.5:
            level += 1
        picture = levels[level]
        h, w = picture.shape[:2]
        # pixel of the picture -> pixel of the plant
        ax, ay = (u0 - u1) / tall, (v0 - v1) / tall  # down the trunk
        m = np.array([[ay * w / wide, -ax * w / wide, 0], [ax * h / tall, ay * h / tall, 0]])
        m[0, 2] = w / 2 - (m[0, 0] * (u1 - x0) + m[0, 1] * (v1 - y0))
        m[1, 2] = -(m[1, 0] * (u1 - x0) + m[1, 1] * (v1 - y0))
        piece = cv2.warpAffine(picture, m, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        mask = piece[:, :, 1] > 127
        faces = self.faces[y0:y1, x0:x1]
        through = plant.plant.kind == 'bare' and (faces == 0).view(np.uint8)
        np.copyto(faces, number, where=mask)
        depth = float(ends[:, 2].mean())
        self.plane[number, 2] = 1 / min(depth, FAR)
        self.colors[number, 3] = 8
        self.up[number] = 0.5
        dark, bright = self.plant_dark[i], self.plant_bright[i]
        table = np.clip(dark + (bright - dark) * _RAMP, 0, 255).astype(np.uint8)

        def paint(image: np.ndarray) -> None:
            if not self.seen[number]:
                return
            seen = self.faces[y0:y1, x0:x1] == number
            shade = cv2.extractChannel(piece, 0)
            color = cv2.LUT(cv2.merge([shade] * 3), table[None])
            if through is not False:
                rows = min(len(self.sky), y1) - y0
                if rows > 0:
                    sky = self.sky[y0:y0 + rows, x0:x1]
                    alpha = cv2.merge([cv2.extractChannel(piece[:rows], 2) * through[:rows]] * 3)
                    part = color[:rows]
                    blend = cv2.add(cv2.multiply(sky, alpha, scale=1 / 255), cv2.multiply(part, 255 - alpha, scale=1 / 255))
                    color[:rows] = blend
            cv2.copyTo(color, seen.view(np.uint8), image[y0:y1, x0:x1])

        self.paints.append(paint)


def _footprints(rows: np.ndarray, grow: float) -> np.ndarray:
    """Corners (N, 4, 2) of what stands on the ground; rows: x, z, half width, half length, -, cos, sin."""
    x, z, w, n, _, c, s = (column[:, None] for column in rows.T)
    u = w * grow * np.array([-1, 1, 1, -1])
    v = n * grow * np.array([-1, -1, 1, 1])
    return np.stack([x + c * u + s * v, z - s * u + c * v], 2)


def _thing_shadows(rows: np.ndarray, shift: np.ndarray, dark: int) -> tuple[np.ndarray, np.ndarray]:
    """The cast shadow of boxes: their four swept sides and the top, (N, 4, 2) on the ground."""
    rows = rows[rows[:, 4] != 0]
    base = _footprints(rows, 1.0)
    top = base + (rows[:, 4:5] * shift)[:, None]
    quads = [np.stack([base[:, i - 1], base[:, i], top[:, i], top[:, i - 1]], 1) for i in range(4)]
    out = np.stack([*quads, top], 1).reshape(-1, 4, 2)
    return out, np.full(len(out), dark)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products of (N, 3) rows; several times faster than np.cross."""
    ax, ay, az, bx, by, bz = a[:, 0], a[:, 1], a[:, 2], b[:, 0], b[:, 1], b[:, 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)


def _wrapped(values: np.ndarray, scale: float) -> np.ndarray:
    """Texture coordinates inside the tile; cv2.remap is slow outside of it."""
    values = values * np.float32(scale / 512)
    values -= np.floor(values)
    values *= 512
    return values


def _sample(tile: np.ndarray, x: np.ndarray, z: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    return cv2.remap(tile, _wrapped(x, scale[0]), _wrapped(z, scale[1]), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


def _split(corners: np.ndarray, material: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut long pieces of ground across, so that they can follow a bend."""
    length = np.abs(corners[:, 3, 2] - corners[:, 0, 2])
    pieces = np.maximum(1, np.ceil(length / 8).astype(int))
    index = np.repeat(np.arange(len(corners)), pieces)
    step = np.concatenate([np.arange(n) for n in pieces])
    a = (step / pieces[index])[:, None]
    b = ((step + 1) / pieces[index])[:, None]
    c = corners[index]
    left, right = c[:, 3] - c[:, 0], c[:, 2] - c[:, 1]
    return np.stack([c[:, 0] + left * a, c[:, 1] + right * a, c[:, 1] + right * b, c[:, 0] + left * b], 1), material[index]
