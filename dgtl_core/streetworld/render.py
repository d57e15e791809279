# SPDX-License-Identifier: Apache-2.0
"""
From things in metres to pixels.

First every pixel gets the number of the face that is seen there; then colour, label and depth are
looked up by that number, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
from dgtl_core.streetworld.camera import Camera, FAR, Ground, NEAR, SKY_DEPTH
from dgtl_core.streetworld.canvas import cross, follow_bend, inverse_depth, Outlines
from dgtl_core.streetworld.cutouts import Paint, Panels, Plants
from dgtl_core.streetworld.scene import (
    Chunk,
    GRASS,
    KERB,
    Light,
    NUM_MATERIALS,
    Patch,
    PAVEMENT,
    SKY,
    Thing,
    VEGETATION,
    WALK,
)
from dgtl_core.streetworld.shading import ground_light, lit
from dgtl_core.streetworld.surfaces import draw_sky, paint_texture
import numpy as np

_SMALL = 24.0  # pixels; a face below this size has one depth
_SIGHT = (-14.0, 240.0)  # metres along the street; meshes outside are left out
_KERB_HEIGHT = 0.12  # metres; of the sidewalk, for its depth


@dataclass(frozen=True)
class Picture:
    """
    A rendered scene before weather and before the camera's own faults.

    Shapes: image (H, W, 3) uint8 RGB, labels (H, W) uint8, depth (H, W) float32 metres, faces
    (H, W) int32: 0 sky, below NUM_MATERIALS a ground material, else a face; glow (N,) uint8 what
    each face emits (see :class:`Mesh`); up (N,) float32 how far each face looks up; windows (H, W)
    uint8, 0 or a number per window (empty if they were not wanted).
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    faces: np.ndarray
    glow: np.ndarray
    up: np.ndarray
    windows: np.ndarray
    ground: Ground
    camera: Camera


@dataclass(frozen=True)
class _Bodies:
    """The faces of all meshes, one row each; ``start`` is the first row of each thing."""

    world: np.ndarray  # (F, 4, 3)
    colors: np.ndarray  # (F, 3), lit
    labels: np.ndarray
    glow: np.ndarray
    front: np.ndarray  # (F,) bool: looks at the camera
    up: np.ndarray
    start: list[int]


def render(camera: Camera, light: Light, chunks: list[Chunk], moving: list[Thing],
           want_windows: bool = False) -> Picture:
    """Draw what stands in the chunks and what moves."""
    things = [t for t in [t for c in chunks for t in c.things] + moving
              if _SIGHT[0] < t.z - camera.z < _SIGHT[1]]
    ground = camera.ground()
    sky = draw_sky(camera, light)
    faces = _ground_faces(camera, chunks)
    windows = np.zeros(camera.size if want_windows else (0, 0), np.uint8)

    bodies = _bodies(camera, light, things)
    panels = Panels([p for c in chunks for p in c.panels], camera, light)
    plants = Plants([p for c in chunks for p in c.plants], camera, light)
    first_panel = NUM_MATERIALS + len(bodies.world)
    first_plant = first_panel + len(panels.panels)
    total = first_plant + len(plants.plants)
    # by face: colour and label, 1 / depth over the picture, glow, how far it looks up
    colors, plane = np.zeros((total, 4), np.uint8), np.zeros((total, 3), np.float32)
    glow, up = np.zeros(total, np.uint8), np.zeros(total, np.float32)
    level = light.ambient + light.sun_strength * light.sun[1]
    for i, material in enumerate(light.materials):
        colors[i] = (*(min(255, c * level) for c in material.color), material.label)
    colors[0, 3] = SKY
    up[1:NUM_MATERIALS] = 1
    body = slice(NUM_MATERIALS, first_panel)
    colors[body, :3], colors[body, 3] = np.clip(bodies.colors, 0, 255), bodies.labels
    up[body], glow[body] = bodies.up, bodies.glow
    up[first_panel:first_plant] = panels.up
    colors[first_panel:first_plant, 3] = [p.label for p in panels.panels]
    plane[first_panel:first_plant] = panels.plane
    up[first_plant:] = 0.5
    colors[first_plant:, 3] = VEGETATION
    plane[first_plant:] = np.array(
        [plants.plane(i) for i in range(len(plants.plants))]).reshape(-1, 3)

    outlines = Outlines(camera.to_camera(bodies.world), camera)
    extent = outlines.span.max(1)
    visible = bodies.front & outlines.visible
    visible &= ((outlines.span + 0.3).prod(1) > 1.0) | ~outlines.whole
    plane[body] = inverse_depth(outlines.points, (extent > _SMALL) | ~outlines.whole, camera)

    paints: list[tuple[int, Paint]] = []
    for kind, i in _painters_order(camera, things, panels, plants):
        if kind == 0:
            a, b = bodies.start[i], bodies.start[i + 1]
            which = (np.flatnonzero(visible[a:b]) + a).tolist()
            outlines.fill(faces, which, [NUM_MATERIALS + j for j in which])
            continue
        number = (first_panel if kind == 1 else first_plant) + i
        paint = (panels.place(i, number, faces, windows) if kind == 1
                 else plants.place(i, number, faces, sky))
        if paint is not None:
            paints.append((number, paint))

    packed = colors.view(np.uint32)[:, 0].take(faces)
    looked_up = packed.view(np.uint8).reshape(*camera.size, 4)
    image = cv2.cvtColor(looked_up, cv2.COLOR_RGBA2RGB)
    labels = cv2.extractChannel(looked_up, 3)
    depth = _depth(camera, faces, plane, ground)
    reaching = ground_light(camera, light, chunks, things, plants.plants, ground[0])
    paint_texture(image, faces, ground, light, reaching)
    cv2.copyTo(sky, (faces[:len(sky)] == 0).view(np.uint8), image[:len(sky)])
    image[len(sky):][faces[len(sky):] == 0] = light.horizon
    seen = np.bincount(faces.ravel(), minlength=total)
    for number, paint in paints:
        if seen[number]:
            paint(image)
    return Picture(image, labels, depth, faces, glow, up, windows, ground, camera)


