# SPDX-License-Identifier: Apache-2.0
"""People, two-wheelers with and without riders, and street furniture."""

from __future__ import annotations

from functools import lru_cache
import math
import random

from dgtl_core.data.streetworld.meshes import Mesh, MeshBuilder
from dgtl_core.data.streetworld.vehicles import BICYCLE, Color, MOTORCYCLE, PERSON, RIDER

POLE, LIGHT, SIGN = 5, 6, 7
NUM_PEOPLE, NUM_PHASES = 12, 8

# colours of people, by slot; the frame and the wheels of a two-wheeler follow
SKIN, HAIR, TOP, SLEEVE, LEGS, LEGS_BACK, SHOES, BAG, FRAME, WHEEL, SPOKES, METAL, LAMP = range(13)


def clothes(rng: random.Random) -> list[Color]:
    """Colours of one person (and the two-wheeler) by slot."""
    skin = rng.choice(((186, 146, 122), (170, 128, 104), (120, 84, 64), (82, 58, 46), (200, 160, 138)))
    hair = rng.choice(((34, 28, 24), (60, 44, 32), (110, 84, 56), (28, 28, 30), (120, 116, 112), (150, 40, 40)))
    dark = rng.choice(((30, 30, 34), (44, 44, 50), (36, 42, 60), (66, 60, 56), (26, 30, 32)))
    vivid = rng.choice(((140, 36, 36), (40, 62, 120), (150, 140, 120), (180, 176, 170), (54, 96, 62), (170, 120, 40),
                        (120, 60, 100), (190, 190, 60), (200, 90, 40)))
    top = dark if rng.random() < 0.58 else vivid
    legs = rng.choice(((34, 36, 44), (46, 56, 80), (28, 28, 30), (90, 84, 74), (60, 60, 64), (120, 112, 96)))
    frame = rng.choice(((30, 30, 32), (120, 30, 30), (40, 60, 110), (150, 150, 150), (50, 90, 60), (170, 160, 60)))
    gain = rng.uniform(0.75, 1.15)
    colors = [skin, hair, top, tuple(c * 0.8 for c in top), legs, tuple(c * 0.68 for c in legs), (28, 26, 26),
              rng.choice(((70, 48, 36), (30, 30, 34), (130, 40, 40), (160, 150, 130))), frame, (26, 26, 28),
              (88, 88, 88), (132, 134, 136), (215, 215, 205)]
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

    def limb(p: tuple[float, float], q: tuple[float, float], thick: float, thin: float, slot: int) -> None:
        length = math.hypot(q[0] - p[0], q[1] - p[1]) or 1
        nx, ny = (q[1] - p[1]) / length, -(q[0] - p[0]) / length
        b.quad([(p[0] - nx * thick, p[1] - ny * thick, 0), (p[0] + nx * thick, p[1] + ny * thick, 0),
                (q[0] + nx * thin, q[1] + ny * thin, 0), (q[0] - nx * thin, q[1] - ny * thin, 0)], slot)

    stride = height * (0.2 if side else 0.03) * swing
    lift = height * 0.05 * abs(swing)
    coat = index % 4 == 1
    for sign, slot in ((-1, LEGS_BACK), (1, LEGS)):
        x = sign * stride + sign * broad * (0.15 if side else 0.42)
        foot = lift if sign * swing > 0 else 0
        knee = (x * 0.6 + (0.04 if side else 0), hip * 0.5 + foot)
        limb((sign * broad * (0.1 if side else 0.4), hip + 0.06), knee, height * 0.052, height * 0.044, slot)
        limb(knee, (x, 0.06 + foot), height * 0.044, height * 0.034, slot)
        limb((x - 0.04, 0.035 + foot), (x + (0.14 if side else 0.05), 0.035 + foot), 0.04, 0.04, SHOES)
    arm = height * 0.15 * swing if side else 0.0
    for sign in (-1, 1):
        x = sign * broad * (0.2 if side else 1.12)
        elbow = (x * 1.12 + sign * arm * 0.5, (hip + shoulder) / 2 + 0.02)
        hand = (x * 1.05 + sign * arm, hip - 0.02)
        limb((sign * broad * (0.1 if side else 0.9), shoulder - 0.03), elbow, height * 0.034, height * 0.03, SLEEVE)
        limb(elbow, hand, height * 0.03, height * 0.022, SLEEVE)
        b.disc((hand[0], hand[1], 0), 0.04, 'z', SKIN, None, 6)
    bottom = hip - height * (0.14 if coat else 0.02)
    b.quad([(-broad * 0.88, bottom, 0), (broad * 0.88, bottom, 0), (broad * 0.82, hip + (shoulder - hip) * 0.5, 0),
            (-broad * 0.82, hip + (shoulder - hip) * 0.5, 0)], TOP)
    b.quad([(-broad * 0.82, hip + (shoulder - hip) * 0.45, 0), (broad * 0.82, hip + (shoulder - hip) * 0.45, 0),
            (broad, shoulder - 0.04, 0), (-broad, shoulder - 0.04, 0)], TOP)
    b.quad([(-broad, shoulder - 0.05, 0), (broad, shoulder - 0.05, 0), (broad * 0.45, shoulder + 0.035, 0),
            (-broad * 0.45, shoulder + 0.035, 0)], TOP)
    b.quad([(0.0, bottom, 0), (broad * 0.88, bottom, 0), (broad, shoulder - 0.05, 0), (broad * 0.5, shoulder - 0.05, 0)],
           SLEEVE)
    if index % 3 == 0:
        b.quad([(-broad * 1.25, hip - 0.1, 0), (-broad * 0.6, hip - 0.1, 0), (-broad * 0.6, hip + 0.22, 0),
                (-broad * 1.15, hip + 0.22, 0)], BAG)
    b.quad([(-0.05, shoulder, 0), (0.05, shoulder, 0), (0.05, shoulder + 0.12, 0), (-0.05, shoulder + 0.12, 0)], SKIN)
    top = height - 0.11
    b.disc((0, top, 0), 0.105, 'z', HAIR if index % 2 else SKIN, None, 12, stretch=1.18)
    b.quad([(-0.1, top + 0.02, 0), (0.1, top + 0.02, 0), (0.08, top + 0.12, 0), (-0.08, top + 0.12, 0)], HAIR)
    return b.build()


