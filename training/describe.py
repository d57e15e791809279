# SPDX-License-Identifier: Apache-2.0
"""
Print what a segmenter is made of: parts, output shapes, parameters, GFLOPs.

    python -m training.describe dgtl-dinov2-l
    python -m training.describe model.yaml --size 512 1024 --json

Nothing is computed: the model has shapes but no numbers, so it takes seconds and little memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
import json
import re
import sys

from dgtl_core.cli.arguments import at_least
from dgtl_core.config import preset, PRESETS, SegmenterConfig
from dgtl_core.files import print_any_text
from dgtl_core.strict import load_yaml
from training.bench.anatomy import describe, Member


def model_table(parts: Sequence[Member]) -> str:
    """Return the parts as an indented table."""
    lines = [f'{"part":<44}{"trained":>13}{"frozen":>13}{"GFLOPs":>9}  output']
    for part in parts:
        depth = part.name.replace('backbone.vit', 'backbone').count('.')
        depth = 0 if part.name == 'segmenter' else depth + 1
        short = part.name.rsplit('.', 1)[-1]
        if re.fullmatch(r'[\d-]+', short):
            short = '.'.join(part.name.split('.')[-2:])
        lines.append(
            f'{"  " * depth + short:<22}{part.kind:<22}{part.trained:>13,}{part.frozen:>13,}'
            f'{part.gflops:>9.2f}  {part.output}')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when there was something to describe."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.describe', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help=f'preset ({", ".join(sorted(PRESETS))}) or .yaml file')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'),
                        help="of the picture (the model's own)")
    parser.add_argument('--levels', type=at_least(0), default=2, metavar='N',
                        help='depth of the tree (%(default)s)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    args = parser.parse_args(argv)
    try:
        config = load_yaml(SegmenterConfig, args.model) if args.model.endswith('.yaml') \
            else preset(args.model)
        size = tuple(args.size) if args.size else config.input_size
        parts = describe(config, size, args.levels)
    except (ValueError, OSError) as error:
        print(f'describe: {error}', file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({'name': config.name, 'method': config.method, 'size': size,
                          'parts': [asdict(part) for part in parts]}, indent=1))
    else:
        print(f'{config.name} ({config.method}), one picture of {size[0]}x{size[1]}')
        print(model_table(parts))
    return 0


if __name__ == '__main__':
    sys.exit(main())
