# SPDX-License-Identifier: Apache-2.0
"""
Bring published checkpoints into our own: one .safetensors file with its configuration inside.

    python -m training.import_weights --method dgtl --backbone dinov2_vitl14_pretrain.pth \\
        --adapter dgtl.pth dgtl.safetensors
    python -m training.import_weights --method vltseg --adapter vltseg.pth --image-size 512 \\
        vltseg.safetensors
    python -m training.import_weights --method eomt --adapter model.safetensors eomt.safetensors

DGTL, Rein and SoMA take both files. The backbone is facebook's DINOv2 file, the one already
converted to patches of 16, or timm's. EoMT's file is pytorch_model.bin of its authors, or
model.safetensors of transformers, with DINOv2 inside. Nothing in a file is executed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import sys

from dgtl_core.classes import ClassSet
from dgtl_core.files import destination, print_any_text
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.released_files import import_released, PUBLISHED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the file was written."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.import_weights', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='.safetensors to write')
    parser.add_argument('--method', required=True, choices=PUBLISHED)
    parser.add_argument('--backbone', type=Path, metavar='FILE', help='not for vltseg and eomt')
    parser.add_argument('--adapter', type=Path, required=True, metavar='FILE',
                        help='published file: adapter and head, or (vltseg, eomt) the whole model')
    parser.add_argument('--image-size', type=int, metavar='N',
                        help='training crop, such as 512 or 1024')
    parser.add_argument('--num-heads', type=int, metavar='N',
                        help='of the backbone (its width / 64)')
    parser.add_argument('--out-indices', type=int, nargs=4, metavar='N',
                        help='blocks whose features the head takes, counted from 0')
    parser.add_argument('--texts', type=Path, metavar='FILE',
                        help='class texts from training.embed_classes (.npz), to train on')
    parser.add_argument('--classes', type=Path, metavar='FILE',
                        help='class set, .yaml (Cityscapes)')
    parser.add_argument('--name', help='of the model (method and backbone)')
    parser.add_argument('--force', action='store_true', help='overwrite out where it exists')
    args = parser.parse_args(argv)
    try:
        destination(args.out, '.safetensors', force=args.force, sources=[
            path for path in (args.backbone, args.adapter, args.texts) if path])
        model = import_released(
            args.method, args.backbone, args.adapter, image_size=args.image_size,
            num_heads=args.num_heads, texts=args.texts,
            out_indices=tuple(args.out_indices) if args.out_indices else None,
            classes=ClassSet.from_yaml(args.classes) if args.classes else None)
        config = replace(model.config, name=args.name or model.config.name)
        files = [path.name for path in (args.backbone, args.adapter) if path]
        save_checkpoint(args.out, model, config, source=f'imported from {", ".join(files)}')
    except (OSError, ValueError) as error:
        print(f'import_weights: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {config.name}, {config.num_classes} classes, input '
          f'{config.input_size[0]}x{config.input_size[1]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
