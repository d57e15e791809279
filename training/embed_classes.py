# SPDX-License-Identifier: Apache-2.0
"""
Embed the classes of a class set as texts with a CLIP model, once, into a small .npz.

    python -m training.embed_classes config/classes/cityscapes.yaml texts.npz --model RN50
    python -m training.embed_classes config/classes/cityscapes.yaml texts.npz --model RN50 --raw
    python -m training.embed_classes config/classes/cityscapes.yaml texts.npz \\
        --released dgtl.pth       # from the CLIP inside a released DGTL checkpoint

The last two give what the released DGTL trained with: bare names, not normalised. Its text link
(text_link 'present') grows with the square of their length.

Training and inference read that file and never need CLIP.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
import logging
from pathlib import Path
import sys

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.files import destination, print_any_text
from dgtl_core.model.backbone_weights import read_state_dict
from dgtl_core.model.prompts import pooled, TEMPLATES, texts_of
from dgtl_core.model.text import ClassTexts, clip_text_tensors, encode_clip_text, save_texts
import torch
from torch import Tensor


@torch.no_grad()
def embed_with_open_clip(
        texts: Sequence[Sequence[str]], model_name: str, pretrained: str,
        raw: bool = False) -> Tensor:
    """
    Return one row per class, (K, D): the mean of the unit embeddings of its texts as a unit row.

    :param raw: the plain mean, nothing normalised.
    :raises ValueError: open_clip knows no such model or weights, or the file holds others.
    :raises OSError: the weights are not here and there is no network.
    """
    import open_clip

    pairs = open_clip.list_pretrained()
    known = [tag for name, tag in pairs if name == model_name]
    if not known and model_name not in open_clip.list_models():
        raise ValueError(
            f'open_clip knows no model {model_name!r}; near to it are '
            f'{get_close_matches(model_name, dict(pairs), 5, 0)}')
    given = Path(pretrained).is_file()
    if not given and pretrained not in known:
        raise ValueError(
            f'open_clip has no weights {pretrained!r} for {model_name!r}; it has {known}, or give '
            'a file')
    # OpenAI's weights want another activation than the model of that name has; of a file one
    # cannot tell, there the name of the model says it
    quick = bool(open_clip.get_pretrained_cfg(model_name, pretrained).get('quick_gelu'))
    try:
        model = open_clip.create_model(
            model_name, pretrained=pretrained, force_quick_gelu=quick).eval()
    except Exception as error:
        if given:  # a file of another kind raises anything
            raise ValueError(
                f'{pretrained} holds no weights of {model_name} that open_clip can read '
                f'({type(error).__name__}): take the file that open_clip publishes for this model'
            ) from None
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        name = f'{model_name.removesuffix("-quickgelu")}{"-quickgelu" if quick else ""}'
        raise OSError(
            f'cannot get {model_name} {pretrained} ({type(error).__name__}: no network?). '
            'Download the file on another machine and give its path with '
            f'--model {name} --pretrained FILE') from error
    tokenizer = open_clip.get_tokenizer(model_name)
    rows = []
    for row in texts:
        embedded = model.encode_text(tokenizer(list(row))).float()
        rows.append(pooled(embedded, raw))
    return torch.stack(rows)


def embed_with_released(path: str | Path, classes: ClassSet) -> Tensor:
    """
    Return the texts a released DGTL checkpoint was trained with: bare names, not normalised.

    :raises ValueError: the file has no CLIP text encoder.
    """
    import open_clip

    state = clip_text_tensors(read_state_dict(path))
    if not state:
        raise ValueError(
            f'{path} holds no CLIP text encoder (backbone.reins.clip_model.*); take a released '
            'DGTL checkpoint, or --model')
    # Item 35: the bare class names, no prompt, no normalisation
    return encode_clip_text(state, open_clip.tokenize([entry.name for entry in classes]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the file was written."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.embed_classes', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('classes', help='class set (.yaml), or "cityscapes"')
    parser.add_argument('out', type=Path, help='.npz to write')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--model', help='open_clip model: RN50, ViT-B-16, EVA02-L-14, ...')
    source.add_argument('--released', type=Path, metavar='FILE',
                        help='released DGTL checkpoint that holds CLIP')
    parser.add_argument('--pretrained', default='openai', metavar='TAG',
                        help='of the weights in open_clip, or their file (%(default)s)')
    parser.add_argument('--bare', action='store_true',
                        help='bare words instead of the mean over prompt templates')
    parser.add_argument('--raw', action='store_true',
                        help='bare words, not normalised, as the released DGTL has them')
    parser.add_argument('--force', action='store_true', help='overwrite out where it exists')
    args = parser.parse_args(argv)
    logging.getLogger('huggingface_hub').setLevel(logging.ERROR)  # a line for each of its tries
    try:
        destination(args.out, '.npz', force=args.force)
        classes = CITYSCAPES if args.classes == 'cityscapes' else ClassSet.from_yaml(args.classes)
        if args.released:
            embeddings = embed_with_released(args.released, classes)
            provenance = f'CLIP inside {args.released.name}, bare class names, not normalised'
        else:
            bare = args.bare or args.raw
            embeddings = embed_with_open_clip(
                texts_of(classes, not bare), args.model, args.pretrained, args.raw)
            prompts = 'bare words' if bare else f'{len(TEMPLATES)} prompt templates'
            rows = 'not normalised' if args.raw else 'unit rows'
            provenance = (f'open_clip {version("open_clip_torch")} {args.model} '
                          f'{Path(args.pretrained).name}, {prompts}, {rows}')
        save_texts(args.out, ClassTexts(embeddings, classes.names, provenance))
    except (OSError, ValueError) as error:
        print(f'embed_classes: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {len(embeddings)} classes, {embeddings.shape[1]} wide ({provenance})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
