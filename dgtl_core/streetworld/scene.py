# SPDX-License-Identifier: Apache-2.0
"""What a StreetWorld scene is made of: things in metres, nothing about pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

from dgtl_core.streetworld.masonry import Texture
from dgtl_core.streetworld.meshes import Color, Mesh
from dgtl_core.streetworld.plants import Plant

# what lies farther from the road is drawn first; a ray from the road meets layers in falling order
SKYLINE, HOUSE, YARD, BOUNDARY, WALK, ROADWAY = range(6)

# train ids
(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER,
 CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)


@dataclass(slots=True)
class Thing:
    """A mesh at a place; ``yaw`` turns it (0: its front looks along +z)."""

    mesh: Mesh
    x: float
    z: float
    yaw: float
    colors: list[Color]
    layer: int
    scale: float = 1.0
    y: float = 0.0
    speed: float = 0.0  # metres per second, towards its front
    # half width and half length of what it darkens, metres
    shadow: tuple[float, float] = (0.0, 0.0)
    tall: float = 0.0  # height for the cast shadow, metres
    walk: tuple[int, bool, float] | None = None  # person: number, side view, phase 0..1
    ride: int | None = None  # cyclist: number
    lamp: bool = False  # a street lamp, which lights the ground at night
    lane: float | None = None  # x of the lane in which it stands or drives


@dataclass(slots=True)
class Panel:
    """A flat rectangle with a texture, given by a corner and two edges (metres)."""

    corner: tuple[float, float, float]
    right: tuple[float, float, float]
    up: tuple[float, float, float]
    texture: Texture
    repeat: tuple[float, float]
    label: int
    layer: int
    tint: Color = (1.0, 1.0, 1.0)
    one_sided: bool = False  # roofs: only seen from outside (normal right x up)


@dataclass(slots=True)
class Foliage:
    """A plant that always faces the camera; ``z`` is its middle, ``y`` its foot."""

    plant: Plant
    x: float
    z: float
    width: float
    height: float
    dark: Color
    bright: Color
    layer: int
    y: float = 0.0


@dataclass(slots=True)
class Patch:
    """A four-sided piece of ground: corners (x, y, z) and the material."""

    corners: tuple[tuple[float, float, float], ...]
    material: int


@dataclass(slots=True)
class Chunk:
    """Everything that stands still along a piece of the street."""

    patches: list[Patch] = field(default_factory=list)
    top_patches: list[Patch] = field(default_factory=list)  # markings and crossings, drawn later
    things: list[Thing] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    plants: list[Foliage] = field(default_factory=list)
    shades: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    """Footprints that cast a shadow: x0, x1, z0, z1, height."""

    def before(self, z: float) -> Chunk:
        """The same without what stands beyond ``z``."""
        return Chunk(self.patches, self.top_patches, [t for t in self.things if t.z < z],
                     [p for p in self.panels if p.corner[2] + p.right[2] / 2 < z],
                     [p for p in self.plants if p.z < z], [s for s in self.shades if s[2] < z])


def rectangle(x0: float, x1: float, z0: float, z1: float, material: int, y: float = 0.0) -> Patch:
    """An upright rectangle of ground."""
    return Patch(((x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)), material)


@dataclass(frozen=True)
class Material:
    """Ground: its label and colour; how strong fine grain, large stains and slabs are."""

    label: int
    color: Color
    grain: float
    stains: float
    slabs: float = 0.0


(VOID, ASPHALT, REPAIR, WHITE_LINE, YELLOW_LINE, PAVEMENT, KERB, GRASS, SOIL, CYCLE_LANE, RAIL,
 PLAZA, GRAVEL, WORN_LINE, TRACK_BED, SETTS) = range(16)
NUM_MATERIALS = 16


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of a scene: sun (unit vector towards it), strengths, colours of sky and haze."""

    sun: tuple[float, float, float]
    sun_strength: float  # 0 overcast
    ambient: float
    warm: Color  # gain per channel of sun light
    zenith: Color
    horizon: Color
    cloud: Color
    cover: float  # 0 no cloud .. 1 all cloud
    cloud_size: float
    cloud_shift: tuple[int, int]
    haze: float  # 1 / metre
    exposure: float
    contrast: float
    white_balance: Color
    vignette: float
    noise: float
    blur: float
    materials: tuple[Material, ...]
    seed: int  # of the sensor noise
