# SPDX-License-Identifier: Apache-2.0
"""The command ``dgtl predict`` on a few pictures, and what it wrote."""

import json

import cv2
from dgtl_core.cli.main import main
from dgtl_core.pictures import write_image
import numpy as np
import pytest

SIZE = (32, 64)  # of the tiny model: nothing is resized, so a pixel's label is its red // 8


def picture(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 19 * 8, (*size, 3), np.uint8)


def write_folder(tmp_path):
    for number, name in enumerate(('a/one.png', 'a/two.png', 'b/one.png', 'b/two.png')):
        write_image(tmp_path / 'in' / name, picture(number))
    return tmp_path / 'in'


def command_to(tiny_model, tmp_path):
    """Return the command as a function; the results go to ``out``."""
    def run(*arguments):
        return main(['predict', '--model', str(tiny_model), '--out', str(tmp_path / 'out'),
                     *map(str, arguments)])
    return run


def refused(capsys, run, *arguments):
    """Return what is said of wrong use."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def grey(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def journal(folder):
    return [json.loads(line) for line in (folder / 'predict.jsonl').read_text().splitlines()]


def read_bag(path):
    """Return {topic: [(time, message)]} of a bag, with the types that lie in it."""
    from rosbags.highlevel import AnyReader

    found = {}
    with AnyReader([path]) as reader:
        for connection, when, data in reader.messages():
            found.setdefault(connection.topic, []).append(
                (when, reader.deserialize(data, connection.msgtype)))
    return found