def _wheel(b: MeshBuilder, z: float, r: float, wide: float, inside: int = SPOKES) -> None:
    b.disc((0, r, z), r, 'x', WHEEL, None, 16)
    b.disc((0.003, r, z), r * 0.9, 'x', inside, (-1, r, z), 16)
    b.disc((-0.003, r, z), r * 0.9, 'x', inside, (1, r, z), 16)
    if inside != SPOKES:  # a cast wheel
        for x in (-0.01, 0.01):
            b.disc((x, r, z), r * 0.5, 'x', METAL, (-x, r, z), 10)
    b.box((-wide, wide), (0, 2 * r), (z - r * 0.35, z + r * 0.35), (WHEEL, WHEEL, -1, -1, WHEEL))


def _bar(b: MeshBuilder, p: tuple[float, float], q: tuple[float, float], thick: float, slot: int,
         wide: float = 0.02) -> None:
    """A tube in the plane x = 0 with a little width, from (y, z) to (y, z)."""
    (ya, za), (yb, zb) = p, q
    length = math.hypot(yb - ya, zb - za) or 1
    ny, nz = (zb - za) / length * thick, -(yb - ya) / length * thick
    for x in (-wide, wide):
        b.quad([(x, ya - ny, za - nz), (x, ya + ny, za + nz), (x, yb + ny, zb + nz), (x, yb - ny, zb - nz)], slot)
    b.quad([(-wide, ya, za), (wide, ya, za), (wide, yb, zb), (-wide, yb, zb)], slot)


