# SPDX-License-Identifier: Apache-2.0
"""Engines are found again, never trusted, and survive whatever happens to their builders."""

from dataclasses import replace
import fcntl
import json
from pathlib import Path
import re
import shutil
import signal
import tempfile

from cached_engines import engine, finish, KEY, never, NEW, OLD, start, writes
from dgtl_core.engine.cache import EngineCache, EngineCacheError
from dgtl_core.files import file_sha256
import pytest


def leftovers(root):
    """Return the files beside one complete entry."""
    return [p.name for p in root.iterdir() if not re.fullmatch(
        r'[0-9a-f]{64}(\.json|\.lock|-[0-9a-f]{16}\.engine)', p.name)]


@pytest.fixture
def old(tmp_path):
    """Return a folder that holds one engine."""
    root = tmp_path / 'engines'
    with EngineCache(root) as cache:
        cache.get_or_build(KEY, writes(OLD))
    return root


@pytest.mark.parametrize('change', [
    {'model_sha256': 'cd' * 32}, {'gpu': 'Thor'}, {'compute_capability': '11.0'},
    {'tensorrt': 'tensorrt 10.13.3.9'}, {'cuda': '13.0'}, {'driver': '580.1'},
    {'precision': 'fp32'}, {'shape': (1, 512, 512, 3)}, {'options': {'workspace_mb': 2048}},
    {'options': {'workspace_mb': 2048, 'optimization_level': 4}}], ids=lambda c: next(iter(c)))
def test_every_field_makes_another_engine(old, change):
    other = replace(KEY, **change)
    with EngineCache(old) as cache:
        assert cache.get_or_build(other, writes(NEW)).read_bytes() == NEW
    assert engine(old) == OLD and engine(old, other) == NEW


def test_the_order_of_options_does_not_matter():
    turned = replace(KEY, options=dict(reversed(KEY.options.items())))
    assert turned.digest() == KEY.digest() and re.fullmatch('[0-9a-f]{64}', KEY.digest())


def test_builds_once_and_says_what_is_inside(tmp_path):
    calls = []
    root = tmp_path / 'a' / 'b'
    with EngineCache(root) as cache:
        path = cache.get_or_build(KEY, lambda path: calls.append(1) or writes(OLD)(path))
        assert cache.get_or_build(KEY, never) == path
    assert engine(root) == OLD and len(calls) == 1
    side = json.loads((root / f'{KEY.digest()}.json').read_text())
    assert side['key']['gpu'] == 'Orin (nvgpu)' and side['key']['shape'] == [1, 512, 1024, 3]
    assert side['size'] == len(OLD) and side['sha256'] == file_sha256(path)
    assert not leftovers(root)


def test_rebuild_replaces_and_leaves_nothing_of_the_old(old):
    with EngineCache(old) as cache:
        assert cache.get_or_build(KEY, writes(NEW), rebuild=True).read_bytes() == NEW
    assert engine(old) == NEW
    assert len(list(old.glob('*.engine'))) == 1


@pytest.mark.parametrize('damage', [
    lambda blob, side: blob.write_bytes(OLD[:-1]),
    lambda blob, side: blob.write_bytes(OLD[:-1] + b'!'),
    lambda blob, side: blob.write_bytes(b''),
    lambda blob, side: blob.unlink(),
    lambda blob, side: side.unlink(),
    lambda blob, side: side.write_text('{"format": 1'),
    lambda blob, side: side.write_bytes(b'\xff\x00'),
    lambda blob, side: side.write_text('[]'),
    lambda blob, side: side.write_text(side.read_text().replace('"format": 1', '"format": 0')),
    lambda blob, side: side.write_text(side.read_text().replace('10.3.0.26', '10.3.0.27')),
    lambda blob, side: side.write_text(side.read_text().replace('"size"', '"length"')),
], ids=['cut', 'changed', 'empty', 'no engine', 'no side file', 'side cut', 'side binary',
        'side other', 'side format', 'other version', 'no size'])
def test_a_broken_or_stale_engine_is_rebuilt(old, damage, caplog):
    damage(next(old.glob('*.engine')), old / f'{KEY.digest()}.json')
    sizes = [p.stat().st_size for p in old.glob('*.engine')]
    with EngineCache(old) as cache:
        assert cache.get_or_build(KEY, writes(NEW)).read_bytes() == NEW
    assert engine(old) == NEW
    assert len(list(old.glob('*.engine'))) == 1 and not leftovers(old)
    if sizes and sizes != [len(OLD)]:
        assert f'has {sizes[0]} bytes, not {len(OLD)}' in caplog.text


def raises(error):
    raise error


@pytest.mark.parametrize('build, error', [
    (lambda path: raises(KeyboardInterrupt()), KeyboardInterrupt),
    (lambda path: raises(MemoryError('no workspace')), MemoryError),
    (lambda path: path.touch(), EngineCacheError),
    (lambda path: None, EngineCacheError),
], ids=['interrupted', 'failed', 'empty', 'nothing'])
def test_a_build_that_fails_changes_nothing(old, build, error):
    with EngineCache(old) as cache, pytest.raises(error):
        cache.get_or_build(KEY, build, rebuild=True)
    assert engine(old) == OLD and not leftovers(old)


