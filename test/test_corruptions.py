# SPDX-License-Identifier: Apache-2.0
import math

from dgtl_core.data import weather
from dgtl_core.data.corruptions import corrupt, CORRUPTIONS, WEATHER
from dgtl_core.streetworld import StreetWorld
import numpy as np
import pytest

ALL = CORRUPTIONS + WEATHER

# Not strictly monotone by construction, with the rise of PSNR in dB that is let pass: the
# published strengths of fog also change its grain, from soft clouds to small patches; the shifts
# of glass_blur are whole pixels, so in small pictures two severities have the same one.
TOLERANCE = {'fog': 0.6, 'glass_blur': 0.1}


@pytest.fixture(scope='module')
def sample():
    return StreetWorld(seed=4, size=(192, 256)).picture(1)


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 10 * math.log10(255 ** 2 / error) if error else math.inf


def test_there_are_fifteen_families_and_five_kinds_of_weather():
    assert len(set(CORRUPTIONS)) == 15
    assert len(set(WEATHER)) == 5
    assert not set(CORRUPTIONS) & set(WEATHER)


@pytest.mark.parametrize('name', ALL)
def test_family(sample, name):
    original = sample.image.copy()
    quality = []
    for severity in (1, 2, 3, 4, 5):
        out = corrupt(sample.image, name, severity, seed=7, depth=sample.depth)
        assert out.dtype == np.uint8 and out.shape == original.shape
        assert (out != original).mean() > 0.02
        again = corrupt(sample.image, name, severity, seed=7, depth=sample.depth)
        np.testing.assert_array_equal(out, again)
        quality.append(psnr(out, original))
    np.testing.assert_array_equal(sample.image, original)  # the input is left alone
    assert max(np.diff(quality)) < TOLERANCE.get(name, 0.0), quality
    assert quality[0] - quality[4] > 1
    assert 5 < quality[4] < 30


@pytest.mark.parametrize('name', sorted(set(ALL) - {
    'defocus_blur', 'zoom_blur', 'brightness', 'contrast', 'pixelate', 'jpeg_compression',
    'depth_fog'}))  # these know no chance
def test_another_seed_is_another_picture(sample, name):
    one = corrupt(sample.image, name, 3, seed=1)
    other = corrupt(sample.image, name, 3, seed=2)
    assert (one != other).mean() > 0.01


@pytest.mark.parametrize('size', [(64, 300), (200, 80), (33, 47), (600, 500)])
@pytest.mark.parametrize('name', ALL)
def test_any_size(name, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    out = corrupt(image, name, 5, depth=np.full(size, 40, np.float32))
    assert out.shape == image.shape and out.dtype == np.uint8


def test_noise_has_the_published_strength():
    gray = np.full((256, 256, 3), 128, np.uint8)
    for severity, deviation in zip((1, 2, 3), (0.08, 0.12, 0.18)):
        noise = corrupt(gray, 'gaussian_noise', severity).astype(float) - 128
        assert noise.std() / 255 == pytest.approx(deviation, rel=0.03)
    changed = (corrupt(gray, 'impulse_noise', 5) != 128).mean()
    assert changed == pytest.approx(0.27, abs=0.01)
    shot = corrupt(gray, 'shot_noise', 1).astype(float) / 255
    assert shot.var() == pytest.approx(128 / 255 / 60, rel=0.1)  # Poisson: mean / photons


def test_blur_reaches_in_proportion_to_the_picture():
    def reach(side):
        image = np.zeros((side, side, 3), np.uint8)
        image[:, side // 2:] = 255
        row = corrupt(image, 'defocus_blur', 3)[side // 2, :, 0].astype(float)
        return np.count_nonzero((row > 5) & (row < 250))

    assert reach(448) == pytest.approx(2 * reach(224), rel=0.15)


def test_contrast_keeps_the_mean_and_brightness_the_hue(sample):
    flat = corrupt(sample.image, 'contrast', 4)
    np.testing.assert_allclose(flat.mean((0, 1)), sample.image.mean((0, 1)), atol=1)
    gray = np.full((8, 8, 3), 100, np.uint8)
    assert corrupt(gray, 'brightness', 2)[0, 0].tolist() == [151, 151, 151]


def test_depth_fog_follows_koschmieder():
    image = np.full((40, 60, 3), 60, np.uint8)
    image[:4] = 230  # the sky gives the airlight
    depth = np.tile(np.linspace(1, 200, 60, dtype=np.float32), (40, 1))
    out = corrupt(image, 'depth_fog', 3, depth=depth)[20].astype(float)
    t = np.exp(-weather.FOG_EXTINCTION[3] * depth[20])[:, None]
    np.testing.assert_allclose(out, 60 * t + 230 * (1 - t) * np.ones(3), atol=2.5)


def test_depth_may_hold_infinity_and_nan(sample):
    depth = sample.depth.copy()
    depth[:10], depth[10:20] = np.inf, np.nan
    far = sample.depth.copy()
    far[:20] = 1e4
    np.testing.assert_array_equal(corrupt(sample.image, 'depth_fog', 2, depth=depth),
                                  corrupt(sample.image, 'depth_fog', 2, depth=far))


@pytest.mark.parametrize('arguments, message', [
    (('gausian_noise', 1), 'did you mean gaussian_noise'),
    (('sunshine', 1), 'unknown corruption'),
    (('snow', 0), 'severity must be'), (('snow', 6), 'severity must be'),
    (('snow', 2.5), 'severity must be'), (('snow', True), 'severity must be'),
    (('depth_fog', 1), 'depth_fog needs depth'),
])
def test_wrong_arguments(sample, arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(sample.image, *arguments)


@pytest.mark.parametrize('image', [
    np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
    [[1, 2, 3]]])
def test_wrong_picture(image):
    with pytest.raises(ValueError, match=r'\(H, W, 3\) uint8'):
        corrupt(image, 'snow', 1)


def test_depth_of_another_size(sample):
    with pytest.raises(ValueError, match='depth must have the size'):
        corrupt(sample.image, 'depth_fog', 1, depth=sample.depth[:-1])
