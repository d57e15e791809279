# SPDX-License-Identifier: Apache-2.0
"""``dgtl engine MODEL``: build a TensorRT engine on the machine that will run it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
import json
import logging
from pathlib import Path
import sys

from dgtl_core.engine.agreement import MIN_AGREEMENT, street_pictures
from dgtl_core.engine.build import build_engine
from dgtl_core.engine.options import EngineOptions, HARDWARE
from dgtl_core.pictures import find_pictures, read_image
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.cuda import CudaError
from dgtl_core.runtime.tensorrt_module import MODULES
from dgtl_core.zoo.cache import find_model
import numpy as np


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.most < 1:
        parser.error(f'--most must be 1 or more, got {args.most}')
    if args.reference and args.unverified:
        parser.error('--reference is what the engine is compared with: leave out --unverified')
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s')
    onnx = find_model(args.model)
    out = args.out or onnx.with_suffix('.engine')
    try:
        options = EngineOptions(
            workspace_mib=args.workspace_mib, optimization_level=args.optimization_level,
            hardware=args.hardware, version_compatible=args.version_compatible,
            max_batch=args.max_batch)
        pictures = [] if args.unverified else _pictures(args.pictures, args.most)
        report, info = build_engine(
            onnx, out, options, min_agreement=args.min_agreement,
            reference=args.reference, pictures=pictures,
            timing_cache=args.timing_cache, module=args.module, device=args.device)
    except KeyboardInterrupt:
        print(f'dgtl engine: stopped; {out} is as it was', file=sys.stderr)
        return 130
    except (CudaError, ValueError, OSError) as error:  # ModelError is a ValueError
        print(f'dgtl engine: {error}; {out} is as it was', file=sys.stderr)
        return 1
    told = {**asdict(report), 'gpu': info.gpu, 'labels_equal': info.labels_equal}
    if args.json:
        print(json.dumps(told))
    else:
        print(f'{out}: ' + ', '.join(f'{key} {value}' for key, value in told.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    options = EngineOptions()
    parser = argparse.ArgumentParser(
        prog='dgtl engine', description='Build a TensorRT engine of a model, on the machine that '
        'will run it, and check that it labels as ONNX Runtime does. It takes minutes; Ctrl-C '
        'stops it and leaves what was there before. The node does the same by itself; build an '
        'engine here to have it before, to choose how, or to compare it on your own pictures.')
    parser.add_argument('model', metavar='MODEL',
                        help='an .onnx file, or the name of fetched weights')
    parser.add_argument('out', type=Path, nargs='?', metavar='OUT',
                        help='write the engine here, and its description to OUT.json (default: '
                             'MODEL.engine)')
    check = parser.add_mutually_exclusive_group()
    check.add_argument('--pictures', type=Path, nargs='+', metavar='PATH', default=[],
                       help='compare with ONNX Runtime on your pictures, files or folders '
                            '(default: drawn streets)')
    check.add_argument('--unverified', action='store_true',
                       help='do not compare with ONNX Runtime')
    parser.add_argument('--most', type=int, default=20, metavar='N',
                        help='take at most N of the pictures, evenly spread (default: '
                             '%(default)s)')
    parser.add_argument('--min-agreement', type=float, default=MIN_AGREEMENT, metavar='SHARE',
                        help='refuse an engine that labels a smaller share of the pixels alike '
                             '(default: %(default)s)')
    parser.add_argument('--reference', type=Path, metavar='FILE',
                        help='compare with this ONNX file of the same model; bf16 needs one, '
                             'because ONNX Runtime cannot run it on a CPU')
    parser.add_argument('--workspace-mib', type=int, default=options.workspace_mib, metavar='N',
                        help='let one layer use at most so much memory while it runs; 0 sets no '
                             'limit (default: %(default)s)')
    parser.add_argument('--optimization-level', type=int, default=options.optimization_level,
                        metavar='N',
                        help='from 0, which builds quickly, to 5, which tries everything '
                             '(default: %(default)s)')
    parser.add_argument('--hardware', choices=HARDWARE, default=options.hardware,
                        help='build for this GPU alone, or for others too, which may be slower '
                             '(default: %(default)s)')
    parser.add_argument('--version-compatible', action='store_true',
                        help='let newer versions of TensorRT run it too; it may be slower')
    parser.add_argument('--max-batch', type=int, default=options.max_batch, metavar='N',
                        help='allow batches of up to N, for a model with a dynamic one (default: '
                             '%(default)s)')
    parser.add_argument('--timing-cache', type=Path, metavar='FILE',
                        help='keep measured times here, which make the next build quicker')
    parser.add_argument('--module', choices=MODULES, default='',
                        help='build with this module (default: the first that is installed)')
    parser.add_argument('--device', default=RunOptions.device,
                        help='build on auto, cuda or cuda:N (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    return parser


def _pictures(places: Sequence[Path], most: int) -> list[np.ndarray]:
    """Return up to so many pictures, evenly spread over all there are."""
    if not places:
        return street_pictures()
    files = find_pictures(places)
    count = min(most, len(files))
    return [read_image(files[i * len(files) // count]) for i in range(count)]
