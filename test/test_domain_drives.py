# SPDX-License-Identifier: Apache-2.0
"""Odd drives are refused with what was got and what to do, and none ends in an error of numpy."""

from dgtl_core.domain import DomainLimits, DomainMonitor, features
from dgtl_core.domain_drives import Copies, most_new_places
from dgtl_core.domain_fit import fit
from dgtl_core.domain_model import DomainError
from dgtl_core.predictor import Segmentation
import numpy as np
import pytest

LENGTH = 30
RNG = np.random.default_rng(0)
STUCK = np.ones((40, LENGTH))


def drive(count=20, length=LENGTH):
    return RNG.normal(size=(count, length))


def copies(count=20):
    clean = drive(count)
    return {kind: Copies(clean, clean + 3 * RNG.normal(size=LENGTH)) for kind in ('fog', 'night')}


def with_nan(count=20):
    broken = drive(count)
    broken[3, 5] = np.nan
    return broken


@pytest.mark.parametrize(('drives', 'message'), [
    ({}, '^0 pictures: too few .* Give at least 20'),
    ({'a': drive(1)}, '^1 picture: too few'),
    ({'a': drive(2)}, '^2 pictures: too few'),
    ({'a': np.zeros((0,))}, '^0 pictures: too few'),
    ({'a': STUCK}, r'^1 picture and 39 repeated \(was the camera stuck\?\): too few'),
    ({'a': drive(), 'b': STUCK}, 'the drive b has 1 picture and 39 repeated .* at least 10'),
    ({'a': drive(), 'b': drive(3)}, 'b has 3 pictures, and each drive needs at least 10'),
    ({'a': drive(40), 'b': drive(0)}, 'the drive b has 0 pictures'),
    ({str(n): drive(1) for n in range(30)}, 'the drive 0 has 1 picture, .*in one folder, video'),
    ({'a': drive(), 'b': with_nan()}, 'the drive b: .* not finite for 1 of 20 pictures, first for '
     'number 4.* --precision fp32'),
    ({'a': drive() > 0}, r'the drive a must be numbers .*, got bool of \(20, 30\)'),
    ({'a': drive()[0]}, r'the drive a must be numbers .*, got float64 of \(30,\)'),
    ({'a': drive(), 'b': drive(length=29)}, r'lengths 30 \(a\), 29 \(b\)'),
])
def test_a_drive_that_tells_nothing_is_refused(drives, message):
    with pytest.raises(DomainError, match=message):
        fit(drives, copies())


def test_one_recording_under_two_names_is_no_second_drive():
    """Left out, it would be judged by its own copy, and no alarm would be false."""
    one = drive(40)
    with pytest.raises(DomainError, match='30 pictures of the drive a are in b too'):
        fit({'a': one, 'b': one[10:]}, copies())
    black = np.zeros((1, LENGTH))  # as many cameras begin
    assert fit({'a': np.concatenate((black, one)), 'b': np.concatenate((black, drive(40)))},
               copies()).drives[0].pictures == 41


@pytest.mark.parametrize(('given', 'message'), [
    ({}, 'at least one kind, got none'),
    (copies(1), 'fog needs at least 4 pictures, got 1'),
    ({'fog': Copies(drive(5), drive(4))}, r'got \(4, 30\) and \(5, 30\)'),
    ({'fog': Copies(drive(5), np.full((5, LENGTH), np.inf))}, 'pictures of fog: .*finite'),
])
def test_copies_that_tell_nothing_are_refused(given, message):
    with pytest.raises(DomainError, match=message):
        fit({'a': drive()}, given)


@pytest.mark.parametrize('drives', [
    {'a': np.concatenate((np.repeat(drive(1), 30, 0), drive(20)))},  # it stood for a while
    {'a': drive(10), 'b': drive(10)},
    {'a': drive().astype(np.float16), 'b': drive()},
    {'a': 1 + 1e-9 * drive(), 'b': 1 + 1e-9 * drive()},  # a lens cap: noise alone
])
def test_what_is_short_or_hardly_changes_gives_finite_statistics(drives):
    with np.errstate(all='raise', under='ignore'):
        model = fit(drives, copies())
    assert all(np.isfinite(part).all() for part in (model.normal, model.shifted, model.spread))
    assert np.isfinite(model.evidence(drive(5))).all()


def test_a_signature_that_is_not_finite_is_a_shift_while_it_lasts():
    image = RNG.integers(60, 200, (96, 160, 3)).astype(np.uint8)
    labels = np.zeros((96, 160), np.uint8)

    def seen(value):
        result = Segmentation(labels, labels + 200)
        result.signature = RNG.normal(size=4).astype(np.float32) + np.float32(value)
        return RNG.permuted(image, axis=0), result

    clean = np.stack([features(*seen(0)) for _ in range(40)])
    moved = np.stack([features(*seen(9)) for _ in range(40)])
    model = fit({'a': clean[:20], 'b': clean[20:]}, {'fog': Copies(clean, moved)})
    monitor, states = DomainMonitor(1, model), []
    for value in (0, np.nan, 0):
        for _ in range(30):
            monitor.look(*seen(value))
        states.append(monitor.report(DomainLimits()).state)
    assert states == ['familiar', 'shifted', 'familiar']


def test_what_the_drives_that_were_left_out_show_of_new_places():
    assert most_new_places(0, 29) == pytest.approx(1 - 0.05 ** (1 / 29))
    assert most_new_places(2, 2) == 1
    # Clopper and Pearson's upper end, one-sided 95 %: the beta quantile (0.95; k + 1, n - k)
    assert most_new_places(1, 2) == pytest.approx(0.974679, abs=1e-5)
    assert most_new_places(3, 10) == pytest.approx(0.606624, abs=1e-5)