def test_two_processes_build_once(tmp_path):
    script = """
def build(path):
    with open(sys.argv[2], 'a') as log:
        log.write('built\\n')
    time.sleep(0.5)
    path.write_text(f'engine of {os.getpid()}')
print('ready', flush=True)
sys.stdin.readline()
print(cache.get_or_build(KEY, build).read_text())
"""
    root, log = tmp_path / 'engines', tmp_path / 'log'
    racers = [start(script, root, log) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == 'ready\n'
    for racer in racers:
        racer.stdin.write('go\n')
        racer.stdin.flush()
    said = [finish(racer) for racer in racers]
    assert log.read_text() == 'built\n'
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert sum('another process builds' in text for text in said) == 1


def test_a_builder_that_is_killed_leaves_the_old_engine_and_no_lock(old):
    script = """
def build(path):
    print('building', flush=True)
    time.sleep(60)
cache.get_or_build(KEY, build, rebuild=True)
"""
    builder = start(script, old)
    assert builder.stdout.readline() == 'building\n'
    waiter = start(
        "cache.get_or_build(KEY, lambda path: path.write_bytes(b'mine'), rebuild=True)", old)
    assert 'waiting' in waiter.stdout.readline()
    assert engine(old) == OLD  # who does not build needs not wait
    builder.kill()
    finish(builder, -signal.SIGKILL)
    finish(waiter)
    assert engine(old) == b'mine' and not leftovers(old)


def test_a_kill_at_any_step_of_writing_leaves_a_whole_engine(old, tmp_path):
    script = f"""
steps = iter(range(100))
def deadly(function):
    def step(*args, **kwargs):
        if next(steps) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return step
for name in ('fsync', 'replace', 'unlink', 'utime'):
    setattr(os, name, deadly(getattr(os, name)))
cache.get_or_build(KEY, lambda path: path.write_bytes({NEW!r}), rebuild=True)
print('done')
"""
    seen = []
    for step in range(20):
        root = tmp_path / str(step)
        shutil.copytree(old, root)
        process = start(script, root, step)
        process.wait(timeout=30)
        seen.append(engine(root))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stdout.read()
        process.communicate()
        with EngineCache(root) as cache:  # and the next builder cleans up
            cache.get_or_build(KEY, writes(NEW), rebuild=True)
        assert engine(root) == NEW and not leftovers(root)
        assert len(list(root.glob('*.engine'))) == 1
    assert 'done' in finish(process)
    assert step >= 5 and seen[0] == OLD and seen[-1] == NEW
    assert seen == sorted(seen, key=[OLD, NEW].index), 'the old one came back'


@pytest.mark.parametrize('blob, limit', [(NEW, 4096), (b'short', 100)], ids=['blob', 'side'])
def test_a_kill_amid_a_write_leaves_the_old_engine(old, blob, limit):
    script = f"""
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills where the file gets too long
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
cache.get_or_build(KEY, lambda path: path.write_bytes({blob!r}), rebuild=True)
"""
    finish(start(script, old), -signal.SIGXFSZ)
    assert engine(old) == OLD and leftovers(old)
    finish(start(f'cache.get_or_build(KEY, lambda path: path.write_bytes({NEW!r}), rebuild=True)',
                 old))
    assert engine(old) == NEW and not leftovers(old)


@pytest.mark.parametrize('suffix', ['engine', 'lock'])
def test_a_file_that_is_removed_while_it_is_locked(old, suffix, monkeypatch):
    """Another process evicts between our open and our lock."""
    victims = list(old.glob(f'*.{suffix}'))
    lock = fcntl.flock

    def late(file, operation):
        if victims and file.name == str(victims[-1]):
            victims.pop().unlink()
        lock(file, operation)

    def build(path):
        assert not victims and (old / f'{KEY.digest()}.lock').exists()
        path.write_bytes(NEW)

    monkeypatch.setattr(fcntl, 'flock', late)
    with EngineCache(old) as cache:
        path = cache.get_or_build(KEY, build, rebuild=suffix == 'lock')
        assert path.read_bytes() == NEW


def test_a_full_disk_leaves_the_old_engine(old):
    script = """
import resource
def build(path):
    path.write_bytes(bytes(100_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    cache.get_or_build(KEY, build, rebuild=True)
except EngineCacheError as error:
    print(error)
"""
    said = finish(start(script, old))
    assert 'cannot write an engine of 0.1 MB' in said and 'free some space' in said
    assert engine(old) == OLD and not leftovers(old)


def test_a_folder_without_write_permission(old):
    """A found engine is used; one that is missing is a clear error, before the long build."""
    script = """
if os.getuid() == 0:
    os.setuid(65534)
print(cache.get_or_build(KEY, lambda path: sys.exit('built')).read_bytes()[:10])
for root, rebuild in ((sys.argv[1], True), (sys.argv[1] + '/below', False)):
    try:
        EngineCache(root).get_or_build(KEY, lambda path: sys.exit('built'), rebuild=rebuild)
    except EngineCacheError as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as folder:  # other users cannot enter pytest's folder
        root = Path(folder) / 'engines'
        shutil.copytree(old, root)
        Path(folder).chmod(0o755)
        root.chmod(0o555)
        said = finish(start(script, root))
        assert engine(root) == OLD
        root.chmod(0o755)
    assert "b'old engine'" in said
    assert 'cannot write to the engine cache' in said and 'cannot make the engine cache' in said
    assert said.count('another folder') == 2


def test_a_home_that_there_is_not(tmp_path):
    with pytest.raises(EngineCacheError, match='~nobody-has-this/x is no folder.*in full'):
        EngineCache('~nobody-has-this/x')
