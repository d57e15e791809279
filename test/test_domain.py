# SPDX-License-Identifier: Apache-2.0
import json
import tracemalloc

import cv2
from dgtl_core.appearance import appearance, NAMES
from dgtl_core.domain import DomainLimits, DomainMonitor, features, Verdict
from dgtl_core.domain_drives import Copies
from dgtl_core.domain_fit import fit
from dgtl_core.domain_model import DomainError, DomainModel
from dgtl_core.predictor import Segmentation
import numpy as np
import pytest

RNG = np.random.default_rng(0)
SIZE = (120, 160)
LABELS = RNG.integers(0, 4, SIZE).astype(np.uint8)
SURE = np.full(SIZE, 240, np.uint8)


def day():
    return RNG.integers(60, 200, (*SIZE, 3)).astype(np.uint8)


def faults(image=day, labels=LABELS, confidence=SURE, limits=DomainLimits(), count=40):  # noqa: B008
    monitor = DomainMonitor(4)
    for _ in range(count):
        monitor.look(image() if callable(image) else image, Segmentation(labels, confidence))
    verdict = monitor.report(limits)
    return verdict.values, list(verdict.causes)


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
        faults(**dark, limits=DomainLimits(dark_luma=5.0))[1])


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
    two.look(day(), Segmentation(LABELS % 2, np.full(SIZE, round(255 * 0.8), np.uint8)))
    exact = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    assert two.report(DomainLimits()).values['entropy'] == pytest.approx(exact, abs=1e-6)


def test_class_frequencies_are_compared_with_the_first_pictures():
    monitor = DomainMonitor(4)
    for label in [0] * 30 + [3] * 30:
        monitor.look(day(), Segmentation(np.full(SIZE, label, np.uint8), SURE))
    assert monitor.report(DomainLimits()).values['class_hist_shift'] == pytest.approx(1)
    assert monitor.report(DomainLimits(window=60)).values['class_hist_shift'] == pytest.approx(0.5)
    monitor.reset()
    assert monitor.report(DomainLimits()) == Verdict()
    monitor.look(day(), Segmentation(np.full(SIZE, 3, np.uint8), SURE))
    assert monitor.report(DomainLimits()).values['class_hist_shift'] == 0