def _rider(b: MeshBuilder, seat: tuple[float, float], hands: tuple[float, float], feet: float, phase: int,
           helmet: bool) -> None:
    """A person on a seat; points are (y, z)."""
    b.label = RIDER
    sy, sz = seat
    hy, hz = hands
    shoulder = (sy + 0.5, sz + (hz - sz) * 0.42)
    for side in (-1, 1):
        turn = math.tau * phase / NUM_PHASES + (math.pi if side > 0 else 0)
        foot = (feet + 0.15 + 0.15 * math.sin(turn), sz + 0.22 + 0.15 * math.cos(turn))
        knee = ((sy + foot[0]) / 2 + 0.1, (sz + foot[1]) / 2 + 0.28)
        slot = LEGS if side > 0 else LEGS_BACK
        for p, q, t in ((seat, knee, 0.085), (knee, foot, 0.065)):
            x = side * 0.13
            b.hexa((x - t, x + t, q[1] - t, q[1] + t), (x - t, x + t, p[1] - t, p[1] + t), (q[0], p[0]), (slot,))
        b.box((side * 0.13 - 0.05, side * 0.13 + 0.05), (foot[0] - 0.08, foot[0]), (foot[1] - 0.08, foot[1] + 0.16), (SHOES,))
    b.hexa((-0.17, 0.17, sz - 0.13, sz + 0.13), (-0.22, 0.22, shoulder[1] - 0.11, shoulder[1] + 0.11),
           (sy - 0.06, shoulder[0]), (TOP, TOP, SLEEVE, TOP, TOP))
    for side in (-1, 1):
        x0, x1 = side * 0.24, side * 0.26
        b.hexa((x1 - 0.05, x1 + 0.05, hz - 0.06, hz + 0.06),
               (x0 - 0.05, x0 + 0.05, shoulder[1] - 0.06, shoulder[1] + 0.06), (hy, shoulder[0]), (SLEEVE,))
    head = (shoulder[0] + 0.2, shoulder[1] + 0.06)
    slot = HAIR if helmet else SKIN
    for y0, y1, a, c in ((-0.14, -0.04, 0.06, 0.1), (-0.04, 0.06, 0.1, 0.1), (0.06, 0.13, 0.1, 0.05)):
        b.hexa((-a, a, head[1] - a, head[1] + a), (-c, c, head[1] - c, head[1] + c), (head[0] + y0, head[0] + y1),
               (SKIN if y0 < 0.05 and not helmet else slot, HAIR, slot, slot, HAIR))


@lru_cache(maxsize=4 * (NUM_PHASES + 1))
def bicycle(index: int, phase: int | None) -> Mesh:
    """A bicycle; with a rider whose legs are at ``phase``, or parked (None)."""
    rng = random.Random(f'bicycle {index}')
    r, base = rng.uniform(0.31, 0.36), rng.uniform(0.98, 1.1)
    b = MeshBuilder(BICYCLE)
    front, rear = base / 2, -base / 2
    _wheel(b, front, r, 0.028)
    _wheel(b, rear, r, 0.028)
    crank, seat, head = (r * 0.9, -0.05), (0.92, -0.22), (0.88, front - 0.14)
    for p, q in ((crank, seat), (crank, head), ((0.78, -0.18), head), (crank, (r, rear)), ((0.75, -0.18), (r, rear)),
                 (head, (r, front))):
        _bar(b, p, q, 0.025, FRAME)
    b.box((-0.07, 0.07), (0.92, 0.97), (-0.36, -0.1), (WHEEL,))
    b.box((-0.28, 0.28), (0.98, 1.03), (front - 0.22, front - 0.17), (METAL,))
    b.box((-0.05, 0.05), (0.8, 0.9), (front - 0.1, front - 0.04), (LAMP, METAL, METAL, METAL, METAL), 0)
    if index % 4 == 2:
        b.box((-0.15, 0.15), (0.72, 0.95), (front - 0.05, front + 0.25), (BAG,))
    if phase is not None:
        _rider(b, (0.98, -0.24), (1.03, front - 0.2), r * 0.5, phase, index % 2 == 1)
    return b.build()


@lru_cache(maxsize=16)
def motorcycle(index: int, ridden: bool) -> Mesh:
    """A motorcycle or scooter; with a rider or parked."""
    rng = random.Random(f'motorcycle {index}')
    r, base = rng.uniform(0.28, 0.34), rng.uniform(1.25, 1.5)
    front, rear = base / 2, -base / 2
    b = MeshBuilder(MOTORCYCLE)
    _wheel(b, rear, r, 0.08, WHEEL)
    b.hexa((-0.16, 0.16, rear + 0.15, front - 0.25), (-0.14, 0.14, rear + 0.25, front - 0.2), (0.26, 0.62),
           (METAL, METAL, FRAME if index % 2 else METAL, METAL, METAL))
    _bar(b, (r, front), (0.95, front - 0.3), 0.06, METAL, 0.09)
    _wheel(b, front, r, 0.06, WHEEL)
    b.hexa((-0.1, 0.1, front - 0.1, front + 0.22), (-0.1, 0.1, front - 0.16, front + 0.1), (r * 1.5, r * 2.2), (FRAME,))
    b.hexa((-0.17, 0.17, -0.12, front - 0.22), (-0.13, 0.13, -0.1, front - 0.3), (0.6, 0.9), (FRAME,))
    b.hexa((-0.15, 0.15, rear - 0.15, -0.1), (-0.13, 0.13, rear - 0.1, -0.12), (0.62, 0.78), (WHEEL,))
    b.box((-0.34, 0.34), (0.96, 1.02), (front - 0.36, front - 0.29), (WHEEL,))
    b.hexa((-0.17, 0.17, front - 0.3, front - 0.08), (-0.12, 0.12, front - 0.32, front - 0.2), (0.74, 1.12),
           (FRAME, WHEEL, FRAME, FRAME, FRAME))
    b.disc((0, 0.86, front - 0.06), 0.09, 'z', LAMP, (0, 0.86, 0), 10, 1)
    b.box((-0.08, 0.08), (0.66, 0.74), (rear - 0.2, rear - 0.15), (BAG,), 2)
    if index % 3 == 0:
        b.box((-0.2, 0.2), (0.8, 1.1), (rear - 0.25, rear + 0.1), (WHEEL,))
    if ridden:
        _rider(b, (0.84, -0.28), (0.98, front - 0.34), 0.22, 0, True)
    return b.build()


