# SPDX-License-Identifier: Apache-2.0
import json

import cv2
from dgtl_core.calibration import _Spread
from dgtl_core.cli.calibrate import main
from dgtl_core.data.corruptions import corrupt
from dgtl_core.domain import domain_of
from dgtl_core.predictor import onnx_metadata, Predictor
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import write_tiny_onnx


def street(place, number):
    """A sky, a wall whose colour is the place's, and a road with texture; red stays below 150."""
    rng = np.random.default_rng([place, number])
    image = np.full((96, 160, 3), 140, np.uint8)
    image[30:] = 70 + 12 * place, 90, 60 + 8 * place
    image[60:] = 60
    image[30:] += rng.integers(0, 30, (66, 160, 1), np.uint8)
    left = int(rng.integers(0, 120))
    image[40:70, left:left + 30] = rng.integers(20, 120, 3)
    return image


def write(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f'{number:03d}.png'), np.ascontiguousarray(image[..., ::-1]))
    return str(folder)


@pytest.fixture(scope='module')
def calibrated(tmp_path_factory):
    place = tmp_path_factory.mktemp('drives')
    model = write_tiny_onnx(place / 'in.onnx', signature=True)
    drives = [write(place / f'{p}', [street(p, n) for n in range(20)]) for p in (0, 2, 5)]
    out = place / 'own.onnx'
    assert main([*drives, '--model', str(model), '--out', str(out), '--device', 'cpu']) == 0
    return model, out


