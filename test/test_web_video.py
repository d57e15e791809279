# SPDX-License-Identifier: Apache-2.0
import cv2
from dgtl_core.web_video import write_web_video
import numpy as np
import pytest


def ramp(count, size=(48, 64)):
    return [np.full((*size, 3), (20 * i, 200 - 20 * i, 60), np.uint8) for i in range(count)]


def read(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]:
        frames.append(cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_pictures_come_back(tmp_path, capfd):
    path = tmp_path / 'a.webm'
    assert write_web_video(path, iter(ramp(8)), 5.0) == 8
    assert path.read_bytes()[:4] == b'\x1a\x45\xdf\xa3'  # EBML, as WebM begins
    frames, rate = read(path)
    assert len(frames) == 8 and rate == pytest.approx(5, rel=0.01)
    for got, wanted in zip(frames, ramp(8)):
        assert np.abs(got.astype(int) - wanted).mean() < 8
    assert capfd.readouterr() == ('', ''), 'OpenCV warns of nothing'


@pytest.mark.parametrize('size', [(47, 63), (16, 16), (49, 64)])
def test_odd_sides_lose_a_pixel(tmp_path, size):
    path = tmp_path / 'a.webm'
    write_web_video(path, ramp(3, size), 10)
    assert read(path)[0][0].shape == (size[0] // 2 * 2, size[1] // 2 * 2, 3)


def test_another_size_in_between_is_fitted(tmp_path):
    path = tmp_path / 'a.webm'
    assert write_web_video(path, [*ramp(2), *ramp(2, (96, 128))], 10) == 4
    assert {f.shape for f in read(path)[0]} == {(48, 64, 3)}


def test_a_source_that_breaks_off_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.webm'
    write_web_video(path, ramp(3), 10)
    before = path.read_bytes()

    def broken():
        yield from ramp(2)
        raise RuntimeError('the camera is gone')

    with pytest.raises(RuntimeError, match='the camera is gone'):
        write_web_video(path, broken(), 10)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.webm']


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ValueError, match=r'must be a file that ends in \.webm'):
        write_web_video(tmp_path / 'a.mp4', ramp(1), 10)
    with pytest.raises(ValueError, match='there are no pictures'):
        write_web_video(tmp_path / 'a.webm', [], 10)
    with pytest.raises(ValueError, match='at least 16 x 16 pixels, got 8 x 64'):
        write_web_video(tmp_path / 'a.webm', ramp(1, (8, 64)), 10)
    assert not list(tmp_path.iterdir())