def test_the_window_forgets():
    monitor = DomainMonitor(4)
    for image in [day() // 10] * 5 + [day() for _ in range(10)]:
        monitor.look(image, Segmentation(LABELS, SURE))
    assert monitor.report(DomainLimits(window=10)).causes == ()


def test_any_size_is_looked_at():
    for height, width in ((1, 1), (2, 3), (720, 1280)):
        monitor = DomainMonitor(2)
        flat = np.zeros((height, width), np.uint8)
        monitor.look(np.zeros((height, width, 3), np.uint8), Segmentation(flat, flat))
        assert monitor.report(DomainLimits()).values['luma_mean'] == 0


def test_what_is_looked_at_does_not_grow_with_the_picture():
    """Memory tells without a clock that nothing is made of all pixels."""
    most = []
    for height, width in ((1080, 1920), (2160, 3840)):
        image = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
        result = Segmentation(*np.full((2, height, width), 200, np.uint8))
        monitor = DomainMonitor(256)
        monitor.look(image, result)
        tracemalloc.start()
        monitor.look(image, result)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[0] < 2 << 20 and most[1] < 1.2 * most[0]


def test_a_large_picture_looks_as_a_small_one_does():
    small = cv2.resize(RNG.integers(0, 256, (6, 12, 3)).astype(np.uint8), (768, 384),
                       interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(small, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    at = [n for n, name in enumerate(NAMES) if name != 'blur']  # that is of the full resolution
    np.testing.assert_allclose(appearance(large)[at], appearance(small)[at], atol=0.02)


def drive(place, count=60, shift=0.0):
    """Pictures of a place whose signatures lie about it; a shift moves them along one axis."""
    results = []
    for _ in range(count):
        result = Segmentation(LABELS, SURE)
        signature = RNG.normal(0, 1, 8) + 3 * np.eye(8)[place]
        signature[7] += shift
        result.signature = signature.astype(np.float32)
        results.append((day(), result))
    return results


def vectors(pairs):
    return np.stack([features(image, result) for image, result in pairs])


def fitted(places=(0, 1, 2)):
    clean = vectors(drive(0, 40))
    moved = clean.copy()
    moved[:, -1] += 8
    return fit({f'drive {p}': vectors(drive(p)) for p in places}, {'fog': Copies(clean, moved)})


def state(monitor, pairs, seconds=0.1):
    for image, result in pairs:
        monitor.look(image, result, seconds)
    return monitor.report(DomainLimits(window=10))


def test_another_place_is_familiar_and_a_shift_is_found_and_named():
    model = fitted()
    assert model.cross_validated == 'drive' and model.false_alarms <= 0.05
    monitor = DomainMonitor(4, model)
    assert state(monitor, drive(3)).state == 'familiar'
    assert monitor.report(DomainLimits()).score < 0.5
    found = state(monitor, drive(3, 10, shift=8))
    assert found.state == 'shifted' and found.score > 0.5
    assert found.causes[0] == 'fog-like contrast'
    assert state(monitor, drive(3, 10)).state == 'familiar'


def test_a_flare_is_nothing_at_any_rate_and_a_change_is_seen_within_a_second():
    model = fitted()
    for hertz, flare, change in ((10, 4, 10), (30, 12, 30)):
        monitor = DomainMonitor(4, model)
        state(monitor, drive(1, 20), 1 / hertz)
        assert state(monitor, drive(1, flare, shift=8), 1 / hertz).state == 'familiar'
        state(monitor, drive(1, 20), 1 / hertz)
        assert state(monitor, drive(1, change, shift=8), 1 / hertz).state == 'shifted'


def test_pixels_of_the_robot_itself_do_not_count():
    model, robot = fitted(), np.zeros(SIZE, bool)
    robot[-70:] = True  # reaches into the band in which sharpness is measured
    pairs, results = drive(3, 10), []
    for shade in (0, 255):
        monitor = DomainMonitor(4, model)
        for image, result in pairs:
            changed = Segmentation(*(np.where(robot, np.uint8(shade), m) for m in result))
            changed.signature = result.signature
            image = np.where(robot[..., None], np.uint8(shade), image)
            monitor.look(image, changed, ignored=robot)
        results.append(monitor.report(DomainLimits(window=10)))
    assert results[0] == results[1] and results[0].values['unlabeled_fraction'] == 0
    assert set(np.isfinite(list(results[0].values.values()))) == {True}
    everything = DomainMonitor(4, model)
    everything.look(*drive(3, 1)[0], ignored=np.ones(SIZE, bool))
    assert np.isfinite(list(everything.report(DomainLimits()).values.values())).all()


def test_few_drives_are_tried_by_stretches_of_time():
    assert fitted(places=(0,)).cross_validated == 'segment'
    with pytest.raises(DomainError, match='12 pictures: too few'):
        clean = vectors(drive(0, 12))
        fit({'a': clean}, {'fog': Copies(clean, clean + 1)})


def test_a_domain_survives_the_model_file_and_is_small():
    model = fitted()
    again = DomainModel.from_dict(json.loads(json.dumps(model.to_dict())))
    seen = vectors(drive(4, 5, shift=3))
    np.testing.assert_allclose(again.evidence(seen), model.evidence(seen), rtol=0.02, atol=0.05)
    assert again.drives == model.drives and again.channels == model.channels
    with pytest.raises(DomainError, match='fitted on .*dgtl calibrate'):
        model.evidence(seen[:, :-1])


@pytest.mark.parametrize('change', [
    {'format': 2}, {'mean': None}, {'channels': ['fog']}, {'rest': 'much'},
    {'normal': {'shape': [9], 'type': '<f4', 'data': ''}}])
def test_a_broken_domain_is_refused_with_what_to_do(change):
    with pytest.raises(DomainError, match='dgtl calibrate'):
        DomainModel.from_dict({**fitted().to_dict(), **change})
