# SPDX-License-Identifier: Apache-2.0
"""The source that a result was made with."""

from __future__ import annotations

from pathlib import Path
import subprocess


def source_commit() -> str:
    """Return the commit of the source tree, or '' outside of one."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=12'], text=True, check=True,
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ''
    return done.stdout.strip()
