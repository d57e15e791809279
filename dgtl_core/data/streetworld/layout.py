# SPDX-License-Identifier: Apache-2.0
"""Where things stand: the plan of a random street, built piece by piece along z."""

from __future__ import annotations

import math
import random

from dgtl_core.data.streetworld import figures, plants, textures, vehicles
from dgtl_core.data.streetworld.meshes import MeshBuilder
from dgtl_core.data.streetworld.scene import (
    ASPHALT, BOUNDARY, BUILDING, Chunk, CYCLE_LANE, FENCE, Foliage, GRASS, GRAVEL, HOUSE,
    KERB, Panel, Patch, PAVEMENT, PLAZA, RAIL, rectangle, REPAIR, ROADWAY, SETTS, SKYLINE, SOIL,
    Thing, TRACK_BED, VEGETATION, WALK, WALL, WHITE_LINE, WORN_LINE, YARD, YELLOW_LINE)

CHUNK = 40.0  # metres
TRACK_HALF = 2.2  # metres; half the width of a line beside the street


def without_collisions(drivers: list[Thing], standing: list[Thing]) -> list[Thing]:
    """Leave out drivers that stand in each other or in something that stands; rare ones stay first."""
    placed = [t for t in standing if t.layer == ROADWAY and t.shadow[0]]
    out: list[Thing] = []
    for thing in sorted(drivers, key=lambda t: t.shadow[0] == 0.95):
        w, n = thing.shadow
        if all(abs(t.x - thing.x) > t.shadow[0] + w + 0.1 or abs(t.z - thing.z) > t.shadow[1] + n + 0.4
               for t in placed):
            placed.append(thing)
            out.append(thing)
    return out


