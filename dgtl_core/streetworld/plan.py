# SPDX-License-Identifier: Apache-2.0
"""The plan of a random street: how wide, with what beside it."""

from __future__ import annotations

import random

from dgtl_core.streetworld import furniture
from dgtl_core.streetworld.scene import (
    ASPHALT,
    GRASS,
    GRAVEL,
    SETTS,
    TRACK_BED,
    WHITE_LINE,
    WORN_LINE,
    YELLOW_LINE,
)

CHUNK = 40.0  # metres; the length of a piece of street
TRACK_HALF = 2.2  # metres; half the width of a line beside the street


class Street:
    """
    A street that goes on for ever: the same key gives the same street, piece by piece.

    The road lies around x = 0. Traffic with the camera moves along +z on the side ``hand`` (+1:
    right-hand traffic). Side 0 is left, 1 is right.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        r = random.Random(f'{key}/street')
        self.hand = r.choice((-1, 1))
        self.style = r.choices(('city', 'town', 'suburb', 'park', 'open', 'mixed'),
                               (32, 26, 15, 7, 6, 14))[0]
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
        self.halves = tuple(half + (2.1 if p else 0.0)
                            + (1.4 if self.cycle_lane else r.uniform(0.1, 0.6))
                            for p in self.parking)
        self.walks = tuple(r.uniform(1.6, 5.5) if r.random() < 0.94 else 0.0 for _ in range(2))
        self.verges = tuple(r.uniform(1.0, 3.0) if r.random()
                            < (0.5 if self.style in ('park', 'open', 'suburb') else 0.14) else 0.0
                            for _ in range(2))
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
        self.metal = furniture.furniture_colors(r)
        self.surface = r.choices((ASPHALT, SETTS), (94, 6))[0]

    def edge(self, side: int) -> float:
        """The x of the kerb; side 0 is left, 1 is right."""
        return (-1, 1)[side] * self.halves[side]

    def walk_span(self, side: int) -> tuple[float, float]:
        """Distances from the kerb at which the sidewalk begins and ends."""
        return self.verges[side], self.verges[side] + self.walks[side]

    def origin(self, side: int) -> float:
        """The distance from the middle of the road at which houses and yards begin."""
        track = 2 * TRACK_HALF if side == self.side_track else 0.0
        return self.halves[side] + self.walk_span(side)[1] + track

    def track_x(self, side: int) -> float:
        """The x of the line beside the street."""
        return (-1, 1)[side] * (self.halves[side] + self.walk_span(side)[1] + TRACK_HALF)
