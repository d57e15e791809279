# SPDX-License-Identifier: Apache-2.0
"""Cars, and what all vehicles share: colours, lamps and wheels."""

from __future__ import annotations

from functools import lru_cache
import random

from dgtl_core.streetworld.meshes import Color, Mesh, MeshBuilder
from dgtl_core.streetworld.scene import CAR

# colours that every vehicle has, by slot
PAINT, LOWER, GLASS, TYRE, HUB, LAMP, TAIL, PLATE, TRIM, EXTRA, SKY_GLASS, ROOF = range(12)


def paint(rng: random.Random, kind: str = 'car') -> list[Color]:
    """Colours of one vehicle by slot."""
    if kind == 'car':
        base = rng.choices(((34, 35, 38), (70, 72, 76), (150, 153, 157), (205, 206, 205),
                            (30, 44, 80), (120, 26, 28), (34, 62, 48), (96, 84, 66), (52, 92, 140),
                            (176, 150, 60)), (22, 16, 20, 14, 10, 9, 3, 3, 3, 1))[0]
    else:
        base = rng.choices(((210, 210, 206), (150, 30, 30), (36, 72, 140), (196, 160, 50),
                            (40, 96, 66), (120, 124, 128), (200, 110, 40), (60, 62, 70),
                            (90, 50, 110)), (30, 16, 14, 9, 8, 9, 6, 5, 3))[0]
    gain = rng.uniform(0.75, 1.2)
    body = tuple(min(245.0, c * gain) for c in base)
    dark = rng.uniform(16, 52)
    glass = (dark, dark * 1.05, dark * 1.12)
    sky = dark + rng.uniform(20, 110)
    extra = rng.choice(((205, 205, 205), (40, 60, 120), (170, 40, 40), (60, 110, 70),
                        (190, 170, 60), (50, 50, 54), tuple(c * 0.7 for c in body)))
    return [body, tuple(c * rng.uniform(0.62, 0.85) for c in body), glass, (22, 22, 24),
            rng.choice(((120, 122, 124), (82, 84, 86), (46, 46, 48))), (210, 210, 204),
            (138, 30, 28), rng.choice(((216, 216, 208), (206, 180, 60), (216, 216, 208))),
            (34, 34, 36), extra, (sky, sky * 1.02, sky * 1.05),
            tuple(min(245.0, c * 1.08) for c in body)]


def wheels(b: MeshBuilder, x: float, zs: tuple[float, ...], r: float) -> None:
    """Pairs of wheels with their arches at the given z."""
    for z in zs:
        for side in (-1, 1):
            edge = side * (x + 0.012)
            b.disc((edge, r, z), r * 1.18, 'x', TRIM, (0, r, z), 12)  # the dark arch
            b.disc((edge + side * 0.01, r, z), r, 'x', TYRE, (0, r, z), 12)
            b.disc((edge + side * 0.02, r, z), r * 0.6, 'x', HUB, (0, r, z), 10)
            b.quad([(side * x, 0, z - r * 0.7), (side * (x - 0.2), 0, z - r * 0.7),
                    (side * (x - 0.2), r, z - r), (side * x, r, z - r)], TYRE, (0, r, z))
            b.quad([(side * x, 0, z + r * 0.7), (side * (x - 0.2), 0, z + r * 0.7),
                    (side * (x - 0.2), r, z + r), (side * x, r, z + r)], TYRE, (0, r, z))


