# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, places that are read-only, model files that change while the node runs."""

import os
import resource
import shutil
import signal

import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from ros_world import Link, picture, plane
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros


def right(message):
    labels = plane(message)
    return labels[0, 0] == 2 and labels[0, -1] == 13


@pytest.fixture
def start(world):
    """Start the node in a namespace; give its link, once it answers."""
    links = []

    def start(space, model, extra=None, **parameters):
        running = world.start('segment_node', space, model_path=model, max_image_age=0.0,
                              extra=extra, **parameters)
        links.append(Link(world, space, running))
        assert right(links[-1].answer(picture()))
        return links[-1]

    yield start
    for link in links:
        link.close()
        assert link.running.signal(signal.SIGINT)[0] == 0, link.running.text()


def snapshot(link):
    return link.world.call(Trigger, f'/{link.space}/segmenter/snapshot', Trigger.Request())


@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='needs Linux')
def test_a_full_disk_costs_snapshots_and_log_lines_and_no_labels(start, tiny_model, tmp_path):
    """No file of the process can grow: logs, standard output and snapshots fail."""
    link = start('full', tiny_model, snapshot_dir=tmp_path)
    pid = link.running.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    answer = snapshot(link)
    assert not answer.success and f'cannot write to {tmp_path}' in answer.message
    link.send(picture(height=0))  # refused with a line in a log that takes none
    link.world.task('full', 'input', lambda values: values['decode_errors'] == '1')
    assert right(link.answer(picture()))
    assert os.listdir(tmp_path) == []
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert snapshot(link).success and len(os.listdir(tmp_path)) == 1


def test_places_that_are_read_only_are_named_and_needed_for_nothing_else(start, tiny_model):
    """Nobody can make a folder in /sys, root neither."""
    link = start('readonly', tiny_model, extra={'HOME': '/sys'}, snapshot_dir='/sys/shots')
    answer = snapshot(link)
    assert not answer.success and 'cannot write to /sys/shots' in answer.message
    assert 'set snapshot_dir' in answer.message
    assert right(link.answer(picture()))
    assert 'Traceback' not in link.running.text()


def test_a_model_file_that_changes_is_noticed_when_it_is_loaded_again(start, tiny_model, tmp_path):
    model = tmp_path / 'model.onnx'
    shutil.copy(tiny_model, model)
    link = start('changed', model)

    def go(*labels):
        return link.world.change_state('changed', *labels)

    os.truncate(model, 100)
    assert right(link.answer(picture()))
    assert go('deactivate', 'activate') and right(link.answer(picture())), 'it is loaded still'
    assert go('deactivate', 'cleanup') and not go('configure')
    link.running.wait_for_text(f'{model} is not an ONNX file, or is cut short')
    model.unlink()
    assert not go('configure') and link.world.state('changed') == 'unconfigured'
    link.running.wait_for_text(f'no model file at {str(model)!r}')
    shutil.copy(tiny_model, model)
    assert go('configure', 'activate') and right(link.answer(picture()))
    assert 'Traceback' not in link.running.text()
