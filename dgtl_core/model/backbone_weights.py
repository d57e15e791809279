# SPDX-License-Identifier: Apache-2.0
"""
Published backbone files, brought into the form of :class:`dgtl_core.model.vit.Backbone`.

Known are facebook's DINOv2 files, the same already converted to 16-pixel patches, EVA-CLIP's
``.pt`` and what timm publishes. Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
import logging
from pathlib import Path
import pickle
from typing import Any
import zipfile

from dgtl_core.config import BackboneConfig
from dgtl_core.model.vit import Backbone, timm_name
import timm
import torch
from torch import Tensor
import torch.nn.functional as F

State = dict[str, Tensor]
_log = logging.getLogger(__name__)
# A moving average of the weights under the names that timm, ConvNeXt and Lightning give it. Of
# mmengine's two, ``state_dict`` is the average.
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema_model', 'ema')

PATCH = 16  # of the backbone that the published adapters were trained on

# Bookkeeping of a training run that may lie beside the weights. A stand-in takes the place of
# each of these names, so that nothing of it is imported or called.
_BOOKKEEPING = ('mmengine.', 'numpy.', 'collections.', 'builtins.getattr', 'builtins.list',
                'builtins.dict', 'builtins.int')

# EVA-CLIP and VLTSeg -> timm (fact V22)
EVA_NAMES = (
    ('mlp.w1.', 'mlp.fc1_g.'), ('mlp.w2.', 'mlp.fc1_x.'), ('mlp.w3.', 'mlp.fc2.'),
    ('mlp.ffn_ln.', 'mlp.norm.'), ('attn.inner_attn_ln.', 'attn.norm.'),
    ('attn.q_bias', 'attn.q_proj.bias'), ('attn.v_bias', 'attn.v_proj.bias'))


class _Dropped:
    """Stands for an object of another library that a file holds; it keeps and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Dropped:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _no_items(*_: object) -> list[object]:
    """Stand for a deque, which the reader wants to append to."""
    return []


def _no_keys(*_: object) -> dict[object, object]:
    """Stand for a defaultdict."""
    return {}


_STAND_INS = {'collections.deque': _no_items, 'collections.defaultdict': _no_keys}


