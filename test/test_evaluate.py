# SPDX-License-Identifier: Apache-2.0
"""Scores: known labels give known numbers, by every way a picture can become labels."""

from html.parser import HTMLParser
import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
from dgtl_core.classes import CITYSCAPES
from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.data import catalog
from dgtl_core.data.datasets import LabelledPicture, NO_SIZES
from dgtl_core.evaluation.protocols import fitted, labeler_of_file, labeler_of_model
from dgtl_core.evaluation.score import iou_table, score
from dgtl_core.learning.processes import Processes
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.predictor import Segmentation
from dgtl_core.strict import from_dict, override, to_dict
import numpy as np
import pytest
from small_recipe import COLORS, MODEL, write_pictures
import torch
from training.evaluate import main
import yaml


class Drawn:
    """Four pictures whose labels are a number each; the picture says which."""

    name = 'drawn'
    classes = CITYSCAPES
    protocol_sizes = NO_SIZES

    def __len__(self):
        return 4

    def __getitem__(self, index):
        labels = np.full((10, 20), index, np.uint8)
        labels[:, :5] = 255
        image = np.full((10, 20, 3), index, np.uint8)
        return LabelledPicture(image, labels, f'drawn/{index}')


def read_off(image, sizes):
    return Segmentation(image[..., 0].copy(), np.full(image.shape[:2], 200, np.uint8))


def test_right_labels_score_one_and_unlabelled_pixels_do_not_count():
    found = score(read_off, Drawn())
    assert found.matrix.mean_iou() == 1 and found.pictures == 4
    assert found.matrix.counts.sum() == 4 * 150


def test_one_wrong_picture_of_four_is_the_worst_and_costs_what_it_should():
    def mistaken(image, sizes):
        found = read_off(image, sizes)
        return found._replace(labels=np.zeros_like(found.labels)) if found.labels[0, 0] == 2 \
            else found
    found = score(mistaken, Drawn(), keep_worst=2)
    entry = found.summary('drawn')
    # class 0: half of what is called 0 is 2; class 2 is never found
    assert entry['iou'][:4] == [0.5, 1.0, 0.0, 1.0] and entry['iou'][4] is None
    assert entry['miou'] == pytest.approx(2.5 / 4) and entry['accuracy'] == 0.75
    assert [picture.name for _, picture, _ in found.worst][0] == 'drawn/2'
    assert len(found.worst) == 2 and found.worst[0][0] == 0
    # every pixel says 200 of 255, and three of four are right
    sure = entry['confidence']
    assert sure['ece'] == pytest.approx(200 / 255 - 0.75) and sure['auroc'] == 0.5
    assert sure['bins'][11] == {
        'confidence': pytest.approx(200 / 255), 'right': 0.75, 'pixels': 600}
    assert sure['risk_coverage'] == [[1.0, 0.25]]


def test_picture_without_a_truth_is_not_among_the_worst():
    class Blank(Drawn):
        def __getitem__(self, index):
            picture = super().__getitem__(index)
            return picture._replace(labels=np.full_like(picture.labels, 255)) if index < 2 \
                else picture
    found = score(read_off, Blank(), keep_worst=3)
    assert [(miou, picture.name) for miou, picture, _ in found.worst] == [
        (1.0, 'drawn/2'), (1.0, 'drawn/3')]


def test_shares_of_the_pictures_add_up():
    class Alone(Processes):
        def add_up(self, values):
            pass

        def collect(self, value):
            return [value]

    parts = [score(read_off, Drawn(), 3, processes=Alone(rank, 2)) for rank in (0, 1)]
    assert [part.pictures for part in parts] == [2, 1]
    whole = score(read_off, Drawn(), 3)
    assert np.array_equal(sum(part.matrix.counts for part in parts), whole.matrix.counts)
    assert np.array_equal(
        sum(part.reliability.counts for part in parts), whole.reliability.counts)


def test_changed_pictures_keep_their_truth():
    found = score(read_off, Drawn(), change=lambda picture, index: np.zeros_like(picture.image))
    assert found.summary('drawn')['iou'][:4] == [0.25, 0.0, 0.0, 0.0]


