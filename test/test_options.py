# SPDX-License-Identifier: Apache-2.0
from dgtl_core.engine.options import EngineOptions
from dgtl_core.model_file import ModelError
import pytest


@pytest.mark.parametrize('options, message', [
    ({'build': 'later'}, "build must be one of .*'never'.*got 'later'"),
    ({'build': ['never']}, 'build must be one of'),
    ({'hardware': 'any'}, "hardware must be one of .*got 'any'"),
    ({'max_batch': 0}, r'max_batch must be a whole number in 1\.\.1024, got 0'),
    ({'max_batch': True}, 'max_batch must be a whole number .*got True'),
    ({'max_batch': 2.0}, 'max_batch must be a whole number .*got 2.0'),
    ({'workspace_mib': -1}, 'workspace_mib must be .*got -1'),
    ({'workspace_mib': 2**40}, r'in 0\.\.1048576, got 1099511627776'),
    ({'optimization_level': 6}, r'in 0\.\.5, got 6'),
    ({'rebuild': 1}, 'rebuild must be true or false, got 1'),
    ({'version_compatible': 'no'}, "version_compatible must be true or false, got 'no'"),
    ({'blocking_sync': 1}, 'blocking_sync must be true, false or None, got 1'),
    ({'cache_dir': 3}, 'cache_dir must be a text, got 3'),
    ({'cache_gib': 0}, 'cache_gib must be a number above 0, got 0'),
    ({'cache_gib': True}, 'cache_gib must be a number above 0, got True'),
    ({'cache_gib': 'many'}, "cache_gib must be a number above 0, got 'many'"),
    ({'cache_gib': float('nan')}, 'cache_gib must be a number above 0, got nan')])
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        EngineOptions(**options)


def test_what_an_engine_is_made_with():
    made = EngineOptions(build='never', cache_gib=2.5, max_batch=4).made_with()
    assert made == {'max_batch': 4, 'workspace_mib': 0, 'optimization_level': 3,
                    'hardware': 'this', 'version_compatible': False}