def read_state_dict(path: str | Path) -> State:
    """
    Return the tensors of a .safetensors, .pth or .pt file by name, without executing anything.

    A training file's bookkeeping is tolerated: ``state_dict`` inside ``{'meta': ..., ...}``.

    :raises OSError: there is no such file.
    :raises ValueError: it holds code, or no weights; the message says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no file {path}')
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _unwrapped(load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f'{path} is not a .safetensors file: {error}') from None
    return tensors_of(_unpickle(path), str(path))


def tensors_of(data: object, source: str) -> State:
    """
    Return the tensors of a state dict, out of what a training run wraps around it.

    :raises ValueError: there are none.
    """
    for keys in (_AVERAGES, ('state_dict', 'model', 'teacher', 'module')):
        for key in keys:
            if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
                if keys is _AVERAGES and len(data) > 1:
                    _log.warning('of the weights in %s the moving average %r is taken',
                                 source, key)
                data = data[key]
    tensors = _unwrapped({
        str(key): value for key, value in data.items() if isinstance(value, Tensor)}, source) \
        if isinstance(data, Mapping) else {}
    if not tensors:
        raise ValueError(
            f'{source} holds no weights: expected a mapping of names to tensors, or one under '
            f'"state_dict", got {type(data).__name__}')
    return tensors


def convert_patch(weight: Tensor, patch: int) -> Tensor:
    """
    Resize a patch kernel (C, 3, p, p) to ``patch``: plain bicubic by size (fact 38).

    No antialias and no rescaling, as the published adapters were trained on it.
    """
    if weight.shape[-1] == patch:
        return weight
    return F.interpolate(weight.float(), size=(patch, patch), mode='bicubic')


def resize_kernel(weight: Tensor, patch: int) -> Tensor:
    """
    Resize a patch kernel (C, 3, p, p) to ``patch``; an enlarged picture has the same response.

    FlexiViT (Beyer et al., CVPR 2023): with B the matrix that resizes a patch x bilinearly to Bx,
    the kernel w' that minimises E[(<w, x> - <w', Bx>)^2] is the pseudo-inverse (B^T)^+ w; where
    the patch grows that is B (B^T B)^-1 w, and the responses are equal. B is separable: with A
    of one axis, (q, p), and P = (A^T)^+, w' = P w P^T for every filter and colour.
    """
    eye = torch.eye(weight.shape[-1], dtype=torch.float64, device=weight.device)
    axis = F.interpolate(eye[None], size=patch, mode='linear')[0]  # A^T
    inverse = torch.linalg.pinv(axis)
    return (inverse @ weight.double() @ inverse.T).float()


def convert_positions(embedding: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """
    Resize the square grid of a position embedding (1, prefix + g * g, C): bicubic by size.

    :raises ValueError: the stored grid is not square.
    """
    count = embedding.shape[1] - prefix
    if count == grid[0] * grid[1]:
        return embedding
    side = round(count ** 0.5)
    if side * side != count:
        raise ValueError(f'a position embedding of {count} places is no square grid')
    places = embedding[:, prefix:].transpose(1, 2).unflatten(2, (side, side)).float()
    places = F.interpolate(places, size=grid, mode='bicubic').flatten(2).transpose(1, 2)
    return torch.cat((embedding[:, :prefix].float(), places), dim=1)


def backbone_state(state: Mapping[str, Tensor], backbone: Backbone, source: str) -> State:
    """
    Return the state of ``backbone`` made from a published file's tensors; none is left over.

    :raises ValueError: another architecture, width or depth; missing and unexpected keys.
    """
    if any(key.startswith('visual.') for key in state):  # EVA-CLIP: the picture tower only
        state = {key.removeprefix('visual.'): value for key, value in state.items()
                 if key.startswith('visual.')}
    own = backbone.vit.state_dict()
    result = {}
    for key, value in state.items():
        key = key.removeprefix('backbone.').removeprefix('vit.')
        key = 'reg_token' if key == 'register_tokens' else key
        for theirs, ours in EVA_NAMES:
            key = key.replace(theirs, ours)
        result[key] = value.float() if value.is_floating_point() else value
    for key in list(result):
        # What belongs to other tasks, or is computed: classifier, pooling, rotary tables; final
        # norms that are never used (fact 3); fact V18: no norm inside its attention.
        unused = key.startswith(('head.', 'attn_pool.', 'fc_norm.', 'norm.')) or 'rope.' in key \
            or key.endswith(('attn.norm.weight', 'attn.norm.bias', 'k_bias'))
        if unused and key not in own:
            del result[key]
    for key in ('mask_token', 'norm.weight', 'norm.bias'):  # never used, and not in every file
        if key in own:
            result.setdefault(key, own[key])
    if (kernel := result.get('patch_embed.proj.weight')) is not None:
        patch = backbone.patch_size
        published = patch in (kernel.shape[-1], PATCH)
        result['patch_embed.proj.weight'] = (convert_patch if published else resize_kernel)(
            kernel, patch)
    if 'pos_embed' in result and 'pos_embed' in own:
        result['pos_embed'] = _positions(result, own['pos_embed'], backbone)
    return match(result, own, source)


def match(state: State, own: Mapping[str, Tensor], source: str) -> State:
    """
    Return ``state`` if its names and shapes are exactly those of ``own``.

    :raises ValueError: they are not; the message names them.
    """
    problems = []
    for title, keys in (('missing', own.keys() - state.keys()),
                        ('unexpected', state.keys() - own.keys())):
        if keys:
            problems.append(f'{len(keys)} {title} ({_some(keys)})')
    wrong = [f'{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}'
             for key in own if key in state and state[key].shape != own[key].shape]
    if wrong:
        problems.append(f'{len(wrong)} of another shape ({_some(wrong)})')
    if problems:
        raise ValueError(
            f'{source} does not fit: {"; ".join(problems)}. Take the file of the same '
            'architecture, width and depth')
    return state


@torch.no_grad()
def load_backbone(backbone: Backbone, config: BackboneConfig) -> None:
    """
    Load ``config.weights`` into a backbone: 'timm', a file, or '' for none.

    :raises OSError: the file, or the network, is not there; the message says what to do.
    :raises ValueError: the file does not fit.
    """
    if not config.weights:
        return
    if config.weights == 'timm':
        state, source = _published(timm_name(config), config), f'timm {timm_name(config)}'
    else:
        state, source = read_state_dict(config.weights), config.weights
    backbone.vit.load_state_dict(backbone_state(state, backbone, source))


def _published(name: str, config: BackboneConfig) -> State:
    if config.sizes[0] and config.name in ('vit', 'mini'):
        raise ValueError(f'backbone {config.name!r} has no published weights; use weights: ""')
    try:  # at its own patch and picture size, so that timm resizes nothing by its own rule
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError) as error:
        raise OSError(
            f'cannot get the weights of {name} ({type(error).__name__}: no network?). On a '
            f'machine with network download model.safetensors of timm/{name} from the Hugging '
            'Face hub, copy it here and set backbone.weights to its path (for training.train: '
            '--set model.backbone.weights=FILE)') from error


def _positions(state: State, own: Tensor, backbone: Backbone) -> Tensor:
    embedding = state['pos_embed']
    prefix = 1 if 'cls_token' in state else 0
    if backbone.vit.no_embed_class and embedding.shape[1] % 2 == 0 and prefix:
        # facebook's files with registers keep a place for the class token: add it there
        state['cls_token'] = state['cls_token'] + embedding[:, :1]
        embedding = embedding[:, 1:]
    prefix = 0 if backbone.vit.no_embed_class else prefix
    if backbone.positions == 'fixed' and embedding.shape != own.shape:
        # Item 18 of VLTSeg: an embedding of another size is skipped and stays random.
        _log.warning(
            'the position embedding of the file has %d places, the model %d: it is left random, '
            'as the public VLTSeg code does', embedding.shape[1], own.shape[1])
        return own
    return convert_positions(embedding, backbone.grid, prefix)


def _unwrapped(state: State, source: str) -> State:
    """Return the state without the names that training wrappers put before those of a model."""
    state = {key.replace('_orig_mod.', ''): value for key, value in state.items()
             if key != 'n_averaged'}  # which torch's own average counts
    while names := {key.partition('.')[0] for key in state}:
        averages = sorted(names & set(_AVERAGES))
        if names - {'model', 'module', *_AVERAGES} or len(averages or names) > 1:
            break
        chosen = averages[0] if averages else names.pop()
        if averages and len(names) > 1:
            _log.warning('of the weights in %s the moving average %r is taken', source, chosen)
        state = {key.removeprefix(f'{chosen}.'): value for key, value in state.items()
                 if key.startswith(f'{chosen}.')}
    return state


def _unpickle(path: Path) -> Any:
    damaged = ('{} cannot be read as weights ({}): it is damaged, of another kind, or a pickle '
               'with code in it, which is not run. Expected a .safetensors file, or a .pth or '
               '.pt of plain tensors')
    unknown: list[str] = []
    if zipfile.is_zipfile(path):  # else it is of torch before 1.6, which lists no names
        try:
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # a damaged pickle raises anything
            raise ValueError(damaged.format(path, _first_line(error))) from None
    refused = [name for name in unknown if not name.startswith(_BOOKKEEPING)]
    if refused:
        raise ValueError(
            f'{path} is refused: loading it would run code ({_some(refused)}). Ask for a file '
            'of plain tensors, or save its "state_dict" alone where you trust it')
    stand_ins: list[Any] = [(_STAND_INS.get(name, _Dropped), name) for name in unknown]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if not unknown:
            raise ValueError(damaged.format(path, _first_line(error))) from None
        reason = ' '.join(str(error).partition('WeightsUnpickler error:')[2].split()[:20])
        raise ValueError(
            f'{path} is refused: it is not made of plain tensors ({reason}). Save its '
            '"state_dict" alone where you trust it') from None
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(damaged.format(path, _first_line(error))) from None


def _first_line(error: Exception) -> str:
    """Return why a file cannot be read, without torch's advice to let it run code."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        text = text.partition('WeightsUnpickler error:')[2].strip() or 'no pickle of tensors'
    return text.partition('\n')[0] or type(error).__name__


def _some(names: Any) -> str:
    listing = sorted(names)
    return ', '.join(listing[:6]) + (', ...' if len(listing) > 6 else '')
