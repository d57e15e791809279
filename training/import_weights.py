# SPDX-License-Identifier: Apache-2.0
"""
Bring published checkpoints into our own: one .safetensors file with its configuration inside.

    python -m training.import_weights --method dgtl --backbone dinov2_vitl14_pretrain.pth \\
        --adapter dgtl.pth dgtl.safetensors
    python -m training.import_weights --method vltseg --adapter vltseg.pth --image-size 512 \\
        vltseg.safetensors

The backbone is facebook's DINOv2 file, the one already converted to patches of 16, or timm's.
Nothing in a file is executed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import sys

from dgtl_core.classes import ClassSet
from dgtl_core.files import destination
from dgtl_core.model.backbone_weights import convert_patch, convert_positions, read_state_dict
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.released import METHODS, segmenter_from_released
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import CLIP_PREFIX, clip_text_tensors, encode_clip_text, load_texts
from torch import Tensor

PATCH = 16  # of the backbone that the published adapters were trained on


def merge_files(
        backbone: Path | None, adapter: Path, image_size: int | None) -> dict[str, Tensor]:
    """
    Return the tensors of a backbone file and an adapter file under their published names.

    A backbone of another patch or grid is converted as for the training of the adapters (item 38).

    :raises OSError: a file is not there.
    :raises ValueError: a file holds code or no weights; the message says what to do.
    """
    state = read_state_dict(adapter)
    if backbone is None:
        return state
    here = {key.removeprefix('backbone.'): value
            for key, value in read_state_dict(backbone).items()}
    missing = [key for key in ('patch_embed.proj.weight', 'pos_embed') if key not in here]
    if missing:
        raise ValueError(
            f'{backbone} is no backbone file: it has no {" and no ".join(missing)}, but '
            f'{sorted(here)[:3]}, ...; take dinov2_vitl14_pretrain.pth or its conversion')
    if here['patch_embed.proj.weight'].shape[-1] != PATCH or image_size is not None:
        side = (image_size or 512) // PATCH
        if side < 1:
            raise ValueError(f'the image size must be a multiple of {PATCH}, got {image_size}')
        here['patch_embed.proj.weight'] = convert_patch(here['patch_embed.proj.weight'], PATCH)
        here['pos_embed'] = convert_positions(here['pos_embed'], (side, side), 1)
    return {**{f'backbone.{key}': value for key, value in here.items()}, **state}


def import_released(
        method: str, backbone: Path | None, adapter: Path, *, image_size: int | None = None,
        num_heads: int | None = None, out_indices: tuple[int, ...] | None = None,
        texts: Path | None = None, classes: ClassSet | None = None) -> Segmenter:
    """
    Return the segmenter that published files hold.

    :raises OSError: a file is not there.
    :raises ValueError: the files do not fit each other or the method.
    """
    state = merge_files(backbone, adapter, image_size)
    embeddings = None
    if texts is not None:
        embeddings = load_texts(texts, classes.names if classes else None).embeddings
    elif method == 'dgtl' and any(key.startswith(CLIP_PREFIX) for key in state):
        embeddings = _texts_inside(state, classes)
    model = segmenter_from_released(
        state, method,  # type: ignore[arg-type]
        num_heads, out_indices, image_size, embeddings)
    if classes is not None:
        if len(classes) != model.config.num_classes:
            raise ValueError(
                f'the checkpoint has {model.config.num_classes} classes, '
                f'{classes.name} has {len(classes)}')
        model.config = replace(model.config, classes=classes)
    return model


def _texts_inside(state: dict[str, Tensor], classes: ClassSet | None) -> Tensor | None:
    """Texts of the CLIP inside the checkpoint; None without open_clip and its tokenizer."""
    from dgtl_core.classes import CITYSCAPES

    try:
        import open_clip
    except ImportError:
        print('import_weights: open_clip is not installed, so the texts of the CLIP in this file '
              'are left out; only training needs them', file=sys.stderr)
        return None
    names = [entry.name for entry in classes or CITYSCAPES]
    head = state.get('decode_head.cls_embed.weight')
    if head is None or len(names) != len(head) - 1:
        return None
    return encode_clip_text(clip_text_tensors(state), open_clip.tokenize(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the file was written."""
    parser = argparse.ArgumentParser(
        prog='python -m training.import_weights', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='.safetensors to write')
    parser.add_argument('--method', required=True, choices=METHODS)
    parser.add_argument('--backbone', type=Path, metavar='FILE', help='not for vltseg')
    parser.add_argument('--adapter', type=Path, required=True, metavar='FILE',
                        help='published file: adapter and head, or (vltseg) the whole model')
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
    args = parser.parse_args(argv)
    try:
        destination(args.out, '.safetensors')
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
