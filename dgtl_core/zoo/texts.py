# SPDX-License-Identifier: Apache-2.0
"""Class texts from a fetched CLIP: what a DGTL model learns to link its tokens with."""

from __future__ import annotations

from pathlib import Path
import warnings

from dgtl_core.classes import ClassSet
from dgtl_core.files import file_sha256
from dgtl_core.zoo.entries import Entry


def embed_classes(entry: Entry, clip: Path, classes: ClassSet, out: Path) -> None:
    """
    Write the texts of classes (.npz), the mean over prompt templates, unit rows.

    :param clip: the file as OpenAI publishes it, a TorchScript archive. It is read only if it has
        the sha256 of its entry, and of its code nothing is called.
    :raises ImportError: open_clip, whose tokenizer is used, is not installed.
    :raises ValueError: it is another file.
    """
    if file_sha256(clip) != entry.sha256:
        raise ValueError(f'{clip} is not the published {entry.file}: its sha256 is another')
    import torch
    try:
        import open_clip
    except ImportError:
        raise ImportError(
            'to embed texts this machine needs open_clip: pip install "dgtl_ros[train]"') from None
    from dgtl_core.model.prompts import pooled, TEMPLATES, texts_of
    from dgtl_core.model.text import ClassTexts, encode_clip_text, save_texts

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # such archives are no longer made
        published = torch.jit.load(clip, map_location='cpu').state_dict()
    state = {name: value.float() for name, value in published.items()
             if not name.startswith('visual.')}
    rows = [pooled(encode_clip_text(state, open_clip.tokenize(texts)))
            for texts in texts_of(classes, ensemble=True)]
    save_texts(out, ClassTexts(torch.stack(rows), classes.names, (
        f'{entry.name} {entry.file} sha256 {entry.sha256}, {len(TEMPLATES)} prompt templates, '
        'unit rows')))
