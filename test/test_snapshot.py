# SPDX-License-Identifier: Apache-2.0
"""A snapshot is there as a whole or not at all, and overwrites none."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_core.classes import CITYSCAPES
from dgtl_core.domain import Verdict
from dgtl_ros import snapshot
from dgtl_ros.health import Health
from dgtl_ros.settings import Settings
from dgtl_ros.snapshot import write_snapshots
from dgtl_ros.stream import Result

pytestmark = pytest.mark.ros
PLANE = np.zeros((4, 6), np.uint8)
FILES = ['confidence.png', 'image.png', 'labels.png', 'overlay.jpg', 'statistics.json']


class Source:
    """What a snapshot needs of a stream."""

    def __init__(self, name, stamp):
        self.name, self.health = name, Health()
        self.watch = SimpleNamespace(verdict=Verdict())
        self.outputs = SimpleNamespace(classes=CITYSCAPES)
        self.last = stamp if stamp is None else Result(np.zeros((4, 6, 3), np.uint8), PLANE, PLANE,
                                                       stamp)


@pytest.fixture
def settings(tmp_path):
    return dataclasses.replace(Settings(), snapshot_dir=str(tmp_path / 'shots'))


def test_pictures_without_stamps_do_not_overwrite_each_other(settings, tmp_path):
    streams = [Source('/front', 0), Source('rear', 7), Source('never', None)]
    folders = write_snapshots(streams, 'tiny', settings) + write_snapshots(
        streams[:1], 'tiny', settings)
    assert [str(f.relative_to(tmp_path / 'shots')) for f in folders] == [
        'front/0', 'rear/7', 'front/0-1']
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == FILES


def test_a_full_disk_leaves_no_half_folder(settings, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(snapshot, 'write_json', full)
    with pytest.raises(OSError, match='No space left'):
        write_snapshots([Source('front', 5)], 'tiny', settings)
    assert list((tmp_path / 'shots' / 'front').iterdir()) == []
