# SPDX-License-Identifier: Apache-2.0
"""Published files -> a segmenter: a backbone and what was trained on it, or a whole model."""

from __future__ import annotations

from dataclasses import replace
import logging
from pathlib import Path

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.model.backbone_weights import (
    convert_patch,
    convert_positions,
    PATCH,
    read_state_dict,
)
from dgtl_core.model.eomt import segmenter_from_eomt
from dgtl_core.model.released import METHODS, segmenter_from_released
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import CLIP_PREFIX, clip_text_tensors, encode_clip_text, load_texts
from torch import Tensor

PUBLISHED = (*METHODS, 'eomt')


def merge_files(
        backbone: Path | None, adapter: Path, image_size: int | None) -> dict[str, Tensor]:
    """
    Return the tensors of a backbone file and an adapter file under their published names.

    A backbone of another patch or grid is converted as for the training of the adapters (fact 38).

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
    if method == 'eomt':
        _leave_out(backbone=backbone, image_size=image_size, out_indices=out_indices, texts=texts)
        return _with_classes(segmenter_from_eomt(read_state_dict(adapter), num_heads), classes)
    state = merge_files(backbone, adapter, image_size)
    embeddings = None
    if texts is not None:
        embeddings = load_texts(texts, classes.names if classes else None).embeddings
    elif method == 'dgtl' and any(key.startswith(CLIP_PREFIX) for key in state):
        embeddings = _texts_inside(state, classes)
    model = segmenter_from_released(
        state, method,  # type: ignore[arg-type]
        num_heads, out_indices, image_size, embeddings)
    return _with_classes(model, classes)


def _leave_out(**given: object) -> None:
    """Refuse options that say what an EoMT file says itself."""
    names = [f'--{name.replace("_", "-")}' for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f'an EoMT file holds the whole model and its size: leave out {" and ".join(names)}')


def _with_classes(model: Segmenter, classes: ClassSet | None) -> Segmenter:
    if classes is not None:
        if len(classes) != model.config.num_classes:
            raise ValueError(
                f'the checkpoint has {model.config.num_classes} classes, '
                f'{classes.name} has {len(classes)}')
        model.config = replace(model.config, classes=classes)
    return model


def _texts_inside(state: dict[str, Tensor], classes: ClassSet | None) -> Tensor | None:
    """Texts of the CLIP inside the checkpoint; None without open_clip and its tokenizer."""
    try:
        import open_clip
    except ImportError:
        logging.getLogger(__name__).warning(
            'open_clip is not installed, so the texts of the CLIP in this file are left out; only '
            'training needs them')
        return None
    names = [entry.name for entry in classes or CITYSCAPES]
    head = state.get('decode_head.cls_embed.weight')
    if head is None or len(names) != len(head) - 1:
        return None
    return encode_clip_text(clip_text_tensors(state), open_clip.tokenize(names))