SIZES = {'cityscapes': catalog._CITY, 'mapillary-rein': catalog._CITY, 'bdd100k': catalog._BDD,
         'acdc-fog': catalog._FULL_HD, 'dark-zurich': catalog._FULL_HD}


@pytest.mark.parametrize(('name', 'protocol', 'size', 'expected'), [
    ('cityscapes', 'low', (1024, 2048), (512, 1024)),
    ('cityscapes', 'high', (1024, 2048), (1024, 2048)),
    ('mapillary-rein', 'low', (1200, 1600), (512, 683)),
    ('bdd100k', 'low', (720, 1280), (720, 1280)),
    ('bdd100k', 'vltseg', (720, 1280), (512, 910)),
    ('acdc-fog', 'high', (1080, 1920), (540, 960)),
    ('acdc-fog', 'vltseg', (1080, 1920), (540, 960)),
    ('dark-zurich', 'low', (1080, 1920), (540, 960)),
    ('cityscapes', 'slide', (1024, 2048), (1024, 2048)),
    # smaller than a window of 512: enlarged until it covers one, whatever the protocol
    ('camvid', 'low', (360, 480), (512, 683)),
    ('own', 'slide', (1000, 375), (1365, 512)),
    ('own', 'slide', (512, 600), (512, 600)),
])
def test_protocols_fit_pictures_into_their_sizes(name, protocol, size, expected):
    image = np.zeros((*size, 3), np.uint8)
    assert fitted(image, SIZES.get(name, NO_SIZES), protocol, (512, 512)).shape[:2] == expected


@pytest.mark.parametrize(('name', 'size', 'expected'), [
    ('cityscapes', (1024, 2048), (1024, 2048)), ('bdd100k', (720, 1280), (1024, 1820)),
    ('acdc-fog', (1080, 1920), (1080, 1920))])
def test_vltseg_of_1024_pixels_sees_twice_the_sizes(name, size, expected):
    image = np.zeros((*size, 3), np.uint8)
    assert fitted(image, SIZES[name], 'vltseg', (1024, 1024)).shape[:2] == expected


class WindowPredictor:
    """Labels a window with its first value; the right half of a window is less sure."""

    input_size = (6, 6)

    def many(self, images):
        assert all(image.shape == (6, 6, 3) for image in images)
        return [Segmentation(image[..., 0].copy(), np.repeat(
            np.array([[200, 200, 200, 100, 100, 100]], np.uint8), 6, 0)) for image in images]


def test_windows_of_a_model_file_cover_the_picture():
    image = np.arange(11 * 17, dtype=np.uint8).reshape(11, 17, 1).repeat(3, 2)
    labels = labeler_of_file(WindowPredictor(), 'slide')(image, NO_SIZES).labels
    assert np.array_equal(labels, image[..., 0])


@pytest.mark.parametrize(('sure_side', 'expected'), [
    (1, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), (-1, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1])])