class Street:
    """
    A street that goes on for ever: the same key gives the same street, piece by piece.

    The road lies around x = 0; ``edges`` are the x of the left and the right kerb. Traffic ahead of
    the camera moves along +z on the side ``hand`` (+1: right-hand traffic).
    """

    def __init__(self, key: str) -> None:
        self.key = key
        r = random.Random(f'{key}/street')
        self.hand = r.choice((-1, 1))
        self.style = r.choices(('city', 'town', 'suburb', 'park', 'open', 'mixed'), (32, 26, 15, 7, 6, 14))[0]
        self.lane = r.uniform(2.8, 3.6)
        lanes = r.choices((1, 2), (74, 26))[0]
        self.lanes = lanes
        self.tracks = r.random() < (0.3 if self.style in ('city', 'town', 'mixed') else 0.12)
        self.median = r.uniform(3.0, 3.4) if self.tracks else 0.0
        self.track_bed = r.choice((TRACK_BED, ASPHALT, ASPHALT, GRASS))
        self.side_bed = r.choice((GRAVEL, GRAVEL, GRASS, TRACK_BED))
        self.parking = (r.random() < 0.34, r.random() < 0.34)
        self.cycle_lane = r.random() < 0.18
        # a tram or railway line between the sidewalk and what stands behind it, on one side
        self.side_track = r.randrange(2) if not self.tracks and r.random() < 0.2 else None
        half = self.median / 2 + lanes * self.lane
        self.lane_half = half
        self.halves = tuple(half + (2.1 if p else 0.0) + (1.4 if self.cycle_lane else r.uniform(0.1, 0.6))
                            for p in self.parking)
        self.walks = tuple(r.uniform(1.6, 5.5) if r.random() < 0.94 else 0.0 for _ in range(2))
        self.verges = tuple(r.uniform(1.0, 3.0) if r.random() < (0.5 if self.style in ('park', 'open', 'suburb') else 0.14)
                            else 0.0 for _ in range(2))
        self.kerb = r.uniform(0.08, 0.17)
        self.tree_gap = tuple(r.uniform(7, 16) if r.random() < 0.36 else 0.0 for _ in range(2))
        self.tree_bare = r.random() < 0.36
        self.lamp_gap = r.uniform(18, 35)
        self.lamp = r.randrange(16)
        self.line_color = r.choice((WHITE_LINE, WHITE_LINE, WORN_LINE, YELLOW_LINE))
        self.edge_line = r.choice((0, 0, WHITE_LINE, WORN_LINE, YELLOW_LINE))
        self.dash = r.choice(((2.0, 4.0), (4.0, 6.0), (3.0, 3.0), (6.0, 12.0), (1000.0, 0.0)))
        self.people = r.choice((0.6, 1.5, 3.0, 5.0, 9.0)) * (1.3 if self.style == 'city' else 0.8)
        self.setback = tuple(r.choice((0.0, 0.0, 0.3, 1.0, 3.0)) if self.style in ('city', 'town')
                             else r.uniform(1, 7) for _ in range(2))
        self.cross_chance = r.choice((0.15, 0.35, 0.55))
        self.metal = figures.furniture_colors(r)
        self.surface = r.choices((ASPHALT, SETTS), (94, 6))[0]

    # -- pieces -----------------------------------------------------------------------------------

    def chunk(self, index: int) -> Chunk:
        """Piece ``index``: z from index * CHUNK to (index + 1) * CHUNK."""
        r = random.Random(f'{self.key}/chunk/{index}')
        out = Chunk()
        z0, z1 = index * CHUNK, (index + 1) * CHUNK
        cross = None
        if index > 0 and r.random() < self.cross_chance:
            start = z0 + r.uniform(4, 18)
            cross = (start, start + r.uniform(7, 14))
        self._road(out, r, z0, z1, cross)
        for side in (0, 1):
            self._side(out, r, side, z0, z1, cross)
        if cross:
            self._crossing(out, r, cross)
        return out

    def edge(self, side: int) -> float:
        """The x of the kerb; side 0 is left, 1 is right."""
        return (-1, 1)[side] * self.halves[side]

    def walk_span(self, side: int) -> tuple[float, float]:
        """Distances from the kerb at which the sidewalk begins and ends."""
        return self.verges[side], self.verges[side] + self.walks[side]

    def _road(self, out: Chunk, r: random.Random, z0: float, z1: float,
              cross: tuple[float, float] | None) -> None:
        left, right = self.edge(0), self.edge(1)
        out.patches.append(rectangle(left, right, z0, z1, self.surface))
        top = out.top_patches
        for _ in range(r.randrange(4)):  # repaired places
            x, z = r.uniform(left, right - 1), r.uniform(z0, z1 - 4)
            w, n = r.uniform(0.6, 3), r.uniform(1, 12)
            top.append(rectangle(x, min(right, x + w), z, min(z1, z + n), r.choice((REPAIR, REPAIR, ASPHALT))))
        if self.tracks:
            m = self.median / 2
            if self.track_bed != ASPHALT:
                top.append(rectangle(-m, m, z0, z1, self.track_bed))
            for x in (-0.75, 0.7):
                top.append(rectangle(x, x + 0.07, z0, z1, RAIL))
        for side, s in enumerate((-1, 1)):
            if self.cycle_lane:
                x = self.lane_half + (2.1 if self.parking[side] else 0)
                top.append(rectangle(s * x, s * (x + 1.3), z0, z1, CYCLE_LANE))
                top.append(rectangle(s * x, s * (x + 0.12), z0, z1, WHITE_LINE))
            elif self.parking[side]:
                top.append(rectangle(s * self.lane_half, s * (self.lane_half + 0.1), z0, z1, WORN_LINE))
            elif self.edge_line:
                x = self.halves[side] - 0.3
                top.append(rectangle(s * x, s * (x + 0.1), z0, z1, self.edge_line))
                if self.edge_line == YELLOW_LINE:
                    top.append(rectangle(s * (x - 0.2), s * (x - 0.1), z0, z1, YELLOW_LINE))
        on, off = self.dash
        xs = [] if self.tracks else [0.0]
        for lane in range(1, self.lanes):
            xs += [self.median / 2 + lane * self.lane, -self.median / 2 - lane * self.lane]
        if self.tracks:
            xs += [self.median / 2, -self.median / 2]
        for x in xs:
            if on > 100:
                top.append(rectangle(x - 0.06, x + 0.06, z0, z1, self.line_color))
                continue
            period = on + off
            k = math.ceil(z0 / period)
            while k * period < z1:
                top.append(rectangle(x - 0.06, x + 0.06, k * period, k * period + on, self.line_color))
                k += 1
        for _ in range(r.randrange(3)):  # manholes
            x, z = r.uniform(left + 0.6, right - 0.6), r.uniform(z0, z1)
            top.append(Patch(((x - 0.3, 0, z), (x, 0, z - 0.3), (x + 0.3, 0, z), (x, 0, z + 0.3)), REPAIR))
        if r.random() < 0.25:  # an arrow in a lane
            x = self.hand * (self.median / 2 + self.lane / 2)
            z = r.uniform(z0 + 2, z1 - 6)
            top.append(rectangle(x - 0.08, x + 0.08, z, z + 2.4, WHITE_LINE))
            top.append(Patch(((x - 0.45, 0, z + 2.4), (x + 0.45, 0, z + 2.4), (x + 0.02, 0, z + 4.2),
                              (x - 0.02, 0, z + 4.2)), WHITE_LINE))

    def _crossing(self, out: Chunk, r: random.Random, cross: tuple[float, float]) -> None:
        a, b = cross
        top = out.top_patches
        top.append(rectangle(-90, 90, a, b, self.surface))
        if r.random() < 0.7:  # zebra
            for z in (a - 3.6, b + 0.6):
                x = self.edge(0) + 0.3
                while x < self.edge(1) - 0.4:
                    top.append(rectangle(x, x + 0.5, z, z + 3.0, WHITE_LINE))
                    x += 1.0
        s = self.hand
        top.append(rectangle(s * self.median / 2, s * self.lane_half, a - 4.6, a - 4.2, WHITE_LINE))
        if r.random() < 0.12:  # box junction
            left, right = self.edge(0), self.edge(1)
            n = 6
            for i in range(-n, n):
                x = left + (right - left) * i / n
                d = right - left
                top.append(Patch(((x, 0, a), (x + 0.15, 0, a), (x + d + 0.15, 0, b), (x + d, 0, b)), YELLOW_LINE))
        mid = (a + b) / 2
        for side, s in enumerate((-1, 1)):
            corner = s * (self.halves[side] + 0.5)
            lights = r.random() < 0.6
            for z, yaw in ((a - 0.8, 0.0), (b + 0.8, 0.0)):
                if lights:
                    out.things.append(self._light(r, corner, z, s))
                elif r.random() < 0.6:
                    out.things.append(self._sign(r, corner, z))
            for _ in range(r.choice((0, 0, 1, 1, 2))):  # cars that wait or cross
                x = self.halves[side] + r.uniform(2, 22)
                layer = HOUSE if x > self._origin(side) else WALK
                out.things.append(self.vehicle(r, s * x, mid - s * self.hand * (b - a) * 0.22,
                                               (-s) * math.pi / 2, layer, ('car',) * 9 + ('truck', 'bus')))
            far = s * r.uniform(45, 70)
            out.panels.append(self._front(r, far, a - 6, b + 6, HOUSE))
            if r.random() < 0.6:
                out.plants.append(self._tree(r, s * r.uniform(20, 40), b + 1.5, YARD))
        for _ in range(r.choice((0, 0, 1, 2, 3)) if self.people > 1 else 0):
            x = r.uniform(self.edge(0), self.edge(1))
            out.things.append(self._person(r, x, a - r.uniform(1, 3), ROADWAY, True))
            step = (math.floor((abs(x) - self.median / 2) / self.lane) + 0.5) * self.lane + self.median / 2
            out.things[-1].lane = math.copysign(max(0.0, step), x) if abs(x) > self.median / 2 else 0.0

    # -- what stands beside the road --------------------------------------------------------------

    def _side(self, out: Chunk, r: random.Random, side: int, z0: float, z1: float,
              cross: tuple[float, float] | None) -> None:
        s = (-1, 1)[side]
        edge = self.halves[side]
        begin, end = self.walk_span(side)
        h = self.kerb if end else 0.0
        lot = {'city': PLAZA, 'town': PLAZA}.get(self.style, GRASS)
        out.patches.append(rectangle(s * (edge + end), s * 120, z0, z1, lot, 0.0))
        if side == self.side_track:
            x = self.track_x(side)
            out.patches.append(rectangle(x - TRACK_HALF, x + TRACK_HALF, z0, z1, self.side_bed))
            for rail in (-0.72, 0.68):
                out.top_patches.append(rectangle(x + rail, x + rail + 0.07, z0, z1, RAIL))
        spans = [(z0, z1)] if not cross else [(z0, cross[0]), (cross[1], z1)]
        for a, b in spans:
            if end:
                if begin:
                    out.patches.append(rectangle(s * edge, s * (edge + begin), a, b, GRASS, h))
                out.patches.append(rectangle(s * (edge + begin), s * (edge + end), a, b, PAVEMENT, h))
                out.patches.append(Patch(((s * edge, 0, a), (s * edge, h, a), (s * edge, h, b), (s * edge, 0, b)), KERB))
                out.patches.append(rectangle(s * edge, s * (edge + 0.14), a, b, KERB, h))
            self._blocks(out, r, side, a, b)
            self._furnish(out, r, side, a, b, h)
        if r.random() < 0.5 and self.walks[side]:
            self._parked_bicycles(out, r, side, r.uniform(z0, z1 - 6), h, cross)

    def _blocks(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        weights = {'city': (80, 4, 4, 4, 4, 4), 'town': (72, 7, 7, 7, 3, 4), 'suburb': (60, 12, 10, 12, 3, 3),
                   'park': (8, 48, 14, 16, 12, 2), 'open': (6, 20, 8, 14, 50, 2), 'mixed': (46, 14, 13, 13, 8, 6)}
        z = a
        while z < b - 3:
            kind = r.choices(('house', 'trees', 'wall', 'fence', 'open', 'lot'), weights[self.style])[0]
            length = min(b - z, r.uniform(10, 26))
            if b - z - length < 5:
                length = b - z
            getattr(self, f'_block_{kind}')(out, r, side, z, z + length)
            z += length

    def _origin(self, side: int) -> float:
        track = 2 * TRACK_HALF if side == self.side_track else 0.0
        return self.halves[side] + self.walk_span(side)[1] + track

    def track_x(self, side: int) -> float:
        """The x of the line beside the street."""
        return (-1, 1)[side] * (self.halves[side] + self.walk_span(side)[1] + TRACK_HALF)

    def _block_house(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s = (-1, 1)[side]
        base = self._origin(side)
        back = self.setback[side] * r.uniform(0.8, 1.2)
        if back > 1.5:
            ground = r.choice((GRASS, GRASS, PLAZA, GRAVEL, SOIL))
            out.patches.append(rectangle(s * base, s * (base + back), a, b, ground))
            roll = r.random()
            if roll < 0.3:
                out.panels.append(self._strip(r, s * base, a, b, 'fence'))
            elif roll < 0.5:
                out.panels.append(self._strip(r, s * base, a, b, 'wall', r.uniform(0.5, 1.2)))
            elif roll < 0.68:
                out.panels.append(self._strip(r, s * base, a, b, 'hedge'))
            if r.random() < 0.5:
                out.plants.append(self._tree(r, s * (base + back * 0.5), r.uniform(a, b), YARD, 0.7))
            if r.random() < 0.6:
                out.plants.append(self._bush(r, s * (base + back * 0.6), r.uniform(a, b)))
        z = a
        while z < b - 2.5:
            length = min(b - z, r.uniform(6, 18))
            if b - z - length < 4:
                length = b - z
            self._house(out, r, side, base + back, z, z + length)
            z += length

    def _house(self, out: Chunk, r: random.Random, side: int, offset: float, a: float, b: float) -> None:
        s = (-1, 1)[side]
        x = s * offset
        texture = textures.facade(r.randrange(textures.NUM_FACADES))
        gain = r.uniform(0.68, 1.32)
        tint = tuple(gain * r.uniform(0.94, 1.06) for _ in range(3))
        high = texture.height * r.uniform(0.95, 1.05)
        deep = r.uniform(8, 16)
        n = max(1, round((b - a) / texture.width * r.uniform(0.9, 1.1)))
        other = texture if r.random() < 0.4 else textures.facade(r.randrange(textures.NUM_FACADES))
        m = max(1, round(deep / other.width))
        side_tint = tuple(t * r.uniform(0.8, 1.0) for t in tint)
        out.panels.append(Panel((x + s * deep, 0.0, a) if s < 0 else (x, 0.0, a), (deep, 0, 0), (0, high, 0), other,
                                (m, high / other.height), BUILDING, HOUSE, side_tint))
        z0, z1 = (a, b)
        if r.random() < (0.7 if texture.height < 12 else 0.15):  # a pitched roof
            rise = min(deep * 0.5 * r.uniform(0.5, 1.0), 5)
            tone = tuple(c * g for c, g in zip(textures.facade_tone(other), side_tint, strict=True))
            roof = textures.roof(r.randrange(textures.NUM_ROOFS))
            g = MeshBuilder(BUILDING)
            ridge = s * deep * 0.5
            g.quad([(0, high, 0), (2 * ridge, high, 0), (ridge * 1.04, high + rise, 0),
                    (ridge * 0.96, high + rise, 0)], 0)
            if r.random() < 0.6:
                c = r.uniform(0.1, 0.8) * (b - a)
                g.box((ridge - 0.4, ridge + 0.4), (high + rise - 1, high + rise + r.uniform(0.6, 1.4)),
                      (c, c + r.uniform(0.6, 1.4)), (0,))
            out.things.append(Thing(g.build(), x, a, 0, [tone], HOUSE))
            up = (s * (deep / 2 + 0.3), rise + 0.15, 0.0)
            out.panels.append(Panel((x - s * 0.3, high - 0.15, z0), (0, 0, z1 - z0), up, roof,
                                    ((b - a) / 4, math.hypot(deep / 2, rise) / 4), BUILDING, HOUSE,
                                    (gain, gain, gain), one_sided=True))
        out.panels.append(Panel((x, 0.0, z0), (0.0, 0.0, z1 - z0), (0, high, 0), texture, (n, high / texture.height), BUILDING,
                                HOUSE, tint))
        out.shades.append((min(x, x + s * deep), max(x, x + s * deep), a, b, high))

    def _front(self, r: random.Random, x: float, a: float, b: float, layer: int) -> Panel:
        texture = textures.facade(r.randrange(textures.NUM_FACADES))
        return Panel((x, 0.0, a), (0.0, 0.0, b - a), (0, texture.height, 0), texture,
                     (max(1, round((b - a) / texture.width)), 1), BUILDING, layer, (1.0, 1.0, 1.0))

    def _strip(self, r: random.Random, x: float, a: float, b: float, kind: str,
               height: float | None = None) -> Panel:
        if kind == 'fence':
            texture, label = textures.fence(r.randrange(textures.NUM_FENCES)), FENCE
        elif kind == 'wall':
            texture, label = textures.wall(r.randrange(textures.NUM_WALLS)), WALL
        else:
            texture, label = plants.hedge(r.randrange(plants.NUM_HEDGES)), VEGETATION
        high = height if height is not None else texture.height
        gain = r.uniform(0.75, 1.15)
        return Panel((x, 0.0, a), (0.0, 0.0, b - a), (0, high, 0), texture,
                     ((b - a) / texture.width, min(1.0, high / texture.height)), label, BOUNDARY,
                     (gain, gain * r.uniform(0.97, 1.02), gain * r.uniform(0.94, 1.04)))

    def _block_trees(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s, base = (-1, 1)[side], self._origin(side)
        out.patches.append(rectangle(s * base, s * (base + 40), a, b, r.choice((GRASS, GRASS, GRASS, SOIL))))
        for _ in range(r.randint(2, 5)):
            out.plants.append(self._tree(r, s * (base + r.uniform(1.5, 14)), r.uniform(a, b), YARD))
        for _ in range(r.randrange(4)):
            out.plants.append(self._bush(r, s * (base + r.uniform(1, 12)), r.uniform(a, b)))
        if r.random() < 0.35:
            out.panels.append(self._strip(r, s * (base + 0.2), a, b, r.choice(('fence', 'fence', 'hedge'))))

    def _block_wall(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s, base = (-1, 1)[side], self._origin(side)
        x = s * (base + r.choice((0.1, 0.1, 1.5)))
        out.patches.append(rectangle(s * base, x, a, b, r.choice((GRASS, PLAZA, SOIL))))
        panel = self._strip(r, x, a, b, 'wall')
        out.panels.append(panel)
        near = Panel((min(x, x + s * 0.35), 0, a), (0.35, 0, 0), panel.up, panel.texture, (0.1, panel.repeat[1]), WALL, BOUNDARY,
                     panel.tint)
        out.panels.append(near)
        out.shades.append((min(x, x + s * 0.3), max(x, x + s * 0.3), a, b, panel.up[1]))
        for _ in range(r.randint(1, 4)):
            out.plants.append(self._tree(r, x + s * r.uniform(2, 9), r.uniform(a, b), YARD))
        if r.random() < 0.45:
            self._house(out, r, side, abs(x) + r.uniform(6, 14), a + 1, b - 1)

    def _block_fence(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s, base = (-1, 1)[side], self._origin(side)
        x = s * (base + r.choice((0.1, 0.1, 1.2)))
        out.patches.append(rectangle(s * base, s * (base + 30), a, b, r.choice((GRASS, GRASS, GRAVEL, SOIL, PLAZA))))
        out.panels.append(self._strip(r, x, a, b, 'fence'))
        roll = r.random()
        if roll < 0.5:
            self._house(out, r, side, abs(x) + r.uniform(5, 14), a + 0.5, b - 0.5)
        for _ in range(r.randint(0, 3) if roll < 0.5 else r.randint(2, 4)):
            out.plants.append(self._tree(r, x + s * r.uniform(1.5, 10), r.uniform(a, b), YARD))
        for _ in range(r.randrange(3)):
            out.plants.append(self._bush(r, x + s * r.uniform(0.6, 3), r.uniform(a, b)))

    def _block_open(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s, base = (-1, 1)[side], self._origin(side)
        out.patches.append(rectangle(s * base, s * 120, a, b, r.choice((GRASS, GRASS, GRASS, SOIL, GRAVEL))))
        for _ in range(r.choice((0, 0, 1, 2))):
            out.plants.append(self._tree(r, s * (base + r.uniform(6, 40)), r.uniform(a, b), YARD))
        for _ in range(r.randrange(3)):
            out.plants.append(self._bush(r, s * (base + r.uniform(2, 30)), r.uniform(a, b)))

    def _block_lot(self, out: Chunk, r: random.Random, side: int, a: float, b: float) -> None:
        s, base = (-1, 1)[side], self._origin(side)
        out.patches.append(rectangle(s * base, s * (base + 24), a, b, ASPHALT))
        z = a + 1.4
        while z < b - 1.2:
            if r.random() < 0.75:
                out.things.append(self.vehicle(r, s * (base + r.uniform(3.2, 3.8)), z, r.choice((-1, 1)) * math.pi / 2, YARD,
                                               ('car',) * 9 + ('truck',)))
            z += 2.7
        for z in (a, b):
            out.patches.append(rectangle(s * (base + 1), s * (base + 5.5), z - 0.05, z + 0.05, WHITE_LINE))
        if r.random() < 0.7:
            self._house(out, r, side, base + r.uniform(14, 24), a, b)
        else:
            for _ in range(4):
                out.plants.append(self._tree(r, s * (base + r.uniform(14, 24)), r.uniform(a, b), HOUSE))

    def _furnish(self, out: Chunk, r: random.Random, side: int, a: float, b: float, h: float) -> None:
        s, edge = (-1, 1)[side], self.halves[side]
        begin, end = self.walk_span(side)
        phase = r.uniform(0, 4)
        gap = self.lamp_gap
        k = math.ceil((a + 1) / gap)
        while k * gap < b - 1:
            if (k + side) % 2 == 0 or self.style == 'city':
                mesh = figures.lamp(self.lamp)
                out.things.append(Thing(mesh, s * (edge + 0.5), k * gap, 0.0 if s < 0 else math.pi, self.metal, WALK, y=h,
                                        shadow=(0.1, 0.1), tall=6, lamp=True))
            k += 1
        if self.tree_gap[side]:
            x = edge + (begin / 2 if begin else min(0.9, max(0.5, end * 0.3)))
            z = a + phase
            while z < b - 1:
                if r.random() < 0.85:
                    out.plants.append(self._tree(r, s * x, z, WALK, 0.85, h))
                z += self.tree_gap[side] * r.uniform(0.85, 1.15)
        for _ in range(r.choice((0, 0, 1, 1, 2))):
            out.things.append(self._sign(r, s * (edge + 0.45), r.uniform(a, b), h))
        if r.random() < 0.16:
            out.things.append(self._light(r, s * (edge + 0.45), r.uniform(a, b), s, h))
        if r.random() < 0.12:  # bollards
            z = r.uniform(a, b)
            for i in range(r.randint(3, 8)):
                out.things.append(Thing(figures.lamp(7), s * (edge + 0.4), z + 1.6 * i, 0, self.metal, WALK, y=h))
        if r.random() < 0.1:  # a railing along the kerb
            z = r.uniform(a, b)
            panel = self._strip(r, s * (edge + 0.25), z, min(b, z + r.uniform(5, 14)), 'fence')
            panel.layer = WALK
            out.panels.append(panel)
        if self.walks[side]:
            count = self.people * (b - a) / CHUNK * r.uniform(0.3, 1.6)
            count = int(count) + (r.random() < count % 1)
            while count > 0:
                x, z = s * (edge + r.uniform(begin + 0.4, max(begin + 0.5, end - 0.3))), r.uniform(a, b)
                for _ in range(min(count, r.choice((1, 1, 1, 2, 2, 3)))):
                    out.things.append(self._person(r, x, z, WALK, r.random() < 0.2, h))
                    x, z, count = x + r.uniform(-0.7, 0.7), z + r.uniform(-0.6, 0.6), count - 1
        if self.parking[side]:
            x = s * (self.lane_half + 1.08)
            z = a + r.uniform(0, 6)
            full = r.uniform(0.35, 0.95)
            while z < b - 4:
                if r.random() < full:
                    roll = r.random()
                    if roll < 0.06:
                        out.things.append(self.vehicle(r, x, z + 2, 0.2, ROADWAY, ('motorcycle',)))
                        out.things[-1].lane = x
                        z += 1.4
                        continue
                    kind = 'car' if roll < 0.975 else 'truck'
                    thing = self.vehicle(r, x, z + (2.4 if kind == 'car' else 4.4), 0.0, ROADWAY, (kind,))
                    thing.lane = x
                    thing.yaw = (0.0 if r.random() < 0.75 else math.pi) + (0.0 if s == self.hand else math.pi) + r.gauss(0, 0.02)
                    out.things.append(thing)
                    z += 5.4 if kind == 'car' else 9.5
                else:
                    z += r.uniform(3, 7)

    def _parked_bicycles(self, out: Chunk, r: random.Random, side: int, z: float, h: float,
                         cross: tuple[float, float] | None) -> None:
        s, edge = (-1, 1)[side], self.halves[side]
        begin, end = self.walk_span(side)
        x = edge + (r.uniform(0.6, 1.0) if r.random() < 0.5 else max(0.6, end - 0.7))
        motor = r.random() < 0.3
        across = r.random() < 0.6
        for i in range(r.randint(1, 7)):
            zi = z + i * (0.65 if across else 1.9)
            if cross and cross[0] - 1 < zi < cross[1] + 1:
                continue
            yaw = (math.pi / 2 * s if across else 0.0) + r.gauss(0, 0.12)
            mesh = figures.motorcycle(r.randrange(8), False) if motor else figures.bicycle(r.randrange(4), None)
            out.things.append(Thing(mesh, s * x, zi, yaw, figures.clothes(r), WALK, y=h, shadow=(0.3, 0.7)))

    # -- single things ----------------------------------------------------------------------------

    def _tree(self, r: random.Random, x: float, z: float, layer: int, size: float = 1.0, y: float = 0.0) -> Foliage:
        bare = r.random() < (0.85 if self.tree_bare else 0.08)
        plant = plants.bare(r.randrange(plants.NUM_BARE)) if bare else plants.leafy(r.randrange(plants.NUM_LEAFY))
        height = r.uniform(5, 12) * size
        dark, bright = plants.foliage_color(r)
        return Foliage(plant, x, z, height * plant.aspect, height, dark, bright, layer, y)

    def _bush(self, r: random.Random, x: float, z: float) -> Foliage:
        plant = plants.bush(r.randrange(plants.NUM_BUSHES))
        height = r.uniform(0.7, 2.6)
        dark, bright = plants.foliage_color(r)
        return Foliage(plant, x, z, height * plant.aspect, height, dark, bright, YARD)

    def _sign(self, r: random.Random, x: float, z: float, y: float = 0.0) -> Thing:
        return Thing(figures.sign(r.randrange(48)), x, z, r.gauss(0, 0.2), figures.furniture_colors(r), WALK, y=y,
                     shadow=(0.15, 0.1))

    def _light(self, r: random.Random, x: float, z: float, s: int, y: float = 0.0) -> Thing:
        return Thing(figures.traffic_light(r.randrange(32), r.choice((0, 0, 2, 2, 1))), x, z,
                     0.0 if s < 0 else r.gauss(0, 0.1), figures.furniture_colors(r), WALK, y=y, shadow=(0.15, 0.1))

    def _person(self, r: random.Random, x: float, z: float, layer: int, across: bool, y: float = 0.0) -> Thing:
        number, phase = r.randrange(figures.NUM_PEOPLE), r.random()
        mesh = figures.person(number, int(phase * figures.NUM_PHASES), across)
        standing = number % 5 == 4
        direction = r.choice((-1, 1))
        speed = 0.0 if standing or across else direction * r.uniform(0.9, 1.6)
        return Thing(mesh, x, z, 0.0, figures.clothes(r), layer, y=y, shadow=(0.28, 0.2), tall=1.7,
                     walk=(number, across, phase), speed=speed)

    def vehicle(self, r: random.Random, x: float, z: float, yaw: float, layer: int, kinds: tuple[str, ...],
                h: float = 0.0) -> Thing:
        """A random vehicle of one of the kinds; a kind that is named twice comes twice as often."""
        kind = r.choice(kinds)
        if kind == 'car':
            return Thing(vehicles.car(r.randrange(64)), x, z, yaw, vehicles.paint(r), layer, y=h, shadow=(0.95, 2.3), tall=1.4)
        if kind == 'truck':
            return Thing(vehicles.truck(r.randrange(32)), x, z, yaw, vehicles.paint(r, 'large'), layer, y=h, shadow=(1.2, 3.6),
                         tall=3)
        if kind == 'bus':
            return Thing(vehicles.bus(r.randrange(24)), x, z, yaw, vehicles.paint(r, 'large'), layer, y=h, shadow=(1.25, 5.4),
                         tall=3)
        if kind == 'train':
            return Thing(vehicles.train(r.randrange(24)), x, z, yaw, vehicles.paint(r, 'large'), layer, y=h, shadow=(1.25, 12),
                         tall=3.3)
        if kind == 'cyclist':
            number, phase = r.randrange(4), r.randrange(figures.NUM_PHASES)
            return Thing(figures.bicycle(number, phase), x, z, yaw, figures.clothes(r), layer, y=h, shadow=(0.3, 0.8), tall=1.6,
                         ride=number)
        if kind == 'motorcyclist':
            return Thing(figures.motorcycle(r.randrange(8), True), x, z, yaw, figures.clothes(r), layer, y=h,
                         shadow=(0.35, 1.0), tall=1.5)
        if kind == 'motorcycle':
            return Thing(figures.motorcycle(r.randrange(8), False), x, z, yaw, figures.clothes(r), layer, y=h,
                         shadow=(0.35, 1.0))
        raise ValueError(f'no vehicle {kind!r}')

    # -- traffic and background -------------------------------------------------------------------

    def traffic(self, r: random.Random, z: float, reach: float) -> list[Thing]:
        """Everything that drives, between ``z`` and ``z + reach``."""
        out: list[Thing] = []
        kinds = ('car',) * 24 + ('truck', 'truck', 'bus', 'motorcyclist')
        for direction in (1, -1):
            for lane in range(self.lanes):
                x = direction * self.hand * (self.median / 2 + (lane + 0.5) * self.lane)
                at = z + (r.uniform(7, 45) if direction > 0 else r.uniform(2, 40))
                density = r.choice((10, 20, 40, 80))
                while at < z + reach:
                    out.append(self.driver(r, x, at, direction, kinds))
                    at += 7 + r.expovariate(1 / density)
        for direction in (1, -1):  # two-wheelers at the edge of the road
            for _ in range(r.choice((0, 0, 0, 0, 1, 1, 2))):
                x = direction * self.hand * (self.lane_half - 0.3)
                thing = self.driver(r, x + r.gauss(0, 0.2), z + r.uniform(6, 60), direction,
                                     ('cyclist', 'cyclist', 'motorcyclist'))
                thing.lane = direction * self.hand * (self.median / 2 + (self.lanes - 0.5) * self.lane)
                out.append(thing)
        if self.tracks and r.random() < 0.8:
            out.append(self.driver(r, 0.0, z + r.uniform(18, 60), r.choice((1, -1)), ('train',)))
        return out

    def driver(self, r: random.Random, x: float, z: float, direction: int, kinds: tuple[str, ...]) -> Thing:
        """A vehicle that drives in the lane at ``x``, along +z (direction 1) or against it (-1)."""
        yaw = (0.0 if direction > 0 else math.pi) + r.gauss(0, 0.02)
        thing = self.vehicle(r, x + r.gauss(0, 0.15), z, yaw, ROADWAY, kinds)
        thing.lane = x
        thing.speed = r.uniform(4, 6) if thing.ride is not None else r.uniform(7, 12)
        return thing

    def specials(self, r: random.Random, z: float) -> Chunk:
        """A few near things, so that no class is too rare to be learnt."""
        out = Chunk()
        s = self.hand
        lane = self.median / 2 + (self.lanes - 0.5) * self.lane
        for kind, chance in (('bus', 0.1), ('truck', 0.08), ('motorcyclist', 0.12), ('cyclist', 0.16)):
            if r.random() < chance:
                direction = r.choice((1, -1))
                shift = self.lane * 0.3 if kind in ('motorcyclist', 'cyclist') else 0
                thing = self.driver(r, direction * s * (lane + shift), z + r.uniform(9, 32), direction, (kind,))
                thing.lane = direction * s * lane
                out.things.append(thing)
        side = r.randrange(2)
        sign = (-1, 1)[side]
        base = self._origin(side)
        if self.side_track is not None and r.random() < 0.85:
            train = self.vehicle(r, self.track_x(self.side_track), z + r.uniform(14, 40), r.choice((0.0, math.pi)),
                                 BOUNDARY, ('train',))
            train.lane, train.speed = None, r.uniform(8, 12)
            out.things.append(train)
        if r.random() < 0.12:
            x = (-1, 1)[1 - side] * (self._origin(1 - side) + 0.15)
            a = z + r.uniform(5, 16)
            panel = self._strip(r, x, a, a + r.uniform(8, 20), r.choice(('wall', 'fence')))
            out.panels.append(panel)
        if r.random() < 0.12:
            out.things.append(self._light(r, sign * (self.halves[side] + 0.4), z + r.uniform(7, 22), sign, self.kerb))
        if r.random() < 0.15:
            zi = z + r.uniform(5, 20)
            self._parked_bicycles(out, r, side, zi, self.kerb if self.walks[side] else 0, None)
        return out

    def skyline(self, r: random.Random, z: float) -> Chunk:
        """Trees and houses far ahead that close the view."""
        out = Chunk()
        town = {'city': 0.75, 'town': 0.6, 'suburb': 0.35, 'mixed': 0.45}.get(self.style, 0.12)
        x = -150.0
        while x < 150:
            width = r.uniform(10, 30)
            at = z + r.uniform(0, 40)
            if r.random() < town:
                texture = textures.facade(r.randrange(textures.NUM_FACADES))
                out.panels.append(Panel((x, 0, at), (width, 0, 0), (0, texture.height * r.uniform(0.8, 1.6), 0), texture,
                                        (max(1, round(width / texture.width)), 1), BUILDING, SKYLINE))
            else:
                dark, bright = plants.foliage_color(r)
                for i in range(2):
                    bare = self.tree_bare and r.random() < 0.5
                    plant = plants.bare(r.randrange(plants.NUM_BARE)) if bare else plants.bush(r.randrange(plants.NUM_BUSHES))
                    high = r.uniform(6, 14)
                    out.plants.append(Foliage(plant, x + width * (0.3 + 0.5 * i), at, max(width * 0.8, high), high, dark, bright, SKYLINE,
                                              -0.5))
            x += width * r.uniform(0.5, 0.9)
        return out

    def end(self, r: random.Random, z: float) -> Chunk:
        """A street across at ``z`` with houses or a park behind it: here the street ends."""
        out = Chunk()
        out.top_patches.append(rectangle(-90, 90, z - 8, z, self.surface))
        out.top_patches.append(rectangle(-90, 90, z, z + 0.2, KERB, self.kerb))
        out.top_patches.append(rectangle(-90, 90, z + 0.2, z + 4, PAVEMENT, self.kerb))
        built = r.random() < 0.7
        out.top_patches.append(rectangle(-90, 90, z + 4, z + 60, PLAZA if built else GRASS))
        x = -90.0
        while x < 90:
            width = r.uniform(7, 18)
            if built and r.random() < 0.93:
                texture = textures.facade(r.randrange(textures.NUM_FACADES))
                n = max(1, round(width / texture.width))
                gain = r.uniform(0.7, 1.3)
                out.panels.append(Panel((x, 0.0, z + 4.5), (width, 0, 0), (0, texture.height, 0), texture,
                                        (n, 1), BUILDING, HOUSE, (gain, gain, gain)))
            elif not built:
                for _ in range(2):
                    out.plants.append(self._tree(r, x + r.uniform(0, width), z + r.uniform(6, 20), HOUSE, 1.2))
                if r.random() < 0.5:
                    panel = self._strip(r, 0, 0, width, r.choice(('fence', 'wall', 'hedge')))
                    panel.corner, panel.right = (x, 0.0, z + 4.2), (width, 0.0, 0.0)
                    out.panels.append(panel)
            x += width
        for _ in range(r.randrange(5)):
            out.things.append(self._person(r, r.uniform(-20, 20), z + r.uniform(1, 3.5), WALK, r.random() < 0.6, self.kerb))
        for _ in range(r.randrange(4)):
            out.things.append(self.vehicle(r, r.uniform(-20, 20), z - r.choice((2.2, 5.8)), r.choice((-1, 1)) * math.pi / 2,
                                           WALK, ('car',) * 6 + ('bus', 'truck', 'cyclist')))
        return out
