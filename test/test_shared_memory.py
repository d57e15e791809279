# SPDX-License-Identifier: Apache-2.0
"""What killed processes left in shared memory; test_faults.py kills real ones."""

import fcntl
import os
import time

from dgtl_ros.shared_memory import remove_abandoned
import pytest

NAME = 'fastdds_0123456789abcdef'


def segment(folder, name=NAME, size=8192):
    """Write a segment and the file that is locked while it is in use."""
    (folder / name).write_bytes(bytes(size))
    lock = folder / f'{name}_el'
    lock.touch()
    return lock


def left(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize('name', [NAME, 'fastrtps_00000000000000ff'])
def test_a_segment_that_nobody_uses_is_removed(tmp_path, name):
    segment(tmp_path, name)
    assert remove_abandoned(tmp_path) == 8192
    assert left(tmp_path) == [] and remove_abandoned(tmp_path) == 0


def test_a_segment_in_use_stays(tmp_path):
    lock = segment(tmp_path)
    with open(lock, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_abandoned(tmp_path) == 0
        assert left(tmp_path) == [NAME, f'{NAME}_el']
    assert remove_abandoned(tmp_path) == 8192


def test_what_is_just_being_made_stays(tmp_path, monkeypatch):
    segment(tmp_path)
    another = 'fastdds_fedcba9876543210'
    monkeypatch.setattr(time, 'sleep', lambda seconds: segment(tmp_path, another))
    assert remove_abandoned(tmp_path) == 8192
    assert left(tmp_path) == [another, f'{another}_el'], 'it was not there at the first look'


@pytest.mark.parametrize('name', [
    'fastdds_port7410', f'{NAME}0', 'fastdds_0123456789ABCDEF', f'my{NAME}', 'pulse-shm-1'])
def test_files_of_another_kind_stay(tmp_path, name):
    segment(tmp_path, name)
    assert remove_abandoned(tmp_path) == 0 and len(left(tmp_path)) == 2


def test_those_of_other_users_stay(tmp_path, monkeypatch):
    segment(tmp_path)
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    assert remove_abandoned(tmp_path) == 0 and len(left(tmp_path)) == 2


def test_a_lock_without_its_segment_and_a_folder_that_is_not_there(tmp_path):
    segment(tmp_path)
    (tmp_path / NAME).unlink()
    assert remove_abandoned(tmp_path) == 0 and left(tmp_path) == []
    assert remove_abandoned(tmp_path / 'none') == 0


def test_one_that_cannot_be_removed_keeps_none_of_the_others(tmp_path):
    segment(tmp_path, 'fastdds_0000000000000000')
    (tmp_path / 'fastdds_1111111111111111').mkdir()
    (tmp_path / 'fastdds_1111111111111111_el').touch()
    segment(tmp_path, 'fastdds_2222222222222222')
    assert remove_abandoned(tmp_path) == 2 * 8192
    assert left(tmp_path) == ['fastdds_1111111111111111', 'fastdds_1111111111111111_el']
