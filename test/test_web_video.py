# SPDX-License-Identifier: Apache-2.0
"""Videos for browsers: times, sizes, nothing half-written."""

from dgtl_core.web_video import WebVideo
import numpy as np
import pytest

av = pytest.importorskip('av')


def ramp(count, size=(48, 64)):
    return [np.full((*size, 3), (20 * i, 200 - 20 * i, 60), np.uint8) for i in range(count)]


def write(path, pictures, stamps=None):
    video = WebVideo(path, pictures[0].shape[:2])
    for number, picture in enumerate(pictures):
        video.add(picture, stamps[number] if stamps else None)
    return video.finish()


def read(path):
    with av.open(str(path)) as container:
        return [(round(float(f.pts * f.time_base), 6), f.to_ndarray(format='rgb24'))
                for f in container.decode(video=0)]


def test_pictures_come_back_at_their_times(tmp_path):
    stamps = [10**18 + n * 1_000_000 for n in (0, 40, 50, 1000)]
    found = read(write(tmp_path / 'deep/a.mp4', ramp(4), stamps))
    assert [time for time, _ in found] == [0, 0.04, 0.05, 1]
    for (_, got), wanted in zip(found, ramp(4)):
        assert np.abs(got.astype(int) - wanted).mean() < 8


def test_without_times_ten_go_to_a_second_and_a_clock_may_jump_back(tmp_path):
    assert [t for t, _ in read(write(tmp_path / 'a.mp4', ramp(3)))] == [0, 0.1, 0.2]
    times = [t for t, _ in read(write(tmp_path / 'b.mp4', ramp(3), [10**9, 2 * 10**9, 0]))]
    assert times == sorted(times) and len(set(times)) == 3


@pytest.mark.parametrize('size, shown', [
    ((47, 63), (48, 64)), ((16, 16), (16, 16)), ((49, 64), (50, 64)), ((1, 1), (2, 2))])
def test_odd_sides_are_made_even(tmp_path, size, shown):
    assert read(write(tmp_path / 'a.mp4', ramp(3, size)))[0][1].shape == (*shown, 3)


def test_another_size_in_between_is_fitted(tmp_path):
    found = read(write(tmp_path / 'a.mp4', [*ramp(2), *ramp(2, (96, 256))]))
    assert {picture.shape for _, picture in found} == {(48, 64, 3)}
    assert found[2][1][0].max() < 30  # black bars, nothing distorted


def test_what_is_abandoned_leaves_what_was_there(tmp_path):
    before = write(tmp_path / 'a.mp4', ramp(3)).read_bytes()
    video = WebVideo(tmp_path / 'a.mp4', (48, 64))
    video.add(ramp(1)[0], None)
    video.abandon()
    assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']
    assert (tmp_path / 'a.mp4').read_bytes() == before
