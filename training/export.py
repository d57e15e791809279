# SPDX-License-Identifier: Apache-2.0
"""
Make a model file from a checkpoint: ``python -m training.export CHECKPOINT OUT.onnx``.

The file is compared with torch on pictures before it is put in place: those of ``--pictures``, or
generated streets where none are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
import json
from pathlib import Path
import sys
from typing import Any

from dgtl_core.export.fold import fold
from dgtl_core.export.labels import LabelNetwork
from dgtl_core.export.onnx import export_onnx, ExportError
from dgtl_core.export.precision import PRECISIONS
from dgtl_core.learning.checkpoint import load_segmenter, read_header
from dgtl_core.processing import place, to_input
from dgtl_core.runtime.metadata import ModelError, ModelMetadata
from dgtl_core.visualize import read_image
import numpy as np

Size = tuple[int, int]
MIN_AGREEMENT = {'fp32': 0.999, 'fp16': 0.995, 'bf16': 0.99}


def _pictures(folder: Path | None, count: int, size: Size) -> list[np.ndarray]:
    """Real pictures of a folder, evenly spread over it, or generated ones, at ``size``."""
    if folder is None:
        from dgtl_core.data.streetworld import StreetWorld
        world = StreetWorld(seed=7, size=size)
        return [np.ascontiguousarray(world.picture(i).image) for i in range(count)]
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in ('.jpg', '.jpeg', '.png'))
    if not files:
        raise ExportError(f'no .jpg or .png pictures in {folder}')
    chosen = [files[i * len(files) // count] for i in range(min(count, len(files)))]
    images = [read_image(path) for path in chosen]
    return [to_input(image, place(image.shape[:2], size, 'stretch')) for image in images]


def _network(options: argparse.Namespace) -> tuple[LabelNetwork, ModelMetadata]:
    segmenter, config = load_segmenter(options.checkpoint)
    window = tuple(options.size or config.input_size)
    picture = tuple(options.slide or window)
    network = LabelNetwork(
        fold(segmenter, window, options.sampling), picture,
        config.window_stride if options.slide else None, options.output_size and
        tuple(options.output_size), 'quarter' if options.quarter else 'exact')
    header = read_header(options.checkpoint)
    metadata = ModelMetadata.from_json(json.dumps(header), str(options.checkpoint))
    return network.eval(), replace(metadata, input_size=picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print the agreement, return the exit status."""
    parser = argparse.ArgumentParser(prog='python -m training.export', description=__doc__)
    size: dict[str, Any] = {'type': int, 'nargs': 2, 'metavar': ('H', 'W')}
    parser.add_argument('checkpoint', type=Path, help='.safetensors')
    parser.add_argument('out', type=Path, help='.onnx')
    parser.add_argument('--size', **size, help="of the network; default: the configuration's")
    parser.add_argument('--slide', **size, help='of the picture, seen through sliding windows')
    parser.add_argument('--output-size', **size, help="of the labels; default: the picture's")
    parser.add_argument('--sampling', default='grid_sample', choices=('grid_sample', 'gather'))
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS)
    parser.add_argument('--weights', default='float32', choices=('float32', 'float16'),
                        help='how weights are stored; float16 halves the file')
    parser.add_argument('--dynamic-batch', action='store_true')
    parser.add_argument('--quarter', action='store_true',
                        help='fast and not exact: bring up the scores of the mask grid')
    parser.add_argument('--pictures', type=Path, help='folder of real pictures to compare on')
    parser.add_argument('--count', type=int, default=8, help='how many of them')
    parser.add_argument('--min-agreement', type=float,
                        help=f'fraction of equal labels; default: {MIN_AGREEMENT}')
    options = parser.parse_args(argv)
    try:
        network, metadata = _network(options)
        pictures = _pictures(options.pictures, options.count, network.picture_size)
        same, kept = export_onnx(
            network, options.out, metadata, pictures, precision=options.precision,
            dynamic_batch=options.dynamic_batch, weights=options.weights,
            min_agreement=options.min_agreement or MIN_AGREEMENT[options.precision])
    except (ModelError, ExportError, ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 1
    print(f'ONNX Runtime against torch: {same or "not computed in bf16 on a CPU"}')
    if (options.precision, options.weights) != ('fp32', 'float32'):
        print(f'against float32: {kept}')
    print(f'{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB, input '
          f'{network.picture_size[0]}x{network.picture_size[1]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
