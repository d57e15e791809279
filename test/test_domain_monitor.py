# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_ros.domain_monitor import DomainMonitor
from dgtl_ros.settings import Settings

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(0)
SIZE = (120, 160)
LABELS = RNG.integers(0, 4, SIZE).astype(np.uint8)
SURE = np.full(SIZE, 240, np.uint8)


def day():
    return RNG.integers(60, 200, (*SIZE, 3)).astype(np.uint8)


def faults(image=day, labels=LABELS, confidence=SURE, settings=Settings(), count=40):  # noqa: B008
    monitor = DomainMonitor(4)
    for _ in range(count):
        monitor.look(image() if callable(image) else image, labels, confidence)
    return monitor.report(settings)


def test_a_normal_picture_raises_nothing():
    values, wrong = faults()
    assert wrong == []
    assert values['luma_mean'] == pytest.approx(130, abs=3)
    assert values['mean_confidence'] == pytest.approx(240 / 255)
    assert values['unlabeled_fraction'] == 0 and values['frozen_frames'] == 0


@pytest.mark.parametrize('change, word', [
    ({'image': lambda: day() // 10}, 'dark'),
    ({'image': lambda: np.maximum(day(), 240)}, 'overexposed'),
    ({'image': lambda: np.full((*SIZE, 3), RNG.integers(100, 140), np.uint8)}, 'blurred'),
    ({'image': day()}, 'repeats one picture'),
    ({'confidence': np.full(SIZE, 100, np.uint8)}, 'mean confidence'),
    ({'confidence': np.full(SIZE, 100, np.uint8)}, 'entropy'),
])
def test_each_fault_is_named(change, word):
    assert word in '; '.join(faults(**change)[1])


def test_limits_are_parameters():
    dark = {'image': lambda: day() // 10}
    assert 'dark' not in '; '.join(
        faults(**dark, settings=Settings(domain_dark_luma=5.0))[1])


def test_unlabelled_pixels_are_counted():
    labels = LABELS.copy()
    labels[:60] = 255
    assert faults(labels=labels)[0]['unlabeled_fraction'] == pytest.approx(0.5)


def test_what_the_network_never_saw_is_not_held_against_it():
    labels, confidence = LABELS.copy(), SURE.copy()
    labels[:, :100], confidence[:, :100] = 255, 0  # as a crop fills what it cuts away
    values, wrong = faults(labels=labels, confidence=confidence)
    assert wrong == [] and values['mean_confidence'] == pytest.approx(240 / 255)
    labels[:] = 255
    assert faults(labels=labels, confidence=confidence)[0]['mean_confidence'] == 0


def test_entropy_estimate_ends_at_certain_and_at_undecided():
    assert faults(confidence=np.full(SIZE, 255, np.uint8))[0]['entropy'] == pytest.approx(0)
    undecided = faults(confidence=np.full(SIZE, 63, np.uint8))[0]['entropy']
    assert undecided == pytest.approx(1, abs=0.01)
    two = DomainMonitor(2)
    two.look(day(), LABELS % 2, np.full(SIZE, round(255 * 0.8), np.uint8))
    exact = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    assert two.report(Settings())[0]['entropy'] == pytest.approx(exact, abs=1e-6)


def test_class_frequencies_are_compared_with_the_first_pictures():
    monitor = DomainMonitor(4)
    for label in [0] * 30 + [3] * 30:
        monitor.look(day(), np.full(SIZE, label, np.uint8), SURE)
    assert monitor.report(Settings())[0]['class_hist_shift'] == pytest.approx(1)
    assert monitor.report(Settings(domain_window=60))[0]['class_hist_shift'] == pytest.approx(0.5)
    monitor.reset()
    assert monitor.report(Settings()) == ({}, [])
    monitor.look(day(), np.full(SIZE, 3, np.uint8), SURE)
    assert monitor.report(Settings())[0]['class_hist_shift'] == 0


def test_the_window_forgets():
    monitor = DomainMonitor(4)
    for image in [day() // 10] * 5 + [day() for _ in range(10)]:
        monitor.look(image, LABELS, SURE)
    assert monitor.report(Settings(domain_window=10))[1] == []


def test_any_size_is_looked_at():
    for height, width in ((1, 1), (2, 3), (720, 1280)):
        monitor = DomainMonitor(2)
        monitor.look(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8),
                     np.zeros((height, width), np.uint8))
        assert monitor.report(Settings())[0]['luma_mean'] == 0
