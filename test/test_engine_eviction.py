# SPDX-License-Identifier: Apache-2.0
"""What the engine cache removes when it is full, and what it must not touch."""

from dataclasses import replace
import logging
import os
from pathlib import Path
import signal
import time

from cached_engines import engine, finish, KEY, OLD, start, writes
from dgtl_core.engine.cache import EngineCache
import pytest


def fill(cache, precision, size):
    key = replace(KEY, precision=precision)
    cache.get_or_build(key, writes(bytes(size)))
    stamp = time.time() - 1000 + len(list(cache.root.glob('*.json')))
    os.utime(cache.root / f'{key.digest()}.json', (stamp, stamp))
    return key


def there(root, *keys):
    return [bool(list(root.glob(f'{key.digest()}*'))) for key in keys]


def test_the_engine_with_the_oldest_use_is_evicted(tmp_path):
    with EngineCache(tmp_path, max_bytes=250) as cache:
        first, second = fill(cache, 'fp32', 100), fill(cache, 'fp16', 100)
    (tmp_path / 'mine.engine').write_bytes(bytes(1000))
    assert engine(tmp_path, first) == bytes(100)  # used again: now the second is the oldest
    with EngineCache(tmp_path, max_bytes=250) as cache:
        third = fill(cache, 'bf16', 100)
    assert there(tmp_path, first, second, third) == [True, False, True]
    assert (tmp_path / 'mine.engine').exists()


def test_an_engine_in_use_is_not_evicted(tmp_path, caplog):
    with EngineCache(tmp_path) as cache:
        first, second = fill(cache, 'fp32', 100), fill(cache, 'fp16', 100)
    user = start(f"""
with cache:
    print(cache.get_or_build({first!r}, lambda path: sys.exit('built')), flush=True)
    os.utime(pathlib.Path(sys.argv[1]) / '{first.digest()}.json', (1, 1))
    print('used', flush=True)
    sys.stdin.readline()
""", tmp_path)
    path = Path(user.stdout.readline().strip())
    assert user.stdout.readline() == 'used\n'
    with caplog.at_level(logging.WARNING), EngineCache(tmp_path, max_bytes=150) as cache:
        third = fill(cache, 'bf16', 100)
        assert there(tmp_path, first, second, third) == [True, False, True] and path.exists()
    assert 'more than the limit' in caplog.text
    finish_by_input(user)
    with EngineCache(tmp_path, max_bytes=150) as cache:
        fourth = fill(cache, 'int8', 100)
    assert there(tmp_path, first, second, third, fourth) == [False, False, False, True]


def finish_by_input(process):
    said, _ = process.communicate('\n', timeout=30)
    assert process.returncode == 0, said


def test_an_engine_larger_than_the_limit_is_still_returned(tmp_path):
    with EngineCache(tmp_path, max_bytes=10) as cache:
        assert cache.get_or_build(KEY, writes(OLD)).read_bytes() == OLD
    assert engine(tmp_path) == OLD


def test_leftovers_of_killed_builders_count_and_go_first(tmp_path):
    orphan = tmp_path / f'{"0" * 64}-{"1" * 16}.engine'  # its side file was not written
    with EngineCache(tmp_path, max_bytes=250) as cache:
        first = fill(cache, 'fp32', 100)
    orphan.write_bytes(bytes(100))
    with EngineCache(tmp_path, max_bytes=250) as cache:
        second = fill(cache, 'fp16', 100)
    assert not orphan.exists() and there(tmp_path, first, second) == [True, True]


def test_the_workshop_of_a_killed_builder_goes_and_that_of_a_busy_one_stays(tmp_path):
    killing = """
cache.get_or_build(KEY, lambda path: path.write_bytes(b'half') and os.kill(os.getpid(), 9))
"""
    finish(start(killing, tmp_path), -signal.SIGKILL)
    killed, = tmp_path.glob('.*')
    (tmp_path / 'colcon-build').mkdir()  # somebody else's
    busy = start("""
cache.get_or_build(KEY, lambda path: print(path, flush=True) or path.write_text(input()))
""", tmp_path)
    half = Path(busy.stdout.readline().strip())
    assert not killed.exists()
    with EngineCache(tmp_path) as cache:
        cache.get_or_build(replace(KEY, precision='bf16'), writes(OLD))
    assert half.parent.exists() and (tmp_path / 'colcon-build').exists()
    busy.stdin.write('whole\n')
    busy.stdin.flush()
    finish(busy)
    assert engine(tmp_path) == b'whole' and not half.parent.exists()


def test_a_limit_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match='above 0, got 0'):
        EngineCache(tmp_path, max_bytes=0)