# colours of street furniture, by slot
GREY, DARK, RED, WHITE, BLUE, YELLOW, GREEN, BLACK, OFF, AMBER = range(10)


def furniture_colors(rng: random.Random) -> list[Color]:
    """Colours of a pole with what hangs on it, by slot; the metal varies."""
    tone = rng.choice((48, 62, 84, 110, 130, 150)) * rng.uniform(0.9, 1.1)
    return [(tone, tone * 1.01, tone * 1.0), (tone * 0.8, tone * 0.8, tone * 0.8), (176, 30, 34), (216, 216, 212),
            (30, 74, 150), (214, 176, 40), (36, 110, 66), (22, 24, 24), (34, 34, 36), (226, 140, 30)]


def _post(b: MeshBuilder, x: float, height: float, thick: float, z: float = 0.0, slot: int = GREY) -> None:
    label, b.label = b.label, POLE
    b.hexa((x - thick, x + thick, z - thick, z + thick), (x - thick * 0.7, x + thick * 0.7, z - thick * 0.7, z + thick * 0.7),
           (0, height), (slot, slot, DARK, slot, slot))
    b.label = label


@lru_cache(maxsize=16)
def lamp(index: int) -> Mesh:
    """A street lamp whose arm reaches to +x, a plain mast or a bollard."""
    rng = random.Random(f'lamp {index}')
    b = MeshBuilder(POLE)
    if index % 8 == 7:
        _post(b, 0, rng.uniform(0.8, 1.1), 0.07)
        return b.build()
    height = rng.uniform(5, 10)
    _post(b, 0, height, rng.uniform(0.06, 0.11))
    if index % 8 == 6:
        return b.build()
    reach = rng.uniform(0.6, 2.2) if index % 4 else 0.2
    b.quad([(0, height - 0.12, 0), (0, height, 0), (reach, height + 0.28, 0), (reach, height + 0.2, 0)], GREY)
    b.box((reach - 0.1, reach + 0.55), (height + 0.12, height + 0.28), (-0.12, 0.12), (DARK, DARK, DARK, DARK, GREY))
    b.quad([(reach, height + 0.11, -0.1), (reach + 0.5, height + 0.11, -0.1), (reach + 0.5, height + 0.11, 0.1),
            (reach, height + 0.11, 0.1)], WHITE, None, 1)
    return b.build()


@lru_cache(maxsize=32)
def traffic_light(index: int, state: int) -> Mesh:
    """A signal that faces -z; ``state`` 0 red, 1 amber, 2 green; some hang over the road on an arm."""
    rng = random.Random(f'light {index}')
    b = MeshBuilder(LIGHT)
    height = rng.uniform(2.6, 3.6)
    heads = [(0.0, height)]
    if index % 3 == 2:
        reach, high = rng.uniform(2.2, 4.2), rng.uniform(5.0, 5.8)
        _post(b, 0, high, 0.09)
        b.label = POLE
        b.box((0, reach), (high - 0.1, high), (-0.05, 0.05), (GREY,))
        b.label = LIGHT
        heads.append((reach, high + 0.25))
    else:
        _post(b, 0, height, 0.06)
    for x, top in heads:
        half, tall = 0.17, 0.92
        b.box((x - half, x + half), (top - tall, top), (-0.3, -0.08), (BLACK,))
        if index % 2:
            b.quad([(x - half - 0.1, top - tall - 0.1, -0.08), (x + half + 0.1, top - tall - 0.1, -0.08),
                    (x + half + 0.1, top + 0.1, -0.08), (x - half - 0.1, top + 0.1, -0.08)], BLACK)
            b.box((x - half, x + half), (top - tall, top), (-0.3, -0.09), (BLACK,))
        for i, slot in enumerate((RED, AMBER, GREEN)):
            lit = state == i
            b.disc((x, top - 0.17 - 0.29 * i, -0.31), 0.115, 'z', slot if lit else OFF, (x, top, 1), 10, 4 if lit else 0)
    return b.build()


