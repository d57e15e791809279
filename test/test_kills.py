# SPDX-License-Identifier: Apache-2.0
"""A training run that is killed and resumed ends with the weights of one that was not."""

import pytest

pytest.importorskip('torch')
from training.bench.kills import kills


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_resume_to_the_same_weights(tmp_path):
    found = kills(4, 1, tmp_path, steps=12)
    assert found['kills'] == 4 and found['runs'] and found['same_weights']
