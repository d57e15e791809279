# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
import subprocess
import sys
import time

from dgtl_core.engine.child import tied
import pytest

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='the kernel must be Linux')
ROOT = Path(__file__).resolve().parent.parent
PARENT = """
import subprocess, sys, time
from dgtl_core.engine.child import tied
child = subprocess.Popen([*tied(), '/bin/sleep', '100'])
print(child.pid, flush=True)
time.sleep(100)
"""


def command_of(pid):
    """Return the command line of a process; empty if it is gone, or dead and not yet buried."""
    try:
        return Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
    except OSError:
        return [b'']


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, 'it did not happen in time'
        time.sleep(0.02)


def test_a_child_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, '-c', PARENT], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        until(lambda: command_of(pid)[0] == b'/bin/sleep')
        parent.kill()  # nothing of it can run any more
    until(lambda: command_of(pid)[0] == b'')


def test_a_child_whose_parent_is_gone_already_never_becomes_its_program(tmp_path):
    command = [*tied(), '/bin/touch', str(tmp_path / 'started')]
    command[-3] = str(os.getpid() + 1)
    subprocess.run(command, check=True)
    assert not (tmp_path / 'started').exists()
    subprocess.run([*tied(), *command[-2:]], check=True)
    assert (tmp_path / 'started').exists()


def test_program_and_exit_code_pass_through():
    program = 'import sys; print(sys.argv[1:]); sys.exit(7)'
    done = subprocess.run([*tied(), sys.executable, '-c', program,
                           'a b', '-c'], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "['a b', '-c']\n")