def _ground_faces(camera: Camera, chunks: list[Chunk]) -> np.ndarray:
    """A canvas with the ground: everything below the horizon is a material."""
    faces = np.zeros(camera.size, np.int32)
    faces[camera.horizon[1]:] = GRASS  # where no patch lies
    patches: list[Patch] = [p for c in chunks for p in c.patches]
    patches += [p for c in chunks for p in c.top_patches]
    corners = np.array([p.corners for p in patches], np.float64)
    material = np.array([p.material for p in patches])
    ahead = corners[:, :, 2].max(1) > camera.z + NEAR
    corners, material = corners[ahead], material[ahead]
    if camera.bend:
        corners, material = follow_bend(corners, material)
    outlines = Outlines(camera.to_camera(corners), camera)
    which = np.flatnonzero(outlines.visible)
    outlines.fill(faces, which.tolist(), material[which].tolist())
    return faces


def _bodies(camera: Camera, light: Light, things: list[Thing]) -> _Bodies:
    """Place, colour and light the meshes."""
    points, colors, labels, glow, flats, start = [], [], [], [], [], [0]
    for thing in things:
        mesh = thing.mesh
        c, s = math.cos(thing.yaw), math.sin(thing.yaw)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        place = (thing.x, thing.y, thing.z)
        faces, slots, label, shine, flat = (mesh.faces, mesh.slots, mesh.labels, mesh.glow,
                                            mesh.flat)
        if len(mesh.centres) > 1:  # parts that can hide each other: the far ones first
            centres = mesh.centres @ turn + (place[0] - camera.x, place[1] - camera.height,
                                             place[2] - camera.z)
            rank = np.argsort(np.argsort(-(centres ** 2).sum(1), kind='stable'))
            order = np.argsort(rank[mesh.groups], kind='stable')
            faces, slots, label, shine, flat = (
                rows[order] for rows in (faces, slots, label, shine, flat))
        points.append((mesh.vertices @ turn * thing.scale + place)[faces])
        colors.append(np.array(thing.colors, np.float64)[slots])
        labels.append(label)
        # what is parked has its lamps off; traffic lights (4) always shine
        on = thing.speed != 0 or (thing.layer == WALK and thing.shadow[1] <= 0.5)
        glow.append(shine if on else np.where(shine == 4, 4, 0))
        flats.append(flat)
        start.append(start[-1] + len(faces))
    if not things:
        none = np.zeros(0, np.int64)
        return _Bodies(np.zeros((0, 4, 3)), np.zeros((0, 3)), none, none, none > 0,
                       np.zeros(0), start)
    world, flat = np.concatenate(points), np.concatenate(flats)
    normal = cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    facing = (normal * (world[:, 0] - camera.position)).sum(1)
    normal[flat & (facing > 0)] *= -1
    distance = np.linalg.norm(world.mean(1) - camera.position, axis=1)
    color = lit(light, np.concatenate(colors), normal, distance, flat)
    return _Bodies(world, color, np.concatenate(labels), np.concatenate(glow),
                   flat | (facing < 0), np.abs(normal[:, 1]), start)


def _painters_order(camera: Camera, things: list[Thing], panels: Panels,
                    plants: Plants) -> list[tuple[int, int]]:
    """
    (kind, index) of everything, what is behind first; kind 0 thing, 1 panel, 2 plant.

    Seen from the road, a ray only goes outwards: it meets the layers in the order of their
    distance from the road, and lanes in the order of their distance from the camera. Where a bend
    carries the street aside, that no longer holds, and things are sorted by z alone.
    """
    split = math.sqrt(3 / abs(camera.bend)) if camera.bend else 1e9
    items: list[tuple[bool, int, float, float, int, int]] = []

    def add(layer: int, z: float, kind: int, index: int, aside: float = 0.0) -> None:
        near = z - camera.z < split
        items.append((near, layer if near else 0, -aside if near else 0.0, -z, kind, index))

    for i, thing in enumerate(things):
        add(thing.layer, thing.z, 0, i,
            0.0 if thing.lane is None else abs(thing.lane - camera.x))
    for i, panel in enumerate(panels.panels):
        add(panel.layer, panel.corner[2] + (panel.right[2] + panel.up[2]) / 2, 1, i)
    for i, plant in enumerate(plants.plants):
        add(plant.layer, plant.z, 2, i)
    return [item[4:] for item in sorted(items)]


def _depth(camera: Camera, faces: np.ndarray, plane: np.ndarray, ground: Ground) -> np.ndarray:
    """Camera depth in metres, (H, W) float32."""
    height, width = camera.size
    u = (np.arange(width, dtype=np.float32) + 0.5)[None]
    v = (np.arange(height, dtype=np.float32) + 0.5)[:, None]
    a, b, c = (np.ascontiguousarray(plane[:, i]).take(faces) for i in range(3))
    a *= u
    b *= v
    a += b
    a += c
    np.clip(a, 1 / FAR, 2 / NEAR, out=a)
    depth = np.reciprocal(a, out=a)
    first, _, _, flat = ground
    below = faces[first:]
    raised = (below == PAVEMENT) | (below == KERB)
    np.copyto(depth[first:], flat, where=(below > 0) & (below < NUM_MATERIALS))
    np.copyto(depth[first:], flat * ((camera.height - _KERB_HEIGHT) / camera.height), where=raised)
    np.copyto(depth, SKY_DEPTH, where=faces == 0)
    return depth
