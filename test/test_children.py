# SPDX-License-Identifier: Apache-2.0
"""The small ROS world that our processes live in."""

import os
import socket
import subprocess
import sys

from dgtl_ros.show.children import ChildError, free_domain, isolated_environment
import pytest

SCRIPT = ('from dgtl_ros.show.children import free_domain\n'
          'print(free_domain()[0], flush=True); input()')


def start():
    return subprocess.Popen([sys.executable, '-c', SCRIPT], text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)


def test_every_process_gets_a_domain_of_its_own_for_as_long_as_it_lives():
    running = [start() for _ in range(3)]
    domains = [int(process.stdout.readline()) for process in running]
    domains.append(free_domain()[0])
    assert len(set(domains)) == 4 and min(domains) > 101, domains
    assert isolated_environment()['ROS_DOMAIN_ID'] == str(domains[-1]), 'one for each process'
    running[0].communicate('')
    again = start()
    assert int(again.stdout.readline()) == domains[0], 'what a process leaves is free again'
    for process in [*running[1:], again]:
        process.communicate('')


def test_a_domain_in_which_somebody_listens_is_passed_over():
    domain = free_domain.__wrapped__()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(('', 7400 + 250 * domain))
        assert free_domain.__wrapped__()[0] != domain


def test_no_free_domain_is_an_error(monkeypatch):
    held = free_domain.__wrapped__()
    monkeypatch.setattr('dgtl_ros.show.children._DOMAINS', held[:1])
    with pytest.raises(ChildError, match=f'all ROS domains from {held[0]} to .* are in use'):
        free_domain.__wrapped__()


def test_a_domain_that_was_asked_for_is_used():
    assert isolated_environment(7)['ROS_DOMAIN_ID'] == '7'
    assert 'ROS_DOMAIN_ID' not in os.environ or os.environ['ROS_DOMAIN_ID'] != '7'
