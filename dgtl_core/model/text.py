# SPDX-License-Identifier: Apache-2.0
"""
Class texts as embeddings: a small .npz with its provenance, and CLIP's text encoder.

Training and inference only read the file; CLIP is needed to make it (training.embed_classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import struct
import tokenize
from typing import NamedTuple
import zipfile
import zlib

from dgtl_core.files import placing
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

_MOST_BYTES = 1 << 28  # of all arrays; a thousand classes of 1024 numbers have 4 MiB
CLIP_PREFIX = 'backbone.reins.clip_model.'  # fact 34: CLIP lies in every DGTL checkpoint


class ClassTexts(NamedTuple):
    """Embeddings of class names."""

    embeddings: Tensor  # (K, D) float32
    classes: tuple[str, ...]  # their K names, in order
    provenance: str  # model, prompts, normalisation; '' where the file does not tell


def load_texts(path: str | Path, classes: Sequence[str] | None = None) -> ClassTexts:
    """
    Read class texts; where ``classes`` are given, return those in that order.

    :raises OSError: there is no such file.
    :raises ValueError: no file of class texts, or a class without a text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'there are no class texts at {path}; make them with "python -m '
            f'training.embed_classes CLASSES.yaml {path} --model MODEL" (RN50 is 1024 '
            'wide, EVA02-L-14 768, ViT-B-16 512)')
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f'{size} bytes are more than texts have')
        with np.load(path, allow_pickle=False) as data:
            missing = {'embeddings', 'classes'} - set(data.files)
            if missing:
                raise ValueError(f'it lacks {sorted(missing)}')
            embeddings = torch.from_numpy(np.asarray(data['embeddings']).astype(np.float32))
            names = tuple(str(name) for name in np.asarray(data['classes']))
            provenance = str(data['provenance']) if 'provenance' in data.files else ''
    # ZIP's, zlib's and NumPy's readers raise these for damaged files
    except (ValueError, TypeError, KeyError, EOFError, OSError, MemoryError, OverflowError,
            RuntimeError, SyntaxError, struct.error, tokenize.TokenError, zlib.error,
            zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path} holds no class texts ({str(error) or type(error).__name__}); make it with '
            '"python -m training.embed_classes"') from None
    if embeddings.dim() != 2 or len(embeddings) != len(names) \
            or not torch.isfinite(embeddings).all():
        raise ValueError(
            f'{path} must hold one finite row per class, got embeddings '
            f'{tuple(embeddings.shape)} for {len(names)} classes')
    if classes is None:
        return ClassTexts(embeddings, names, provenance)
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ValueError(
            f'{path} has no text for {unknown}; it knows {list(names)}. Make one with '
            '"python -m training.embed_classes"')
    order = [names.index(name) for name in classes]
    return ClassTexts(embeddings[order], tuple(classes), provenance)


def save_texts(path: str | Path, texts: ClassTexts) -> None:
    """Write class texts; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with placing(path) as temporary, open(temporary, 'wb') as file:
        np.savez(file, embeddings=texts.embeddings.numpy(), classes=np.array(texts.classes),
                 provenance=np.array(texts.provenance))


def clip_text_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the text encoder inside a released DGTL checkpoint (fact 34); empty without one."""
    return {key.removeprefix(CLIP_PREFIX): value.float() for key, value in state.items()
            if key.startswith(CLIP_PREFIX) and not key.startswith(CLIP_PREFIX + 'visual.')
            and value.is_floating_point()}


@torch.no_grad()
def encode_clip_text(state: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """
    Run CLIP's text transformer (Radford et al., ICML 2021) from its tensors, not normalised.

    Shape: tokens (K, 77) integer, zero-padded, as CLIP's tokenizer gives them -> (K, D).

    :raises ValueError: tensors of the text encoder are missing.
    """
    def layer(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f'{name}.weight'], state[f'{name}.bias'])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'])

    try:
        width = state['ln_final.weight'].shape[0]
        heads = width // 64
        depth = len({key.split('.')[2] for key in state if key.startswith('transformer.')})
        x = state['token_embedding.weight'][tokens.long()] + state['positional_embedding']
        for index in range(depth):
            block = f'transformer.resblocks.{index}'
            qkv = F.linear(norm(x, f'{block}.ln_1'), state[f'{block}.attn.in_proj_weight'],
                           state[f'{block}.attn.in_proj_bias'])
            q, k, v = (part.unflatten(2, (heads, 64)).transpose(1, 2) for part in qkv.chunk(3, -1))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer(attended.transpose(1, 2).flatten(2), f'{block}.attn.out_proj')
            hidden = layer(norm(x, f'{block}.ln_2'), f'{block}.mlp.c_fc')
            x = x + layer(hidden * torch.sigmoid(1.702 * hidden), f'{block}.mlp.c_proj')
        end = tokens.argmax(dim=-1)  # the end-of-text token has the highest id
        x = norm(x, 'ln_final')[torch.arange(len(x)), end]
        return x @ state['text_projection']
    except KeyError as error:
        raise ValueError(f'CLIP text encoder without {error.args[0]}') from None
