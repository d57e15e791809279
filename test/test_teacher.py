# SPDX-License-Identifier: Apache-2.0
"""Distillation: what a teacher says of clean pictures, learned from distorted ones."""

from dataclasses import replace
import json

import cv2
from dgtl_core.config import preset
from dgtl_core.data.transforms import TransformConfig, views
from dgtl_core.learning.losses import log_shares, LossConfig
from dgtl_core.learning.objective import Objective
from dgtl_core.learning.points import RandomPoints
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.learning.teacher import distillation_loss, Teacher
from dgtl_core.model.checkpoint import load_segmenter, save_checkpoint
from dgtl_core.model.segmenter import Segmenter
import numpy as np
import pytest
from safetensors.torch import load_file
from small_recipe import power_failure_after_saving, write_recipe
from test_train_light import light_recipe, run
import torch

CPU = torch.device('cpu')
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    """The folder of one light teacher and one with Mask2Former's head, a little trained."""
    folder = tmp_path_factory.mktemp('teachers')
    torch.set_num_threads(1)
    for kind in ('light', 'matched'):
        (folder / kind).mkdir()
        few = {'steps': 60, 'save_every': 1000, 'optim': {'lr': 3e-3}}
        recipe = light_recipe(folder / kind, 'classes', **few) if kind == 'light' \
            else write_recipe(folder / kind, **few)
        assert run(recipe, folder / kind / 'out') == 0
    return {kind: folder / kind / 'out' / FINAL for kind in ('light', 'matched')}


def without_labels(folder):
    for file in (folder / 'boxes' / 'labels').iterdir():
        cv2.imwrite(str(file), np.full((32, 64), 255, np.uint8))


def divergence(student, teacher, folder):
    """Return KL(teacher || student) on the pictures of a recipe's folder."""
    model, config = load_segmenter(student)
    names = sorted((folder / 'boxes' / 'images').iterdir())
    pictures = torch.from_numpy(np.stack(
        [cv2.imread(str(name))[..., ::-1] for name in names])).permute(0, 3, 1, 2)
    told = Teacher(teacher, config.classes, CPU).look(pictures).log_shares
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (config.mean, config.std))
    with torch.no_grad():
        said = log_shares(model.predict((pictures - mean) / std), fixed=config.head.fixed)
    return float(distillation_loss(said, told, 1.0))


@pytest.mark.parametrize('student', ['light', 'matched'])
@pytest.mark.parametrize('teacher', ['light', 'matched'])
def test_a_student_learns_its_teacher_from_pictures_without_labels(
        teacher, student, teachers, tmp_path):
    few = {'steps': 40, 'save_every': 1000, 'seed': 9, 'optim': {'lr': 3e-3},
           'teacher': str(teachers[teacher]),
           'transforms': {'crop': [32, 64], 'scale': [1.0, 1.5], 'corruption': 0.5}}
    recipe = light_recipe(tmp_path, 'classes', **few) if student == 'light' \
        else write_recipe(tmp_path, **few)
    without_labels(tmp_path)
    before, after = tmp_path / 'before', tmp_path / 'after'
    for out, steps in ((before, 1), (after, 40)):
        assert run(recipe, out, changes=[f'steps={steps}']) == 0
    first, last = (divergence(out / FINAL, teachers[teacher], tmp_path)
                   for out in (before, after))
    assert last < 0.7 * first
    entry = json.loads((after / 'log.jsonl').read_text().splitlines()[-1])
    nothing = ['cross_entropy', 'dice'] if student == 'light' else ['cls', 'mask', 'dice']
    assert all(entry[name] == 0 for name in nothing)
    assert entry['loss'] == pytest.approx(entry['teacher'])


def test_a_class_that_no_label_shows_is_learned_from_the_teacher(teachers, tmp_path):
    few = {'steps': 25, 'save_every': 1000, 'optim': {'lr': 3e-3}}
    recipe = light_recipe(tmp_path, 'classes', **few)
    for file in (tmp_path / 'boxes' / 'labels').iterdir():
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(file), np.where(labels == 3, 255, labels))
    found = {}
    for name in ('', str(teachers['light'])):
        out = tmp_path / f'out{bool(name)}'
        assert run(recipe, out, changes=[f'teacher={name}', 'loss.teacher_weight=4']) == 0
        found[bool(name)] = divergence(out / FINAL, teachers['light'], tmp_path)
    assert found[True] < 0.5 * found[False]


