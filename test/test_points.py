# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
import math
import random

import cv2
from dgtl_core.points import (
    from_depth,
    label_points,
    moved,
    PinholeCamera,
    seen_pixels,
    transform_of,
    UNSEEN,
)
from dgtl_core.streetworld import SKY_DEPTH
from dgtl_core.streetworld.layout import chunk
from dgtl_core.streetworld.lens import draw_light
from dgtl_core.streetworld.plan import Street
from dgtl_core.streetworld.render import render
from dgtl_core.streetworld.traffic import traffic
from dgtl_core.streetworld.world import draw_camera
import numpy as np
import pytest

SIZE = (48, 64)
PLAIN = PinholeCamera(SIZE, 60.0, 58.0, 31.0, 24.5)
LENSES = {
    'none': PLAIN,
    'plumb_bob': replace(
        PLAIN, model='plumb_bob', distortion=(-0.28, 0.09, 1e-3, -5e-4, -0.012)),
    'rational': replace(
        PLAIN, model='rational_polynomial',
        distortion=(0.4, 0.2, 1e-4, 2e-4, 0.01, 0.7, 0.3, 0.05)),
    'equidistant': replace(
        PLAIN, fx=34.0, fy=34.0, model='equidistant', distortion=(0.05, -0.01, 2e-3, -1e-3)),
}


@pytest.mark.parametrize('camera', LENSES.values(), ids=LENSES)
def test_every_pixel_is_projected_back_onto_itself(camera):
    depth = np.random.default_rng(1).uniform(1, 30, SIZE).astype(np.float32)
    u, v, inside = camera.project(*from_depth(depth, camera).reshape(3, -1))
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    assert inside.all()
    assert (u.reshape(SIZE) == columns).all() and (v.reshape(SIZE) == rows).all()


@pytest.mark.parametrize('name', LENSES)
def test_projection_is_that_of_opencv(name):
    camera = LENSES[name]
    generator = np.random.default_rng(2)
    points = np.stack([generator.uniform(-3, 3, 400), generator.uniform(-2, 2, 400),
                       generator.uniform(4, 20, 400)])
    given = points.T[:, None].copy(), np.zeros(3), np.zeros(3), camera.matrix
    numbers = np.array(camera.distortion or [0.0] * 4)
    if camera.model == 'equidistant':
        pixels, _ = cv2.fisheye.projectPoints(*given, numbers)
    else:
        pixels, _ = cv2.projectPoints(*given, numbers)
    u, v, inside = camera.project(*points.astype(np.float32))
    assert inside.sum() > 200
    error = np.abs(np.stack([u, v], 1) - pixels[:, 0])[inside]
    assert error.max() <= 0.501, 'half a pixel of rounding'


def test_a_distorted_camera_sees_nothing_far_outside_of_its_picture():
    """A polynomial of the lens folds points from far outside back into the picture."""
    camera = LENSES['plumb_bob']
    angles = np.radians(np.arange(55, 89, dtype=np.float32))
    x, z = np.sin(angles), np.cos(angles)
    assert not camera.project(x, np.zeros_like(x), z)[2].any()
    assert not camera.project(-x, np.zeros_like(x), -z)[2].any(), 'behind the camera'


def test_a_ray_beyond_90_degrees_has_no_point():
    wide = replace(LENSES['equidistant'], fx=12.0, fy=12.0, distortion=(0.0, 0.001, 0.0, 0.0))
    points = from_depth(np.ones(SIZE, np.float32), wide)
    assert np.isnan(points[0, 0, 0]) and not np.isnan(points[0, 24, 31])


def test_depth_of_either_type_and_what_has_none():
    metres = np.full(SIZE, 2.5, np.float32)
    metres[0, :4] = [0, -1, np.inf, np.nan]
    points = from_depth(metres, PLAIN)
    assert np.isnan(points[2, 0, :4]).all() and np.isnan(points[0, 0, :4]).all()
    assert points[2, 0, 4] == 2.5 and metres[0, 0] == 0, 'the argument stays as it is'
    assert points[0, 0, 4] == pytest.approx((4 - 31) / 60 * 2.5)
    assert points[1, 5, 0] == pytest.approx((5 - 24.5) / 58 * 2.5)
    millimetres = from_depth(np.full(SIZE, 2500, np.uint16), PLAIN)
    np.testing.assert_array_equal(millimetres[:, 1:], points[:, 1:])
    with pytest.raises(ValueError, match='aligned'):
        from_depth(metres[1:], PLAIN)
    with pytest.raises(ValueError, match='float64'):
        from_depth(metres.astype(np.float64), PLAIN)


def test_a_resized_camera_sees_the_same():
    small = PLAIN.resized((24, 32))
    point = np.array([[0.4], [-0.3], [2.0]], np.float32)
    u, v, _ = small.project(*point)
    big_u, big_v, _ = PLAIN.project(*point)
    assert abs(2 * u[0] + 0.5 - big_u[0]) <= 1 and abs(2 * v[0] + 0.5 - big_v[0]) <= 1


@pytest.mark.parametrize('wrong', [
    {'model': 'fisheye62'}, {'fx': 0.0}, {'fy': math.nan}, {'size': (0, 4)},
    {'model': 'plumb_bob', 'distortion': (0.1,) * 6},
    {'model': 'equidistant', 'distortion': (0.1, math.inf)}])
def test_an_impossible_camera_is_refused(wrong):
    with pytest.raises(ValueError):
        replace(PLAIN, **wrong)


