# SPDX-License-Identifier: Apache-2.0
"""A street, built piece by piece along z."""

from __future__ import annotations

import random

from dgtl_core.streetworld.plan import CHUNK, Street
from dgtl_core.streetworld.roadside import side
from dgtl_core.streetworld.roadway import crossing, road
from dgtl_core.streetworld.scene import Chunk


def chunk(street: Street, index: int) -> Chunk:
    """Piece ``index``: z from index * CHUNK to (index + 1) * CHUNK."""
    r = random.Random(f'{street.key}/chunk/{index}')
    out = Chunk()
    z0, z1 = index * CHUNK, (index + 1) * CHUNK
    cross = None
    if index > 0 and r.random() < street.cross_chance:
        start = z0 + r.uniform(4, 18)
        cross = (start, start + r.uniform(7, 14))
    road(street, out, r, z0, z1, cross)
    for number in (0, 1):
        side(street, out, r, number, z0, z1, cross)
    if cross:
        crossing(street, out, r, cross)
    return out