@lru_cache(maxsize=64)
def car(index: int) -> Mesh:
    """Saloon, hatchback, estate, off-roader or van number ``index``; its front looks to +z."""
    rng = random.Random(f'car {index}')
    kind = ('saloon', 'hatch', 'hatch', 'estate', 'suv', 'van')[index % 6]
    length = {'saloon': 4.5, 'hatch': 3.9, 'estate': 4.6, 'suv': 4.5, 'van': 4.9}[kind]
    length *= rng.uniform(0.94, 1.06)
    w = rng.uniform(0.82, 0.93)
    low = rng.uniform(0.2, 0.3)
    belt = {'suv': 1.05, 'van': 1.1}.get(kind, 0.9) * rng.uniform(0.96, 1.06)
    roof = {'saloon': 1.42, 'hatch': 1.47, 'estate': 1.48, 'suv': 1.75, 'van': 2.0}[kind]
    roof *= rng.uniform(0.97, 1.04)
    f, r = length / 2, -length / 2
    hood = f - length * {'van': 0.14, 'hatch': 0.23}.get(kind, 0.27)
    trunk = r + length * (0.17 if kind == 'saloon' else 0.02)
    top_f = hood - length * {'van': 0.09}.get(kind, 0.15)
    top_r = trunk + length * {'saloon': 0.13, 'hatch': 0.09, 'van': 0.02}.get(kind, 0.06)
    b = MeshBuilder(CAR)
    mid = low + (belt - low) * 0.48
    # lower and upper half of the flanks have their own shade
    b.hexa((-w, w, r, f), (-w, w, r - 0.02, f + 0.02), (low, mid),
           (LOWER, LOWER, LOWER, LOWER, -1))
    b.hexa((-w, w, r, hood), (-w * 0.97, w * 0.97, r + 0.05, hood), (mid, belt),
           (-1, PAINT, PAINT, PAINT, ROOF))
    b.hexa((-w, w, hood, f), (-w * 0.95, w * 0.95, hood, f - 0.1), (mid, belt),
           (PAINT, -1, PAINT, PAINT, ROOF), tilt=-(belt - mid) * 0.45)
    cw, tw = w * 0.95, w * 0.76
    b.hexa((-cw, cw, trunk, hood), (-tw, tw, top_r, top_f), (belt, roof),
           (PAINT, PAINT, PAINT, PAINT, ROOF))

    def on_cabin(side: float, z: float, t: float) -> tuple[float, float, float]:
        """A point on the flank of the cabin; z along the belt 0..1, t upwards 0..1."""
        za, zb = trunk + (hood - trunk) * z, top_r + (top_f - top_r) * z
        return (side * (cw + (tw - cw) * t + 0.006), belt + (roof - belt) * t, za + (zb - za) * t)

    rows: tuple[tuple[float, float], ...] = ((0.1, 0.47), (0.51, 0.92))  # of windows
    if kind in ('estate', 'suv'):
        rows = ((0.08, 0.36), (0.4, 0.64), (0.68, 0.93))
    if kind == 'van' and rng.random() < 0.6:
        rows = ((0.66, 0.94),)
    for a, c in rows:
        for side in (-1, 1):
            corners = [on_cabin(side, a, 0.1), on_cabin(side, c, 0.1), on_cabin(side, c, 0.86),
                       on_cabin(side, a, 0.86)]
            b.quad(corners, GLASS, (0, belt, (trunk + hood) / 2))
            b.quad([on_cabin(side * 1.004, a, 0.5), on_cabin(side * 1.004, c, 0.62),
                    on_cabin(side * 1.004, c, 0.86), on_cabin(side * 1.004, a, 0.86)], SKY_GLASS,
                   (0, belt, (trunk + hood) / 2))
    for z0, z1, away, eps in ((hood, top_f, -1, 0.008), (trunk, top_r, 1, -0.008)):
        za, zb = z0 + (z1 - z0) * 0.1 + eps, z0 + (z1 - z0) * 0.9 + eps
        xa, xb = cw * 0.88, tw * 0.92
        ya, yb = belt + (roof - belt) * 0.1, belt + (roof - belt) * 0.9
        b.quad([(-xa, ya, za), (xa, ya, za), (xb, yb, zb), (-xb, yb, zb)], GLASS,
               (0, belt, z0 + away * 2))
        b.quad([(-(xa + xb) / 2, (ya * 2 + yb) / 3 + 0.1, (za + zb) / 2 + eps),
                (xa * 0.3, (ya + yb) / 2, (za + zb) / 2 + eps), (xb * 0.6, yb, zb + eps),
                (-xb, yb, zb + eps)], SKY_GLASS, (0, belt, z0 + away * 2))
    inner = rng.uniform(0.74, 0.88)
    lamp_y = (mid, mid + (belt - mid) * 0.55)
    for side in (-1, 1):
        a, c = sorted((side * w * 0.58, side * w * 0.96))
        b.quad([(a, lamp_y[0], f + 0.03), (c, lamp_y[0], f + 0.03), (c, lamp_y[1], f + 0.01),
                (a, lamp_y[1], f + 0.01)], LAMP, (0, mid, 0), 1)
        high = belt + (0.35 if kind in ('estate', 'suv', 'van') else -0.06)
        b.quad([(side * w * inner, mid + 0.05, r - 0.03), (side * w * 0.97, mid + 0.05, r - 0.03),
                (side * w * 0.93, high, r + 0.03), (side * w * inner, high, r + 0.03)], TAIL,
               (0, mid, 0), 2)
        b.box((side * w - 0.02 + side * 0.1, side * w + 0.02 + side * 0.1), (belt, belt + 0.13),
              (hood - 0.45, hood - 0.3), (PAINT,))
    b.quad([(-w * 0.5, low + 0.12, f + 0.03), (w * 0.5, low + 0.12, f + 0.03),
            (w * 0.5, mid - 0.02, f + 0.03), (-w * 0.5, mid - 0.02, f + 0.03)], TRIM, (0, mid, 0))
    b.quad([(-w * 0.55, mid + 0.04, f + 0.03), (w * 0.55, mid + 0.04, f + 0.03),
            (w * 0.55, lamp_y[1] - 0.04, f + 0.02), (-w * 0.55, lamp_y[1] - 0.04, f + 0.02)], TRIM,
           (0, mid, 0))
    for z, out in ((f + 0.045, 1), (r - 0.045, -1)):
        y = low + 0.16 if out > 0 else mid + 0.06
        b.quad([(-0.26, y, z), (0.26, y, z), (0.26, y + 0.11, z), (-0.26, y + 0.11, z)], PLATE,
               (0, y, 0))
    b.quad([(-w, low, r - 0.03), (w, low, r - 0.03), (w, low + 0.14, r - 0.035),
            (-w, low + 0.14, r - 0.035)], TRIM, (0, low, 0))
    b.quad([(-w, low, f + 0.03), (w, low, f + 0.03), (w, low + 0.08, f + 0.03),
            (-w, low + 0.08, f + 0.03)], TRIM, (0, low, 0))
    if kind == 'van' and len(rows) == 1 and rng.random() < 0.6:  # lettering
        for side in (-1, 1):
            b.quad([on_cabin(side, 0.1, 0.3), on_cabin(side, 0.5, 0.3), on_cabin(side, 0.5, 0.5),
                    on_cabin(side, 0.1, 0.5)], EXTRA, (0, belt, 0))
    wheels(b, w, (f - length * 0.19, r + length * 0.19), rng.uniform(0.29, 0.36))
    return b.build()