def test_transforms():
    quarter = transform_of([1, 2, 3, 0, 0, math.pi / 2])
    point = np.array([[1.0], [0], [0]], np.float32)
    np.testing.assert_allclose(moved(point, quarter)[:, 0], [1, 3, 3], atol=1e-6)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(transform_of([1, 2, 3, 0, 0, 2 * half, 2 * half]), quarter,
                               atol=1e-12)
    roll, pitch, yaw = 0.3, -0.7, 1.9
    turns = [cv2.Rodrigues(np.array(axis))[0] for axis in (
        (roll, 0, 0), (0, pitch, 0), (0, 0, yaw))]
    np.testing.assert_allclose(
        transform_of([0, 0, 0, roll, pitch, yaw])[:3, :3], turns[2] @ turns[1] @ turns[0],
        atol=1e-12)
    for wrong in ([1, 2], [0] * 7, [0, 0, 0, math.nan, 0, 0]):
        with pytest.raises(ValueError):
            transform_of(wrong)


def test_what_stands_behind_something_is_not_seen():
    camera = PinholeCamera((200, 200), 200.0, 200.0, 100.0, 100.0)
    y, x = np.mgrid[-0.4:0.4:60j, -0.4:0.4:60j].reshape(2, -1)
    near = np.stack([x * 2, y * 2, np.full_like(x, 4.0)])  # a board
    far = np.stack([x * 8, y * 8, np.full_like(x, 10.0)])  # a larger one behind it
    points = np.concatenate([near, far], 1).astype(np.float32)
    labels = np.full((200, 200), 7, np.uint8)
    found, sure = label_points(points, camera, labels)
    assert (found[:3600] == 7).all() and (sure[:3600] == 255).all()
    covered = (np.abs(x * 8 / 10) < 0.17) & (np.abs(y * 8 / 10) < 0.17)
    free = (np.abs(x * 8 / 10) > 0.22) | (np.abs(y * 8 / 10) > 0.22)
    assert (found[3600:][covered] == UNSEEN).all() and (sure[3600:][covered] == 0).all()
    assert (found[3600:][free] == 7).mean() == 1


def test_the_ground_that_runs_away_hides_nothing():
    camera = PinholeCamera((240, 320), 250.0, 250.0, 160.0, 100.0)
    rows = np.linspace(106, 239, 64)
    z = np.repeat(1.5 * 250 / (rows - 100), 400)
    x = np.tile(np.linspace(-0.6, 0.6, 400), 64) * z
    points = np.stack([x, np.full_like(z, 1.5), z]).astype(np.float32)
    index, _ = seen_pixels(points, camera)
    assert len(index) == camera.project(*points)[2].sum() > 20_000


def lidar_over(seed):
    """Return a street as a camera and as a lidar of 128 beams above it see it, with the truth."""
    street, r = Street(f'{seed}'), random.Random(seed)
    view = replace(draw_camera(r, (720, 1280), street), bend=0.0, yaw=0.0)
    light = draw_light(r)
    chunks = [chunk(street, i) for i in range(-1, 4)]
    for piece in chunks:
        piece.plants.clear()  # drawn plants turn to whoever looks
    cars = traffic(street, r, 0.0, 150.0)
    picture = render(view, light, chunks, cars)
    above = replace(view, size=(1024, 2048), focal=900.0, height=view.height + 0.5, x=view.x + 0.3,
                    z=view.z - 0.2, pitch=0.0, roll=0.0)
    scan = render(above, light, chunks, cars)
    beams = np.linspace(300, 900, 128).astype(int)
    depth, labels = scan.depth[beams], scan.labels[beams]
    u, v = (np.arange(2048) + 0.5 - 1024) / 900, (beams + 0.5 - 512) / 900
    points = np.stack([u[None] * depth, v[:, None] * depth, depth]).reshape(3, -1)
    hit = points[2] < 200
    transform = np.eye(4)
    transform[:3, :3] = view.rotation @ above.rotation.T
    transform[:3, 3] = view.rotation @ (above.position - view.position)
    camera = PinholeCamera(view.size, view.focal, view.focal, 639.5, 359.5)
    return (picture, camera, moved(points[:, hit].astype(np.float32), transform),
            labels.reshape(-1)[hit])


@pytest.mark.parametrize('seed', range(2))
def test_lidar_on_a_street_has_the_labels_of_what_it_hit(seed):
    picture, camera, points, hit = lidar_over(seed)
    found, _ = label_points(points, camera, picture.labels)
    u, v, inside = camera.project(*points)
    u, v = u.clip(0, 1279), v.clip(0, 719)
    # Half a metre: the kerb is drawn flat, with the depth of its height.
    hidden = points[2] > picture.depth[v, u] * 1.05 + 0.5
    truth = np.where(inside & ~hidden, hit, UNSEEN)
    # Beside an outline, a rounded pixel decides; nine pixels around it are left out.
    square = np.ones((9, 9), np.uint8)
    outline = cv2.dilate(picture.depth, square) > cv2.erode(picture.depth, square) * 1.15 + 0.3
    judged = inside & ~outline[v, u]
    assert judged.sum() > 40_000 and hidden[judged].mean() > 0.002
    assert (found == truth)[judged].mean() >= 0.99
    assert (found[~inside] == UNSEEN).all()


def test_depth_of_a_street_gives_each_point_the_label_of_its_pixel():
    from dgtl_core.streetworld import StreetWorld
    size = (180, 320)
    street = StreetWorld(3, size).picture(0)
    camera = PinholeCamera(size, 300.0, 300.0, 159.5, 89.5)
    depth = np.where(street.depth < SKY_DEPTH, street.depth, 0).astype(np.float32)
    points = from_depth(depth, camera)
    known = ~np.isnan(points[2])
    u, v, inside = camera.project(*points[:, known])
    assert inside.all()
    assert (street.labels[v, u] == street.labels[known]).mean() >= 0.999