@lru_cache(maxsize=48)
def sign(index: int) -> Mesh:
    """A traffic sign that faces -z, on its post."""
    rng = random.Random(f'sign {index}')
    b = MeshBuilder(SIGN)
    kind = ('ban', 'ban', 'warn', 'order', 'priority', 'board', 'stop', 'park', 'board', 'entry')[index % 10]
    low, r = rng.uniform(1.7, 2.4), rng.uniform(0.28, 0.4)
    y = low + r

    def plate(shape: str, size: float, slot: int, layer: int, dx: float = 0.0, dy: float = 0.0) -> None:
        z = -0.09 - 0.005 * layer
        if shape == 'disc':
            b.disc((dx, y + dy, z), size, 'z', slot, None, 16)
        elif shape == 'triangle':
            b.quad([(dx - size, y + dy - size * 0.7, z), (dx + size, y + dy - size * 0.7, z),
                    (dx + size * 0.06, y + dy + size, z), (dx - size * 0.06, y + dy + size, z)], slot)
        elif shape == 'diamond':
            b.quad([(dx - size, y + dy, z), (dx, y + dy - size, z), (dx + size, y + dy, z), (dx, y + dy + size, z)], slot)

    def bar(x0: float, y0: float, x1: float, y1: float, slot: int, layer: int) -> None:
        z = -0.09 - 0.005 * layer
        b.quad([(x0, y + y0, z), (x1, y + y0, z), (x1, y + y1, z), (x0, y + y1, z)], slot)

    if kind == 'board':
        wide, tall = rng.uniform(0.6, 1.6), rng.uniform(0.4, 0.9)
        _post(b, -wide * 0.35, y, 0.05)
        _post(b, wide * 0.35, y, 0.05)
        slot = rng.choice((BLUE, GREEN, WHITE, YELLOW, BLUE))
        text = BLACK if slot in (WHITE, YELLOW) else WHITE
        bar(-wide / 2, -tall / 2, wide / 2, tall / 2, text, 0)
        bar(-wide / 2 + 0.04, -tall / 2 + 0.04, wide / 2 - 0.04, tall / 2 - 0.04, slot, 1)
        for row in range(rng.randint(1, 3)):
            v = tall * (0.25 - 0.28 * row)
            bar(-wide * rng.uniform(0.2, 0.4), v - 0.05, wide * rng.uniform(0.05, 0.4), v + 0.05, text, 2)
        return b.build()
    _post(b, 0, y + r * 0.6, 0.04)
    if kind == 'ban':
        plate('disc', r, RED, 0)
        plate('disc', r * 0.74, WHITE, 1)
        bar(-r * 0.35, -r * 0.3, r * 0.35, r * 0.3, BLACK if index % 3 else WHITE, 2)
    elif kind == 'warn':
        plate('triangle', r * 1.15, RED, 0)
        plate('triangle', r * 0.72, WHITE, 1, dy=-0.04)
        bar(-0.03, -r * 0.4, 0.03, r * 0.25, BLACK, 2)
    elif kind == 'order':
        plate('disc', r, BLUE, 0)
        bar(-r * 0.14, -r * 0.6, r * 0.14, r * 0.5, WHITE, 1)
        plate('triangle', r * 0.35, WHITE, 1, dy=r * 0.35)
    elif kind == 'priority':
        plate('diamond', r, WHITE, 0)
        plate('diamond', r * 0.76, YELLOW, 1)
    elif kind == 'stop':
        b.disc((0, y, -0.09), r, 'z', RED, None, 8)
        bar(-r * 0.7, -r * 0.2, r * 0.7, r * 0.2, WHITE, 1)
    elif kind == 'park':
        bar(-r * 0.85, -r * 0.85, r * 0.85, r * 0.85, BLUE, 0)
        bar(-r * 0.3, -r * 0.6, -r * 0.08, r * 0.6, WHITE, 1)
        bar(-r * 0.3, -r * 0.05, r * 0.35, r * 0.6, WHITE, 1)
    else:
        plate('disc', r, RED, 0)
        bar(-r * 0.7, -r * 0.15, r * 0.7, r * 0.15, WHITE, 1)
    if index % 4 == 1:
        bar(-r * 0.8, -r * 1.75, r * 0.8, -r * 1.15, WHITE, 0)
        bar(-r * 0.5, -r * 1.5, r * 0.5, -r * 1.38, BLACK, 1)
    return b.build()