def test_a_run_with_a_teacher_resumes_bit_by_bit(teachers, tmp_path, monkeypatch):
    recipe = light_recipe(tmp_path, 'classes', steps=4, save_every=2,
                          teacher=str(teachers['matched']))
    assert run(recipe, tmp_path / 'whole') == 0
    with power_failure_after_saving(monkeypatch):
        assert run(recipe, tmp_path / 'part') == 1
    assert run(recipe, tmp_path / 'part', resume=True) == 0
    straight, resumed = (load_file(tmp_path / name / LAST) for name in ('whole', 'part'))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not any('teacher' in key for key in straight)


def test_the_teacher_does_not_learn(teachers):
    student, config = load_segmenter(teachers['light'])
    teacher = Teacher(teachers['matched'], config.classes, CPU)
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    objective = Objective(student.train(), LossConfig(num_points=8, temperature=2.0), teacher)
    assert len(list(objective.parameters())) == len(list(student.parameters()))
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    losses = objective(images, torch.full((2, 32, 64), 255, dtype=torch.uint8),
                       RandomPoints((1, 2), CPU), images)
    losses['teacher'].sum().backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert not teacher.model.training
    assert all(torch.equal(before[k], v) for k, v in teacher.model.state_dict().items())


def test_a_teacher_of_other_classes_or_none_is_refused(tmp_path, capsys):
    recipe = light_recipe(tmp_path, 'classes')
    config = preset('dgtl-rt-mini')
    save_checkpoint(tmp_path / 'city.safetensors', Segmenter(config), config)
    assert run(recipe, tmp_path / 'out', changes=[f'teacher={tmp_path}/city.safetensors']) == 1
    said = capsys.readouterr().err
    assert 'knows the classes road, sidewalk' in said and 'the data have box 0, box 1' in said
    assert run(recipe, tmp_path / 'out', changes=['teacher=none.safetensors']) == 1
    assert 'there is no file none.safetensors, which teacher names' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_what_is_no_teacher_is_refused_before_pictures_are_drawn(teachers, tmp_path, capsys):
    (tmp_path / 'x.onnx').write_bytes(b'\x08\x0a' * 50)
    recipe = light_recipe(tmp_path, 'classes', cache=True, data=['streetworld:clear,count=9999'])
    for name, message in (('x.onnx', 'x.onnx is not a .safetensors file'), ('', 'is a folder')):
        assert run(recipe, tmp_path / 'out', changes=[f'teacher={tmp_path}/{name}']) == 1
        said = capsys.readouterr().err
        assert 'train: teacher: ' in said and message in said
    assert not (tmp_path / 'out').exists()


def test_a_crop_that_the_teacher_does_not_take_is_named(teachers, tmp_path, capsys):
    model, config = load_segmenter(teachers['light'])
    fixed = replace(config, backbone=replace(config.backbone, positions='fixed'))
    save_checkpoint(tmp_path / 'fixed.safetensors', model, fixed)
    recipe = light_recipe(tmp_path, 'classes')
    assert run(recipe, tmp_path / 'out', changes=[
        f'teacher={tmp_path}/fixed.safetensors', 'transforms.crop=[64,64]']) == 1
    assert 'transforms.crop does not fit the teacher: ' in capsys.readouterr().err
    assert run(recipe, tmp_path / 'out', changes=['transforms.crop=[30,64]']) == 1
    assert 'transforms.crop does not fit the model: ' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_the_clean_view_is_the_same_crop():
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    labels = np.zeros((40, 70), np.uint8)
    plain, hard = (TransformConfig(crop=(32, 64), photometric=p, corruption=p) for p in (0, 1))
    seen, _, clean = views(image, labels, plain, np.random.default_rng(3))
    assert torch.equal(seen, clean)
    seen, _, again = views(image, labels, hard, np.random.default_rng(3))
    assert torch.equal(again, clean) and not torch.equal(seen, clean)


def test_temperature_one_is_the_divergence_and_equal_shares_cost_nothing():
    torch.manual_seed(0)
    a, b = (torch.randn(2, 5, 4, 6).log_softmax(1) for _ in range(2))
    expected = (b.exp() * (b - a)).sum(1).mean()
    torch.testing.assert_close(distillation_loss(a, b, 1.0), expected)
    assert distillation_loss(a, a, 3.0).abs() < 1e-6
    assert distillation_loss(a, b[:, :, ::2, ::2], 2.0) > 0


@pytest.mark.parametrize('changes', [{'temperature': 0.0}, {'teacher_weight': -1.0},
                                     {'teacher_masks_weight': -1.0}])
def test_impossible_values_are_refused(changes):
    with pytest.raises(ValueError, match=r'teacher_features_weight must not be negative'):
        LossConfig(**changes)