def test_more_confident_window_wins_where_two_overlap(sure_side, expected):
    class Counting(WindowPredictor):
        def many(self, images):
            return [Segmentation(np.full((6, 6), i, np.uint8), part.confidence[:, ::sure_side])
                    for i, part in enumerate(super().many(images))]
    labels = labeler_of_file(Counting(), 'slide')(np.zeros((6, 10, 3), np.uint8), NO_SIZES).labels
    # windows at 0..5 and 4..9: in columns 4 and 5 one of them is sure, the other is not
    assert labels[0].tolist() == expected


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A tiny untrained model of four classes, its data set and its checkpoint."""
    folder = tmp_path_factory.mktemp('evaluate')
    write_pictures(folder / 'boxes', count=3, size=(48, 96))
    classes = {'name': 'boxes', 'entries': [
        {'id': i, 'name': f'box {i}', 'color': list(color), 'prompts': []}
        for i, color in enumerate(COLORS)]}
    config = from_dict(SegmenterConfig, to_dict(override(
        preset('dgtl-mini'), {**MODEL, 'classes': classes})))
    torch.manual_seed(0)
    model = Segmenter(config).eval()
    save_checkpoint(folder / 'tiny.safetensors', model, config)
    return folder, model


def test_model_labels_whole_pictures_and_windows(checkpoint):
    _, model = checkpoint
    device = torch.device('cpu')
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3)).astype(np.uint8)
    whole = labeler_of_model(model, device, torch.float32, 'whole')(image, NO_SIZES).labels
    slid = labeler_of_model(model, device, torch.float32, 'slide')(image, NO_SIZES).labels
    assert whole.shape == slid.shape == (48, 96) and max(whole.max(), slid.max()) < 4
    # a picture smaller than the window, and no whole number of patches, is enlarged
    for protocol in ('whole', 'slide'):
        label = labeler_of_model(model, device, torch.float32, protocol)
        assert label(image[:29, :90], NO_SIZES).labels.shape == (29, 90)
    # at the model's own size there is one window, and nothing is resized
    small = image[:32, :64]
    both = [labeler_of_model(model, device, torch.float32, protocol)(small, NO_SIZES).labels
            for protocol in ('whole', 'slide')]
    assert np.array_equal(*both)


class Drawing:
    """In the place of a network: keeps what it is shown and gives scores drawn once."""

    def __init__(self, config):
        self.config, self.seen = config, []

    def scores(self, images):
        self.seen.append(images)
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 4, *images.shape[-2:], generator=generator)


def test_network_is_shown_normalised_rgb(checkpoint):
    _, model = checkpoint
    drawing = Drawing(model.config)
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    for protocol in ('whole', 'slide'):
        labeler_of_model(drawing, torch.device('cpu'), torch.float32, protocol)(image, NO_SIZES)
        expected = (image - np.array(model.config.mean)) / np.array(model.config.std)
        np.testing.assert_allclose(
            drawing.seen.pop()[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_scores_and_not_labels_are_brought_back_to_the_pictures_size(checkpoint):
    _, model = checkpoint
    drawing = Drawing(model.config)
    label = labeler_of_model(drawing, torch.device('cpu'), torch.float32, 'slide')
    # enlarged to one window of 32 x 64
    found = label(np.zeros((16, 32, 3), np.uint8), NO_SIZES).labels
    scores = drawing.scores(torch.zeros(1, 3, 32, 64))
    expected = torch.nn.functional.interpolate(scores, (16, 32), mode='bilinear').argmax(1)[0]
    assert np.array_equal(found, expected.numpy())


def evaluate(*arguments):
    return main([str(argument) for argument in arguments])


def test_command_line_writes_table_numbers_and_page(checkpoint, capsys):
    folder, _ = checkpoint
    out, page = folder / 'numbers.json', folder / 'page.html'
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                    '--protocol', 'slide', '--corrupt', 'fog,contrast', '--severity', '1,5',
                    '--json', out, '--report', page) == 0
    shown = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert shown.strip() == iou_table(results)
    assert 'protocol slide' in shown and 'box 3' in shown and 'boxes + contrast 5' in shown
    assert results['domains'][0]['pictures'] == 3 and len(results['corrupted']) == 4
    assert 0 <= results['mean_miou'] <= 1
    text = page.read_text()
    # plots of data sets, confidence and corruptions, and the worst pictures, all in the file
    assert text.count('<img src="data:image/') == 4
    ece = results['domains'][0]['confidence']['ece']
    assert f'{100 * ece:.1f}' in text and 'ECE' in shown
    assert all(0 <= entry['ece'] <= 1 for entry in results['corrupted'])
    assert '<td>box 3<td style="background:' in text and '</span> box 3' in text
    addresses: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            addresses.extend(v for k, v in attrs if k in ('src', 'href') and v)

    Links().feed(text)
    assert all(address.startswith('data:') for address in addresses)
    assert 'Protocol <b>slide</b>' in text


def test_two_data_sets_of_one_name_and_classes_in_any_language(tmp_path, capfd):
    names = ('Straße', '草地')
    classes = [{'id': i, 'name': name, 'color': [9, 9, 200 * i]} for i, name in enumerate(names)]
    specs = []
    for part in ('a', 'b'):
        write_pictures(tmp_path / part / 'lawn', count=1)
        for file in (tmp_path / part / 'lawn' / 'labels').iterdir():
            cv2.imwrite(str(file), np.minimum(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), 1))
        (tmp_path / part / 'lawn' / 'classes.yaml').write_text(
            yaml.safe_dump({'name': 'lawn', 'classes': classes}), encoding='utf-8')
        specs.append(f'folder:{tmp_path}/{part}/lawn')
    config = override(preset('dgtl-mini'), {**MODEL, 'classes': {'name': 'lawn', 'entries': [
        {**entry, 'prompts': []} for entry in classes]}})
    save_checkpoint(tmp_path / 'tiny.safetensors', Segmenter(config).eval(), config)
    out, page = tmp_path / 'new' / 'numbers.json', tmp_path / 'newer' / 'page.html'
    assert evaluate(tmp_path / 'tiny.safetensors', *specs, '--device', 'cpu', '--corrupt', 'fog',
                    '--severity', '3', '--json', out, '--report', page) == 0
    results = json.loads(out.read_text())
    assert [domain['name'] for domain in results['domains']] == specs
    assert [entry['domain'] for entry in results['corrupted']] == specs
    shown, text = capfd.readouterr(), page.read_text(encoding='utf-8')
    assert all(name in text and name in shown.out for name in names)
    assert 'Glyph' not in shown.err  # matplotlib: a sign that its font does not have


@pytest.mark.parametrize(('arguments', 'message'), [
    (['streetworld:clear,count=1'], 'they must be equal'),
    (['folder:{folder}/boxes', '--corrupt', 'hail'], "unknown corruption 'hail'"),
    (['folder:{folder}/boxes', '--corrupt', 'fog', '--severity', '7'], 'numbers from 1 to 5'),
    (['folder:{folder}/boxes', '--corrupt', 'depth_fog'], 'has no depth'),
    (['folder:{folder}/none'], 'there is no folder'),
])
def test_wrong_questions_are_refused_in_words(arguments, message, checkpoint, capsys):
    folder, _ = checkpoint
    given = [argument.format(folder=folder) for argument in arguments]
    assert evaluate(folder / 'tiny.safetensors', *given, '--device', 'cpu') == 1
    assert message in capsys.readouterr().err


def test_device_that_is_not_there_is_refused(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    folder, _ = checkpoint
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cuda') == 1
    assert 'take --device cpu' in capsys.readouterr().err


def test_file_that_is_no_model_is_refused(tmp_path, capsys):
    wrong = tmp_path / 'wrong.safetensors'
    wrong.write_text('no model')
    assert evaluate(wrong, 'streetworld:clear,count=1') == 1
    assert 'is not a .safetensors file' in capsys.readouterr().err
    assert evaluate(tmp_path / 'none.onnx', 'streetworld:clear,count=1') == 1
    assert 'no model file at' in capsys.readouterr().err


def test_embedded_model_sees_the_street(capsys, tmp_path):
    model = Path(__file__).resolve().parents[1] / 'models' / 'dgtl_mini.onnx'
    if not model.is_file():
        pytest.skip('the embedded model is not there yet')
    out = tmp_path / 'numbers.json'
    assert evaluate(model, 'streetworld:clear,count=3,height=256,width=512',
                    '--device', 'cpu', '--json', out) == 0
    domain = json.loads(out.read_text())['domains'][0]
    assert domain['iou'][0] > 0.7 and domain['iou'][10] > 0.7  # road and sky


def test_a_number_of_pictures_below_zero_is_refused(capsys):
    with pytest.raises(SystemExit):
        evaluate('m.onnx', 'camvid', '--limit', '-2')
    assert '--limit must be 0 (all) or more, got -2' in capsys.readouterr().err


@pytest.mark.parametrize(('option', 'name', 'message'), [
    ('--json', 'tiny.safetensors', 'must be a file that ends in .json'),
    ('--json', 'boxes', 'must be a file that ends in .json'),
    ('--json', 'old.json', 'old.json exists; --force overwrites it'),
    ('--report', 'old.html', 'old.html exists; --force overwrites it'),
])
def test_outputs_are_checked_before_anything_is_measured(
        option, name, message, checkpoint, capsys, monkeypatch):
    folder, _ = checkpoint
    for old in ('old.json', 'old.html'):
        (folder / old).write_text('of before')
    before = (folder / 'tiny.safetensors').read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr('training.evaluate.open_model', None)
        assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                        option, folder / name) == 1
    assert message in capsys.readouterr().err
    assert (folder / 'tiny.safetensors').read_bytes() == before
    if name.startswith('old'):
        assert (folder / name).read_text() == 'of before'
        assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/boxes', '--device', 'cpu',
                        option, folder / name, '--force') == 0
        assert (folder / name).read_text() != 'of before'


def test_report_shows_a_name_that_looks_like_a_formula(checkpoint):
    folder, _ = checkpoint
    write_pictures(folder / 'a$b_{$x', count=1, size=(48, 96))
    page = folder / 'formula.html'
    assert evaluate(folder / 'tiny.safetensors', f'folder:{folder}/a$b_{{$x', '--device', 'cpu',
                    '--corrupt', 'fog', '--severity', '1', '--report', page) == 0
    assert 'a$b_{$x' in page.read_text()


def test_own_folder_called_like_a_public_set_keeps_its_size(tmp_path):
    from dgtl_core.data.catalog import open_pictures
    write_pictures(tmp_path / 'muses', count=1, size=(1080, 1920))
    pictures = open_pictures(f'folder:{tmp_path}/muses')
    assert pictures.name == 'muses' and not pictures.protocol_sizes


@pytest.mark.timeout(600)
def test_processes_share_the_pictures_and_give_the_same_numbers(checkpoint):
    folder, _ = checkpoint
    results = []
    for processes in (1, 2):
        out, page = folder / f'by{processes}.json', folder / f'by{processes}.html'
        launcher = [] if processes == 1 else [
            '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
        done = subprocess.run(
            [sys.executable, *launcher, '-m', 'training.evaluate',
             str(folder / 'tiny.safetensors'), f'folder:{folder}/boxes', '--device', 'cpu',
             '--corrupt', 'fog', '--severity', '3', '--json', str(out), '--report', str(page)],
            capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[1],
            env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        results.append(json.loads(out.read_text()))
        assert done.stdout.count('protocol whole') == 1, 'one process prints'
        for domain in results[-1]['domains']:
            del domain['pictures_per_s']
    assert results[0] == results[1] and results[0]['domains'][0]['pictures'] == 3


@pytest.mark.timeout(300)
def test_names_that_the_terminal_cannot_show_end_in_no_traceback(checkpoint):
    folder, _ = checkpoint
    page = folder / 'names.html'
    specs = []
    for name in ('straße', os.fsdecode(b'no \xff text')):
        write_pictures(folder / 'plain', count=1, size=(48, 96))
        (folder / 'plain').rename(folder / name)  # OpenCV cannot write there
        specs.append(f'folder:{folder}/{name}')
    done = subprocess.run(
        [sys.executable, '-m', 'training.evaluate', str(folder / 'tiny.safetensors'), *specs,
         '--device', 'cpu', '--report', str(page)], capture_output=True, text=True, timeout=280,
        cwd=Path(__file__).parents[1], env={
            **os.environ, 'OMP_NUM_THREADS': '1', 'LC_ALL': 'C', 'PYTHONUTF8': '0',
            'PYTHONCOERCECLOCALE': '0'})
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert 'mean over data sets' in done.stdout and r'\udcff' in done.stdout
    assert r'no \udcff text' in page.read_text(encoding='utf-8')
