# SPDX-License-Identifier: Apache-2.0
"""Published files become a checkpoint of ours and the model file that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
import json
import logging
from pathlib import Path

from dgtl_core.classes import ClassSet
from dgtl_core.files import shipped
from dgtl_core.zoo.entries import Entry

_NEEDED = ('torch', 'timm', 'safetensors', 'onnx', 'onnxscript')
_PICTURES = 2  # that the model file is compared with the network on


def check_able() -> None:
    """
    Find out whether published files can be converted on this machine.

    :raises ImportError: a package is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'to convert published weights this machine needs {", ".join(missing)}: pip install '
            '"dgtl_ros[export]". Or fetch them on another machine and copy its .onnx file here')


def to_checkpoint(entry: Entry, files: Mapping[str, Path], out: Path, source: str) -> None:
    """
    Write the checkpoint of ours (.safetensors) that published files hold.

    :param files: the files by the names of their entries: the model's, and that of its backbone.
    :param source: what the checkpoint and everything made of it say about where they come from.
    :raises ValueError: the files do not fit each other or the method.
    """
    from dgtl_core.model.checkpoint import save_checkpoint
    from dgtl_core.model.released_files import import_released

    size = None if entry.method == 'eomt' else entry.image_size  # its file says it itself
    classes = (ClassSet.from_yaml(shipped(f'{entry.classes}.yaml', 'config/classes'))
               if entry.classes else None)
    model = import_released(entry.method, files.get(entry.needs), files[entry.name],
                            image_size=size, classes=classes)
    save_checkpoint(out, model, replace(model.config, name=entry.name), source=source)


def to_model_file(checkpoint: Path, out: Path, size: tuple[int, int] | None = None) -> str:
    """
    Write the model file (.onnx) of a checkpoint; return how far the two agree, for people.

    :param size: (height, width) that the network sees, pixels; None: that of its training.
    :raises ValueError: a size that the network does not take, or a file that does not agree.
    """
    from dgtl_core.data.catalog import StreetWorldPictures
    from dgtl_core.export.onnx import export_onnx
    from dgtl_core.folding.fold import fold
    from dgtl_core.folding.labels import LabelNetwork
    from dgtl_core.model.checkpoint import load_segmenter, read_header
    from dgtl_core.model_file import ModelMetadata

    logging.getLogger('onnxscript').setLevel(logging.ERROR)  # it warns of what it leaves as it is
    segmenter, config = load_segmenter(checkpoint)
    window = size or config.input_size
    network = LabelNetwork(fold(segmenter, window), window).eval()
    del segmenter
    metadata = replace(
        ModelMetadata.from_json(json.dumps(read_header(checkpoint)), str(checkpoint)),
        input_size=window)
    streets = StreetWorldPictures(count=_PICTURES, seed=7, height=window[0], width=window[1])
    same, _ = export_onnx(
        network, out, metadata, [streets[i].image for i in range(_PICTURES)])
    return str(same)
