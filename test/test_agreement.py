# SPDX-License-Identifier: Apache-2.0
from dgtl_core.engine.agreement import (
    labeled_by,
    LabeledPicture,
    street_pictures,
    verify_engine,
)
from dgtl_core.model_file import ModelError
from dgtl_core.runtime.contract import Outputs, RunOptions
from dgtl_core.runtime.onnx import OnnxBackend
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import write_tiny_onnx


@pytest.fixture
def make(tmp_path):
    def backend(divisor, batch=1):
        path = write_tiny_onnx(
            tmp_path / f'{divisor}-{batch}.onnx', divisor=divisor, batch=batch)
        return OnnxBackend(path, RunOptions(device='cpu'))

    return backend


def pictures(count=3):
    """Red 0..149 in equal parts: two models with divisors 8 and 9 differ on many of them."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[..., 0] = np.arange(32 * 64).reshape(32, 64) % 150
    return [np.roll(image, 5 * i, axis=0) for i in range(count)]


def test_a_model_agrees_with_itself(make):
    known = labeled_by(make(8), pictures())
    assert verify_engine(make(8), known) == 1.0


def test_pictures_of_other_sizes_are_brought_to_the_input(make):
    known = labeled_by(make(8), [np.full((100, 50, 3), 80, np.uint8)])
    assert known[0].image.shape == (32, 64, 3) and (known[0].labels == 10).all()


def test_the_share_is_counted_in_pixels(make):
    known = labeled_by(make(8), pictures())
    spoilt = [LabeledPicture(k.image, k.labels.copy()) for k in known]
    spoilt[0].labels[:8] += 1  # a quarter of one picture of three
    assert verify_engine(make(8), spoilt, 0.9) == pytest.approx(1 - 1 / 12)
    with pytest.raises(ModelError, match=r'only 91.67% .* 3 pictures .*batch 1.* 95.00% .*gather'):
        verify_engine(make(8), spoilt, 0.95)


def test_another_model_is_refused(make):
    with pytest.raises(ModelError, match='export the model again with "--sampling gather"'):
        verify_engine(make(9), labeled_by(make(8), pictures()))


def test_nan_is_refused(make):
    with pytest.raises(ModelError):
        verify_engine(make(8), labeled_by(make(8), pictures()), float('nan'))


def test_batches_are_compared_too(make):
    known = labeled_by(make(8), pictures(3))
    right = make(8, 'batch')
    right.max_batch = 4
    assert verify_engine(right, known) == 1.0

    class WrongInBatches:
        name, metadata, max_batch = 'wrong', right.metadata, 4

        def __call__(self, images):
            labels, confidence, _ = right(images)
            labels[1:] = 0  # NVIDIA/TensorRT#4853 is like that
            return Outputs(labels, confidence)

    with pytest.raises(ModelError, match='batch 4'):
        verify_engine(WrongInBatches(), known)


def test_no_pictures_is_no_comparison(make):
    with pytest.raises(ValueError, match='none were given'):
        verify_engine(make(8), [])


def test_the_pictures_of_the_package_are_small_streets_in_several_weathers():
    streets = street_pictures()
    assert len(streets) == 6 and all(p.dtype == np.uint8 and p.std() > 20 for p in streets)
    assert not any(np.array_equal(streets[0], other) for other in streets[1:])
