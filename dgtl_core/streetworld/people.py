# SPDX-License-Identifier: Apache-2.0
"""People on foot, and what people wear."""

from __future__ import annotations

from functools import lru_cache
import math
import random

from dgtl_core.streetworld.meshes import Color, Mesh, MeshBuilder
from dgtl_core.streetworld.scene import PERSON

NUM_PEOPLE, NUM_PHASES = 12, 8

# colours of people, by slot; the frame and the wheels of a two-wheeler follow
SKIN, HAIR, TOP, SLEEVE, LEGS, LEGS_BACK, SHOES, BAG, FRAME, WHEEL, SPOKES, METAL, LAMP = range(13)


def clothes(rng: random.Random) -> list[Color]:
    """Colours of one person (and the two-wheeler) by slot."""
    skin = rng.choice(((186, 146, 122), (170, 128, 104), (120, 84, 64), (82, 58, 46),
                       (200, 160, 138)))
    hair = rng.choice(((34, 28, 24), (60, 44, 32), (110, 84, 56), (28, 28, 30), (120, 116, 112),
                       (150, 40, 40)))
    dark = rng.choice(((30, 30, 34), (44, 44, 50), (36, 42, 60), (66, 60, 56), (26, 30, 32)))
    vivid = rng.choice(((140, 36, 36), (40, 62, 120), (150, 140, 120), (180, 176, 170),
                        (54, 96, 62), (170, 120, 40), (120, 60, 100), (190, 190, 60),
                        (200, 90, 40)))
    top = dark if rng.random() < 0.58 else vivid
    legs = rng.choice(((34, 36, 44), (46, 56, 80), (28, 28, 30), (90, 84, 74), (60, 60, 64),
                       (120, 112, 96)))
    frame = rng.choice(((30, 30, 32), (120, 30, 30), (40, 60, 110), (150, 150, 150), (50, 90, 60),
                        (170, 160, 60)))
    gain = rng.uniform(0.75, 1.15)
    colors = [skin, hair, top, tuple(c * 0.8 for c in top), legs, tuple(c * 0.68 for c in legs),
              (28, 26, 26),
              rng.choice(((70, 48, 36), (30, 30, 34), (130, 40, 40), (160, 150, 130))), frame,
              (26, 26, 28), (88, 88, 88), (132, 134, 136), (215, 215, 205)]
    return [tuple(min(245.0, c * gain) for c in color) for color in colors]


@lru_cache(maxsize=NUM_PEOPLE * NUM_PHASES * 2)
def person(index: int, phase: int, side: bool) -> Mesh:
    """
    A walking or standing person, drawn flat, facing the camera (normal to z).

    ``phase`` of 0..7 moves the legs; ``side`` draws the person walking across.
    """
    rng = random.Random(f'person {index}')
    height = rng.uniform(1.55, 1.9) if index % 6 else rng.uniform(1.0, 1.3)
    broad = rng.uniform(0.19, 0.27) * (0.8 if side else 1) * height / 1.75
    hip, shoulder = height * rng.uniform(0.46, 0.5), height * rng.uniform(0.8, 0.83)
    standing = index % 5 == 4
    swing = 0.0 if standing else math.sin(math.tau * phase / NUM_PHASES)
    b = MeshBuilder(PERSON)

    def limb(p: tuple[float, float], q: tuple[float, float], thick: float, thin: float,
             slot: int) -> None:
        length = math.hypot(q[0] - p[0], q[1] - p[1]) or 1
        nx, ny = (q[1] - p[1]) / length, -(q[0] - p[0]) / length
        b.quad([(p[0] - nx * thick, p[1] - ny * thick, 0),
                (p[0] + nx * thick, p[1] + ny * thick, 0), (q[0] + nx * thin, q[1] + ny * thin, 0),
                (q[0] - nx * thin, q[1] - ny * thin, 0)], slot)

    stride = height * (0.2 if side else 0.03) * swing
    lift = height * 0.05 * abs(swing)
    coat = index % 4 == 1
    for sign, slot in ((-1, LEGS_BACK), (1, LEGS)):
        x = sign * stride + sign * broad * (0.15 if side else 0.42)
        foot = lift if sign * swing > 0 else 0
        knee = (x * 0.6 + (0.04 if side else 0), hip * 0.5 + foot)
        limb((sign * broad * (0.1 if side else 0.4), hip + 0.06), knee, height * 0.052,
             height * 0.044, slot)
        limb(knee, (x, 0.06 + foot), height * 0.044, height * 0.034, slot)
        limb((x - 0.04, 0.035 + foot), (x + (0.14 if side else 0.05), 0.035 + foot), 0.04, 0.04,
             SHOES)
    arm = height * 0.15 * swing if side else 0.0
    for sign in (-1, 1):
        x = sign * broad * (0.2 if side else 1.12)
        elbow = (x * 1.12 + sign * arm * 0.5, (hip + shoulder) / 2 + 0.02)
        hand = (x * 1.05 + sign * arm, hip - 0.02)
        limb((sign * broad * (0.1 if side else 0.9), shoulder - 0.03), elbow, height * 0.034,
             height * 0.03, SLEEVE)
        limb(elbow, hand, height * 0.03, height * 0.022, SLEEVE)
        b.disc((hand[0], hand[1], 0), 0.04, 'z', SKIN, None, 6)
    bottom = hip - height * (0.14 if coat else 0.02)
    b.quad([(-broad * 0.88, bottom, 0), (broad * 0.88, bottom, 0),
            (broad * 0.82, hip + (shoulder - hip) * 0.5, 0),
            (-broad * 0.82, hip + (shoulder - hip) * 0.5, 0)], TOP)
    b.quad([(-broad * 0.82, hip + (shoulder - hip) * 0.45, 0),
            (broad * 0.82, hip + (shoulder - hip) * 0.45, 0), (broad, shoulder - 0.04, 0),
            (-broad, shoulder - 0.04, 0)], TOP)
    b.quad([(-broad, shoulder - 0.05, 0), (broad, shoulder - 0.05, 0),
            (broad * 0.45, shoulder + 0.035, 0), (-broad * 0.45, shoulder + 0.035, 0)], TOP)
    b.quad([(0.0, bottom, 0), (broad * 0.88, bottom, 0), (broad, shoulder - 0.05, 0),
            (broad * 0.5, shoulder - 0.05, 0)], SLEEVE)
    if index % 3 == 0:
        b.quad([(-broad * 1.25, hip - 0.1, 0), (-broad * 0.6, hip - 0.1, 0),
                (-broad * 0.6, hip + 0.22, 0), (-broad * 1.15, hip + 0.22, 0)], BAG)
    b.quad([(-0.05, shoulder, 0), (0.05, shoulder, 0), (0.05, shoulder + 0.12, 0),
            (-0.05, shoulder + 0.12, 0)], SKIN)
    top = height - 0.11
    b.disc((0, top, 0), 0.105, 'z', HAIR if index % 2 else SKIN, None, 12, stretch=1.18)
    b.quad([(-0.1, top + 0.02, 0), (0.1, top + 0.02, 0), (0.08, top + 0.12, 0),
            (-0.08, top + 0.12, 0)], HAIR)
    return b.build()
