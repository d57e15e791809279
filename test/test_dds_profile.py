# SPDX-License-Identifier: Apache-2.0
import argparse
import os

from dgtl_ros import dds_profile
from dgtl_ros.dds_profile import add_argument, CHOICES, choose, config_file, PROFILE, UDP
import pytest

VARIABLE = 'FASTDDS_DEFAULT_PROFILES_FILE'


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ROS_DISTRO', 'kilted')
    monkeypatch.setattr(dds_profile, '_free_shared_memory', lambda: 1 << 30)
    for name in (*CHOICES, 'RMW_IMPLEMENTATION'):
        monkeypatch.setenv(name, '')


@pytest.mark.parametrize('distribution, variable', [
    ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE'), ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ('kilted', VARIABLE), ('lyrical', VARIABLE)])
def test_large_pictures_get_room_and_it_is_said(monkeypatch, distribution, variable):
    monkeypatch.setenv('ROS_DISTRO', distribution)
    assert '64 MiB' in choose('large_images')
    assert os.environ[variable] == str(config_file(PROFILE))


@pytest.mark.parametrize('name, value', [
    *((name, 'UDPv4') for name in CHOICES), ('RMW_IMPLEMENTATION', 'rmw_cyclonedds_cpp')])
def test_what_the_user_chose_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert value in choose('large_images')
    assert os.environ[VARIABLE] in ('', 'UDPv4')


def test_a_profile_in_the_working_folder_is_a_choice_too(tmp_path):
    (tmp_path / 'DEFAULT_FASTDDS_PROFILES.xml').touch()
    assert str(tmp_path) in choose('large_images') and not os.environ[VARIABLE]


def test_none_and_too_little_memory_change_nothing(monkeypatch):
    choose('none')
    monkeypatch.setattr(dds_profile, '_free_shared_memory', lambda: 64 << 20)
    assert 'has 64 MiB left' in choose('large_images') and not os.environ[VARIABLE]


def test_udp_alone_is_a_wish_that_no_variable_overrides(monkeypatch):
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', 'SHM')
    monkeypatch.delenv('ROS_AUTOMATIC_DISCOVERY_RANGE', raising=False)
    assert choose('udp') == 'Fast DDS uses UDP alone (--dds-profile udp)'
    assert os.environ[VARIABLE] == str(config_file(UDP))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    assert 'LOCALHOST adds shared memory' in choose('udp')


def test_a_file_of_the_user(tmp_path):
    (tmp_path / 'mine.xml').touch()
    choose('mine.xml')
    assert os.environ[VARIABLE] == str(tmp_path / 'mine.xml')
    with pytest.raises(FileNotFoundError, match=r'there is no file .*nope\.xml'):
        choose('nope.xml')


def test_the_argument():
    parser = argparse.ArgumentParser()
    add_argument(parser)
    assert parser.parse_args([]).dds_profile == 'large_images'
