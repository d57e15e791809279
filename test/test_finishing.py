# SPDX-License-Identifier: Apache-2.0
"""What is published of a model's labels, beside the same operations done by hand."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_core.classes import CITYSCAPES
from dgtl_core.predictor import Segmentation
from dgtl_ros.finishing import Finishing
from dgtl_ros.parameters import ParameterError
from dgtl_ros.settings import Settings

pytestmark = pytest.mark.ros
TURNS = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180,
         270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def finished(labels, confidence=None, camera='', **settings):
    labels = np.asarray(labels, np.uint8)
    confidence = np.full_like(labels, 255) if confidence is None else np.asarray(
        confidence, np.uint8)
    chosen = Settings(**settings)
    return Finishing(CITYSCAPES, chosen, camera)(Segmentation(labels, confidence), chosen)


def test_nothing_is_copied_where_nothing_is_asked_for():
    labels, confidence = np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)
    shown = Finishing(CITYSCAPES, Settings())(Segmentation(labels, confidence), Settings())
    assert shown.labels is labels and shown.confidence is confidence


def test_a_threshold_takes_the_label_away():
    labels, confidence = [[0, 1, 255, 3]], [[127, 128, 0, 255]]
    half = finished(labels, confidence, confidence_threshold=0.5)
    assert half.labels.tolist() == [[255, 1, 255, 3]] and half.labels.dtype == np.uint8
    other = finished(labels, confidence, confidence_threshold=0.5, unlabeled_id=200)
    assert other.labels.tolist() == [[200, 1, 200, 3]]
    assert finished(labels, confidence, unlabeled_id=9).labels.tolist() == [[0, 1, 9, 3]]


def test_a_threshold_that_changes_takes_effect():
    finish = Finishing(CITYSCAPES, Settings())
    result = Segmentation(np.zeros((1, 1), np.uint8), np.full((1, 1), 100, np.uint8))
    assert finish(result, Settings()).labels[0, 0] == 0
    assert finish(result, Settings(confidence_threshold=0.9)).labels[0, 0] == 255
    assert finish(result, Settings()).labels[0, 0] == 0


def test_single_classes_have_thresholds_of_their_own():
    shown = finished([[0, 1, 11]], [[200, 200, 200]], confidence_threshold=0.5,
                     class_thresholds=('road:0.9', 'person:0.1'))
    assert shown.labels.tolist() == [[255, 1, 11]]


def test_groups_take_the_place_of_classes(tmp_path):
    file = tmp_path / 'groups.yaml'
    file.write_text('drivable: [road]\nsoft: [vegetation, terrain]\n')
    chosen = Settings(class_groups=str(file), class_thresholds=('soft:0.5',))
    finish = Finishing(CITYSCAPES, chosen)
    assert [c.name for c in finish.classes] == ['drivable', 'soft']
    shown = finish(Segmentation(np.array([[0, 8, 9, 2]], np.uint8),
                                np.array([[10, 255, 10, 255]], np.uint8)), chosen)
    assert shown.labels.tolist() == [[0, 1, 255, 255]]


@pytest.mark.parametrize('rotation', TURNS)
def test_labels_come_back_in_the_frame_of_the_camera(rotation):
    camera = np.random.default_rng(0).integers(0, 19, (6, 4, 3), dtype=np.uint8)
    chosen = Settings(rotation=rotation)
    finish = Finishing(CITYSCAPES, chosen)
    seen = finish.upright(camera)
    by_hand = camera if TURNS[rotation] is None else cv2.rotate(camera, TURNS[rotation])
    np.testing.assert_array_equal(seen, by_hand)
    labels = np.ascontiguousarray(seen[:, :, 0])  # a model that labels by colour
    shown = finish(Segmentation(labels, labels), chosen)
    np.testing.assert_array_equal(shown.labels, camera[:, :, 0])
    np.testing.assert_array_equal(shown.confidence, camera[:, :, 0])


def test_what_the_mask_covers_is_never_judged(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[2:] = 255
    cv2.imwrite(str(tmp_path / 'front.png'), mask)
    shown = finished(np.full((4, 6), 7), camera='front', unlabeled_id=3,
                     ego_mask=str(tmp_path / '{camera}.png'))
    assert (shown.labels[:2] == 7).all() and (shown.labels[2:] == 3).all()
    assert (shown.confidence[:2] == 255).all() and (shown.confidence[2:] == 0).all()
    small = finished(np.full((2, 3), 7), camera='front', ego_mask=str(tmp_path / 'front.png'))
    assert small.labels.tolist() == [[7] * 3, [255] * 3], 'labels of the size of the network'
    chosen = Settings(ego_mask=str(tmp_path / 'front.png'))
    finish = Finishing(CITYSCAPES, chosen)
    for size in ((4, 6), (2, 3), (2, 2), (4, 6)):  # a camera may change its size
        labels = np.full(size, 7, np.uint8)
        half = size[0] // 2
        assert finish(Segmentation(labels, labels), chosen).labels.tolist() == [
            *[[7] * size[1]] * half, *[[255] * size[1]] * half]
    with pytest.raises(ValueError, match='ego mask'):
        finished(np.full((8, 8), 7), ego_mask=str(tmp_path / 'front.png'))


@pytest.mark.parametrize('settings, text', [
    ({'class_groups': '/none.yaml'}, 'no file'),
    ({'ego_mask': '/none.png'}, 'no file'),
    ({'class_thresholds': ('road',)}, 'road:0.7'),
    ({'class_thresholds': ('raod:0.5',)}, 'did you mean road'),
    ({'class_thresholds': ('road:1.5',)}, '0..1'),
    ({'rotation': 45}, '0, 90, 180 or 270'),
])
def test_what_cannot_be_is_said(settings, text):
    with pytest.raises(ParameterError, match=text):
        finished([[0]], **settings)


def test_a_group_file_with_an_unknown_class_is_refused(tmp_path):
    file = tmp_path / 'groups.yaml'
    file.write_text('drivable: [rode]\n')
    with pytest.raises(ParameterError, match='class_groups.*did you mean road'):
        finished([[0]], class_groups=str(file))