def check(out, folder, capsys, *more):
    capsys.readouterr()
    assert main(['--check', folder, '--model', str(out), '--json', '--device', 'cpu', *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_another_place_is_familiar_and_its_fog_and_night_are_not(calibrated, tmp_path, capsys):
    _, out = calibrated
    images = [street(3, n) for n in range(25)]
    told = check(out, write(tmp_path / 'day', images), capsys)
    assert told['windows'] == 3 and told['familiar'] == 1
    assert told['shifted'] == told['unusable'] == 0 and len(told['scores']) == 3
    for kind in ('fog', 'night'):
        folder = write(tmp_path / kind, [corrupt(i, kind, 3, n) for n, i in enumerate(images)])
        told = check(out, folder, capsys)
        assert told['familiar'] == 0, kind


def test_the_file_keeps_what_it_was_and_holds_little_more(calibrated):
    model, out = calibrated
    domain = domain_of(onnx_metadata(out))
    assert [d.pictures for d in domain.drives] == [20] * 3 and domain.cross_validated == 'drive'
    assert onnx_metadata(model).domain is None
    assert out.stat().st_size - model.stat().st_size < 256 << 10
    image = street(0, 99)
    before, after = (Predictor.load(path, device='cpu')(image) for path in (model, out))
    np.testing.assert_array_equal(before.labels, after.labels)


def test_what_to_expect_and_what_it_cost_are_said(tmp_path, capsys):
    model = write_tiny_onnx(tmp_path / 'in.onnx', signature=True)
    drives = [write(tmp_path / f'{p}', [street(p, n) for n in range(20)]) for p in (0, 2, 5)]
    arguments = ['--model', str(model), '--out', str(tmp_path / 'o.onnx'), '--device', 'cpu',
                 '--force']
    assert main([*drives, *arguments]) == 0
    text = capsys.readouterr().out
    assert '0.0% of the windows of a drive that was left out' in text
    assert '3 drives without one show that at most 63% of new places raise one' in text
    assert '29 would show 10 %' in text
    assert main([drives[0], *arguments, '--force', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['cross_validated'] == 'segment' and 0 < told['seconds_per_thousand_pictures'] < 60
    assert main([drives[0], *arguments, '--force']) == 0
    assert 'give two more, best in other places' in capsys.readouterr().out


def test_the_robot_itself_and_the_mounting_are_as_in_the_node(tmp_path, capsys):
    """Pictures upside down, half of them the robot, which is bright on the days of the check."""
    model, mask = write_tiny_onnx(tmp_path / 'in.onnx', divisor=14), np.zeros((96, 160), np.uint8)
    mask[:48] = 255
    assert cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    own = ['--rotation', '180', '--ego-mask', str(tmp_path / 'mask.png')]

    def mounted(place, shade, count=20):
        images = [street(place, n)[::-1, ::-1].copy() for n in range(count)]
        for image in images:
            image[:48] = shade
        return images

    drives = [write(tmp_path / f'{p}', mounted(p, 90)) for p in (0, 2, 5)]
    out = tmp_path / 'own.onnx'
    assert main([*drives, '--model', str(model), '--out', str(out), '--device', 'cpu', *own]) == 0
    day = write(tmp_path / 'day', mounted(3, 250))
    assert check(out, day, capsys, *own)['familiar'] == 1
    assert check(out, day, capsys, '--rotation', '180')['familiar'] < 1
    small = write(tmp_path / 'small', [image[:40] for image in mounted(3, 0, 10)])
    assert main(['--check', small, '--model', str(out), '--device', 'cpu', *own]) == 1
    assert '--ego-mask has 160x96 pixels' in capsys.readouterr().err


def test_wrong_use_is_said(calibrated, tmp_path, capsys):
    model, out = calibrated
    folder = write(tmp_path / 'few', [street(0, n) for n in range(5)])
    for arguments, code, message in (
            ([folder], 2, 'name the model file to write: --out'),
            ([folder, '--check', folder], 2, 'and not both'), ([], 2, 'and not both'),
            (['--check', folder, '--stride', '0'], 2, '--stride must be 1 or more'),
            ([folder, '--model', str(model), '--out', str(model)], 1, 'is what is read here'),
            ([folder, '--model', str(model), '--out', str(out)], 1, '--force overwrites it'),
            ([folder, '--model', str(model), '--out', str(tmp_path / 'o.onnx')], 1,
             'few has 5 pictures, and each drive needs at least 10'),
            (['--check', folder, '--model', str(model)], 1, 'knows no normal drives')):
        if code == 2:
            with pytest.raises(SystemExit, match='2'):
                main(arguments)
        else:
            assert main([*arguments, '--device', 'cpu']) == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'o.onnx').exists()


def test_kept_pictures_are_spread_over_a_drive_of_any_length():
    for count in (3, 8, 50, 1000):
        spread = _Spread(8)
        assert len(list(spread.passed(np.full((4, 4, 3), n % 256, np.uint8)
                                      for n in range(count)))) == count
        assert min(count, 4) <= len(spread.kept) <= 8


def test_what_is_wrong_is_said_before_anything_long_begins(calibrated, tmp_path, capsys,
                                                           monkeypatch):
    model, out = calibrated
    drives = [str(out.parent / f'{p}') for p in (0, 2)]
    before = out.read_bytes()
    monkeypatch.setattr('dgtl_core.predictor.Predictor.load', lambda *_, **__: 1 / 0)
    few = write(tmp_path / 'few', [street(0, n) for n in range(3)])
    (tmp_path / 'm.engine').write_bytes(b'engine')
    (tmp_path / 'empty').mkdir()
    new = str(tmp_path / 'o.onnx')
    for arguments, message in (
            ([*drives, '--model', str(model), '--out', str(model)], 'is what is read here'),
            ([*drives, '--model', str(model), '--out', str(out)], '--force overwrites it'),
            ([*drives, drives[0], '--model', str(model), '--out', new], 'give each drive once'),
            ([*drives, drives[0] + '/.', '--model', str(model), '--out', new],
             f'/. is the same drive as {drives[0]}'),
            ([*drives, str(tmp_path / 'none'), '--model', str(model), '--out', new],
             'there is no'),
            ([*drives, str(tmp_path / 'empty'), '--model', str(model), '--out', new],
             'holds no picture'),
            ([*drives, few, '--model', str(model), '--out', new], 'few has 3 pictures'),
            ([*drives, f'{drives[0]}/000.png', '--model', str(model), '--out', new],
             'has 1 picture, and each drive needs at least 10'),
            ([*drives, '--model', str(tmp_path / 'm.engine'), '--out', new],
             'a domain is stored in .onnx files'),
            (['--check', str(tmp_path / 'none'), '--model', str(out)], 'there is no')):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'o.onnx').exists() and out.read_bytes() == before


def test_a_video_that_gives_no_picture_is_no_drive(calibrated, tmp_path, capsys):
    model, out = calibrated
    video = tmp_path / 'cut.mp4'
    video.write_bytes(b'\0' * 2000)
    assert main([str(out.parent / '0'), str(video), '--model', str(model), '--device', 'cpu',
                 '--out', str(tmp_path / 'o.onnx')]) == 1
    assert f'the drive {video} has 0 pictures' in capsys.readouterr().err
    assert not (tmp_path / 'o.onnx').exists()


def test_a_model_without_a_signature_is_calibrated_and_what_it_lacks_is_said(tmp_path, capsys):
    model = write_tiny_onnx(tmp_path / 'in.onnx')
    arguments = [write(tmp_path / f'{p}', [street(p, n) for n in range(10)]) for p in (0, 2)]
    arguments += ['--model', str(model), '--out', str(tmp_path / 'o.onnx'), '--device', 'cpu']
    assert main(arguments) == 0
    assert 'gives no signature' in capsys.readouterr().out
    assert main([*arguments, '--force', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['signature'] is False and told['alarmed'] <= 2


def test_a_check_of_too_few_pictures_is_said(calibrated, tmp_path, capsys):
    _, out = calibrated
    few = write(tmp_path / 'few', [street(0, n) for n in range(4)])
    assert main(['--check', few, '--model', str(out), '--json', '--device', 'cpu']) == 1
    told = capsys.readouterr()
    assert told.out == '' and f'{few} gave fewer than the five pictures' in told.err
