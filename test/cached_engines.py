# SPDX-License-Identifier: Apache-2.0
"""Engines in a cache, built by processes that can be stopped."""

from pathlib import Path
import subprocess
import sys

from dgtl_core.engine.cache import EngineCache, EngineKey

ROOT = Path(__file__).resolve().parent.parent
KEY = EngineKey(
    model_sha256='ab' * 32, gpu='Orin (nvgpu)', compute_capability='8.7',
    tensorrt='tensorrt 10.3.0.26', cuda='12.6', driver='540.4.0', precision='fp16',
    shape=(1, 512, 1024, 3), options={'workspace_mb': 2048, 'optimization_level': 3})
OLD, NEW = b'old engine ' * 1000, b'new engine ' * 2000


# What every script below starts with; the arguments are the folder and what the script likes.
PRELUDE = f"""
import logging, os, pathlib, signal, sys, time
from dgtl_core.engine.cache import EngineCache, EngineCacheError, EngineKey
logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')
KEY = {KEY!r}
cache = EngineCache(sys.argv[1])
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, '-c', PRELUDE + script, *map(str, arguments)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def writes(content):
    return lambda path: path.write_bytes(content) and None


def finish(process, code=0):
    said, _ = process.communicate(timeout=30)
    assert process.returncode == code, said
    return said


def never(path):
    raise AssertionError('nothing must be built here')


def engine(root, key=KEY):
    """Return the content of the engine that is there."""
    with EngineCache(root) as cache:
        return cache.get_or_build(key, never).read_bytes()
