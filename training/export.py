# SPDX-License-Identifier: Apache-2.0
"""
Make a model file from a checkpoint: ``python -m training.export CHECKPOINT OUT.onnx``.

The file is compared with torch on pictures before it is put in place: those of ``--truth``, a
labelled data set by name (camvid:FOLDER, streetworld:fog, ... as in training.evaluate), those of
``--pictures``, or generated streets where none are given.

``--calibrate`` makes a confidence of 80 % right in 80 % of the pixels: it names labelled pictures
like those that the model learned from, but others. ``--domain`` fits the verdict on the domain, as
``dgtl calibrate`` does, on pictures that the model learned from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
import json
import logging
from pathlib import Path
import sys
from typing import Any

from dgtl_core.calibration import calibrate, write_domain
from dgtl_core.domain_drives import require_enough, require_pictures
from dgtl_core.export.confidence import fit_temperature, untold
from dgtl_core.export.onnx import export_onnx, ExportError
from dgtl_core.files import destination, placing, print_any_text, tidy_on_signals
from dgtl_core.folding.fold import fold
from dgtl_core.folding.grouping import Grouping
from dgtl_core.folding.labels import LabelNetwork
from dgtl_core.folding.precision import PRECISIONS
from dgtl_core.groups import ClassGroups
from dgtl_core.model.checkpoint import load_segmenter, read_header
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model_file import ModelError, ModelMetadata
from dgtl_core.predictor import Predictor
from dgtl_core.recorded.sources import frames, open_sources
import numpy as np
from training.comparison import (
    as_trained,
    chosen_pictures,
    labelled_pictures,
    pictures_of,
    Size,
)

MIN_AGREEMENT = {'fp32': 0.999, 'fp16': 0.995, 'bf16': 0.995, 'quarter': 0.95}


def _network(options: argparse.Namespace) -> tuple[
        Segmenter, LabelNetwork, Size, ModelMetadata]:
    segmenter, config = load_segmenter(options.checkpoint)
    window = tuple(options.size or config.input_size)
    height, width = options.stride or config.window_stride
    stride = min(height, window[0]), min(width, window[1])
    picture = tuple(options.slide or window)
    header = read_header(options.checkpoint)
    metadata = ModelMetadata.from_json(json.dumps(header), str(options.checkpoint))
    grouping = None
    if options.class_groups:
        groups = ClassGroups.from_yaml(options.class_groups, metadata.classes)
        grouping = Grouping(groups, len(metadata.classes))
        metadata = replace(metadata, classes=groups.classes)
    network = LabelNetwork(
        fold(segmenter, window, options.sampling), picture,
        stride if options.slide else None, options.output_size and
        tuple(options.output_size), 'quarter' if options.quarter else 'exact', grouping)
    return segmenter.eval(), network.eval(), stride, replace(metadata, input_size=picture)


def _drives(words: Sequence[str]) -> dict[str, Iterator[np.ndarray]]:
    """
    Open the drives of a domain; refuse what is too short while nothing is computed yet.

    :raises ValueError: a word names nothing, or what is counted already is too little.
    """
    opened = {word: open_sources([word]) for word in words}
    totals = {word: [source.total for source in sources] for word, sources in opened.items()}
    known = {word: sum(total or 0 for total in found) for word, found in totals.items()
             if None not in found}
    if known and len(known) == len(opened):
        require_enough(sum(known.values()))
    for word, count in known.items():
        require_pictures(word, count)
    return {word: (frame.image for frame in frames(sources)) for word, sources in opened.items()}


def _fit_domain(path: Path, drives: Mapping[str, Iterator[np.ndarray]]) -> str:
    """Write the domain into a file; return what was fitted, in words."""
    predict = Predictor.load(path)
    try:
        domain = calibrate(predict, drives)
    finally:
        predict.close()
    write_domain(path, path, domain)
    return (f'fitted on {sum(drive.pictures for drive in domain.drives)} pictures, found are '
            f'{", ".join(domain.channels)}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.export', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    size: dict[str, Any] = {'type': int, 'nargs': 2, 'metavar': ('H', 'W')}
    parser.add_argument('checkpoint', type=Path, help='.safetensors')
    parser.add_argument('out', type=Path, help='.onnx')
    parser.add_argument('--size', **size, help="of the network; default: the configuration's")
    parser.add_argument('--slide', **size, help='of the picture, seen through sliding windows')
    parser.add_argument('--stride', **size, help=(
        "of the windows; default: the configuration's, and never more than --size"))
    parser.add_argument('--output-size', **size, help="of the labels; default: the picture's")
    parser.add_argument('--sampling', default='grid_sample', choices=('grid_sample', 'gather'),
                        help='how deformable attention samples: gather where an engine is wrong '
                             'with %(default)s, the default')
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS,
                        help='numbers the engine computes with (%(default)s)')
    parser.add_argument('--weights', default='float32', choices=('float32', 'float16'),
                        help='how weights are stored (%(default)s); float16 halves the file')
    parser.add_argument('--dynamic-batch', action='store_true',
                        help='several pictures in one call (Predictor: up to 16); without it, one')
    parser.add_argument('--quarter', action='store_true',
                        help='faster, and not exact: compute the scores on the coarse grid of the '
                             'masks, and enlarge them')
    parser.add_argument('--class-groups', type=Path, metavar='FILE', help=(
        'your own groups of classes (docs/node.md) in place of the classes: each pixel gets the '
        'most probable group, and its confidence is the sum over the classes of the group'))
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument('--pictures', type=Path, metavar='FOLDER',
                       help='real pictures to compare on')
    shown.add_argument('--truth', metavar='DATA',
                       help='labelled pictures to compare on; the mean IoU is printed too')
    parser.add_argument('--count', type=int, default=8, metavar='N',
                        help='how many of them (%(default)s)')
    parser.add_argument('--calibrate', metavar='DATA', help=(
        'labelled pictures that the model did not learn from, of the same kind as those that it '
        'did, to calibrate the confidence on'))
    parser.add_argument('--calibrate-count', type=int, default=36, metavar='N',
                        help='how many of them; each is seen four times (%(default)s)')
    parser.add_argument('--domain', metavar='SOURCE', action='append', default=[], help=(
        'pictures that the model learned from, to fit the verdict on the domain on: a folder, a '
        'video or a bag; can be repeated, each is one drive'))
    parser.add_argument('--min-agreement', type=float, metavar='SHARE', help=(
        'of the labels that must be equal ('
        + ', '.join(f'{kind} {share}' for kind, share in MIN_AGREEMENT.items()) + ')'))
    parser.add_argument('--force', action='store_true', help='overwrite out where it exists')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print the agreement, return the exit status."""
    print_any_text()
    options = _parser().parse_args(argv)
    logging.getLogger('onnxscript').setLevel(logging.ERROR)  # it warns of what it leaves as it is
    tidy_on_signals()
    try:
        destination(options.out, '.onnx', force=options.force, sources=[options.checkpoint])
        wanted = options.min_agreement
        if wanted is None:
            wanted = MIN_AGREEMENT['quarter' if options.quarter else options.precision]
        if not 0 <= wanted <= 1:
            raise ExportError(f'--min-agreement must be in 0..1, got {wanted}')
        for name in ('count', 'calibrate_count'):
            if getattr(options, name) < 1:
                raise ExportError(
                    f'--{name.replace("_", "-")} must be at least 1, got {getattr(options, name)}')
        if options.class_groups and (options.truth or options.calibrate):
            raise ExportError(
                '--class-groups gives labels that --truth and --calibrate have no pictures of: '
                'leave these out')
        drives = _drives(options.domain)
        segmenter, network, stride, metadata = _network(options)
        truths = None
        if options.truth:
            pictures, truths = labelled_pictures(
                options.truth, options.count, network.picture_size, metadata.classes)
        else:
            pictures = pictures_of(options.pictures, options.count, network.picture_size)
        if options.calibrate:
            network.temperature = fit_temperature(network, chosen_pictures(
                options.calibrate, options.calibrate_count, metadata.classes))
            for doubt in untold(network.temperature):
                print(f'export: {doubt}', file=sys.stderr)
            metadata = replace(metadata, temperature={
                **network.temperature._asdict(), 'data': options.calibrate})
        trained = as_trained(segmenter, network, stride, pictures)
        del segmenter
        domain = 'none; give --domain, or run "dgtl calibrate"'
        with placing(options.out) as draft:
            same, kept = export_onnx(
                network, draft, metadata, pictures, truths, trained=trained,
                precision=options.precision, dynamic_batch=options.dynamic_batch,
                weights=options.weights, min_agreement=wanted)
            if drives:
                domain = _fit_domain(draft, drives)
    except (ModelError, ExportError, ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'export: stopped; {options.out} is as it was', file=sys.stderr)
        return 130
    print(f'ONNX Runtime against torch: {same}'
          + (', its bfloat16 as float32' if options.precision == 'bf16' else ''))
    print(f'against the network as it was trained, float32: {kept}')
    print('confidence: ' + (
        f'temperature {network.temperature.certain:.2f} where a picture is certain, '
        f'{network.temperature.uncertain:.2f} where nothing is' if network.temperature
        else 'not calibrated; give --calibrate, held-out labelled pictures'))
    print(f'domain: {domain}')
    print(f'{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB, input '
          f'{network.picture_size[0]}x{network.picture_size[1]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
