# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('torch')
from dgtl_core.config import preset
from dgtl_core.model.normalization import Normalization
import torch


@pytest.mark.parametrize('shape', [(3, 5, 7), (2, 3, 5, 7)])
def test_each_channel_loses_its_mean_and_gets_unit_deviation(shape):
    config = preset('dgtl-mini')
    pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    mean, std = (np.reshape(x, (3, 1, 1)) for x in (config.mean, config.std))
    found = Normalization(config)(torch.from_numpy(pictures))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, (pictures - mean) / std, atol=1e-6)


def test_a_checkpoint_has_nothing_of_it():
    assert not Normalization(preset('dgtl-mini')).state_dict()
