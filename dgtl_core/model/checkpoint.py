# SPDX-License-Identifier: Apache-2.0
"""
One .safetensors file that holds a model, what it is, and what it takes to train on.

Tensors: ``model.*`` the weights to use; ``raw.*`` the weights that are trained, where ``model`` is
their moving average; ``optimizer.<parameter>.*`` the moments; ``grqa.*`` the moving averages of
that loss. The header's ``dgtl`` entry is the JSON object of a model file with ``config`` (the
whole SegmenterConfig) and ``training`` besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
import json
from pathlib import Path
from typing import Any

from dgtl_core.config import HeadConfig, SegmenterConfig
from dgtl_core.files import placing
from dgtl_core.model.backbone_weights import match
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model_file import KEY, ModelError, ModelMetadata
from dgtl_core.strict import from_dict, to_dict
from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

_MAKE_ONE = (
    'make a checkpoint with "python -m training.train RECIPE", or of published weights with '
    '"python -m training.import_weights"')

_MOST_COMPUTED = 1 << 28  # numbers in the tables of a model that are not in its file


def save_checkpoint(
        path: Path, model: nn.Module, config: SegmenterConfig, *, source: str = '',
        commit: str = '', training: Mapping[str, Any] | None = None,
        average: Mapping[str, Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        grqa: Mapping[str, Tensor] | None = None) -> None:
    """
    Write a checkpoint: all of it or, on any failure, nothing; a former file stays until then.

    :param average: the weights to use in place of the model's own.
    :param optimizer: makes it one to train on from.
    :param grqa: what :class:`dgtl_core.learning.grqa.QueryAlignment` goes on with.
    :raises OSError: it could not be written, for example for want of space.
    """
    # the file is complete: nothing outside of it is needed to load it
    config = replace(config, text=replace(config.text, file=''),
                     backbone=replace(config.backbone, weights=''))
    weights = model.state_dict()
    tensors = {f'model.{key}': value for key, value in (average or weights).items()}
    if optimizer is not None:
        if average is not None:
            tensors.update({f'raw.{key}': value for key, value in weights.items()})
        for name, state in _states(optimizer):
            tensors.update({f'optimizer.{name}.{key}': value for key, value in state.items()})
    tensors.update({f'grqa.{key}': value for key, value in (grqa or {}).items()})
    metadata = ModelMetadata(
        name=config.name, classes=config.classes, input_size=config.input_size,
        method=config.method, backbone=config.backbone.name, commit=commit, source=source)
    header = {**json.loads(metadata.to_json()), 'config': to_dict(config)}
    if training is not None:
        header['training'] = dict(training)
    write_tensors(path, tensors, {KEY: json.dumps(header)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor],
                  metadata: dict[str, str] | None = None) -> None:
    """
    Write a .safetensors file: all of it or nothing; a former file stays until then.

    :raises OSError: it could not be written, for example for want of space.
    """
    try:
        with placing(path) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()},
                      temporary, metadata)
    except SafetensorError as error:
        raise OSError(f'cannot write {path}: {error}') from error


def read_header(path: Path) -> dict[str, Any]:
    """
    Return the JSON object of a checkpoint.

    :raises ModelError: it is no checkpoint of ours; the message says what to do.
    """
    if path.is_dir():
        raise ModelError(f'{path} is a folder, not a checkpoint; name the file in it')
    try:
        with safe_open(path, 'pt') as file:
            text = (file.metadata() or {}).get(KEY)
    except FileNotFoundError:
        raise ModelError(f'there is no file {path}') from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f'{path} is not a .safetensors file, or is cut short ({error}); copy it again, or '
            f'{_MAKE_ONE}') from None
    if not text:
        raise ModelError(f'{path} has no "{KEY}" metadata, so its model is unknown; {_MAKE_ONE}')
    ModelMetadata.from_json(text, str(path))
    header: dict[str, Any] = json.loads(text)
    if 'config' not in header:
        raise ModelError(f'{path} holds no model configuration; {_MAKE_ONE}')
    return header


def load_segmenter(path: Path) -> tuple[Segmenter, SegmenterConfig]:
    """
    Return the model of a checkpoint in eval mode, and its configuration.

    :raises ModelError: no checkpoint of ours, or its weights do not fit its configuration.
    """
    try:
        header = read_header(path)
        config = from_dict(SegmenterConfig, header['config'])
        said = ModelMetadata.from_json(json.dumps(header), str(path))
        if (said.input_size, said.classes.names) != (config.input_size, config.classes.names):
            raise ModelError(
                f'{path} says two things of its input size or classes, in its header and in its '
                f'configuration; {_MAKE_ONE}')
        _afford(path, config)
        model = Segmenter(config)
        load_weights(path, model)
    except ModelError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise ModelError(f'{path} cannot be used: {error}') from None
    return model.eval(), config


def _afford(path: Path, config: SegmenterConfig) -> None:
    """
    Compare a configuration with the tensors in the file before memory is taken for it.

    :raises ModelError: it asks for other or larger tensors than there are.
    """
    with safe_open(path, 'pt') as file:
        shapes = {_plain(key): file.get_slice(key).get_shape()
                  for key in file.keys() if key.startswith('model.')}
    head, layers = config.head, config.backbone.sizes[1]
    if isinstance(head, HeadConfig):
        layers += head.encoder_layers + head.decoder_layers
    if layers > max(len(shapes), 200):
        raise ModelError(
            f'{path} has a configuration of {layers} blocks and layers, but no more than '
            f'{len(shapes)} tensors; {_MAKE_ONE}')
    try:
        with torch.device('meta'):  # shapes without numbers
            model = Segmenter(config)
            there = {key: torch.empty(shape) for key, shape in shapes.items()}
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch can count
        raise ModelError(f'{path} has an impossible configuration ({error})') from None
    try:
        match(there, model.state_dict(), f'what {path} holds')
    except ValueError as error:
        raise ModelError(str(error)) from None
    computed = sum(buffer.numel() for buffer in model.buffers())
    if computed > _MOST_COMPUTED:
        raise ModelError(
            f'{path} has a configuration with tables of {computed} numbers, more than '
            f'{_MOST_COMPUTED}; is its input size right? {_MAKE_ONE}')


def _plain(key: str, prefix: str = 'model.') -> str:
    """Return a tensor's name without ours, and without those of torch.compile and DDP."""
    return key.removeprefix(prefix).replace('_orig_mod.', '').removeprefix('module.')


def load_weights(path: Path, model: nn.Module, prefix: str = 'model.') -> None:
    """Load the weights below ``prefix`` strictly; :raises ModelError: they do not fit."""
    with safe_open(path, 'pt') as file:
        state = {_plain(key, prefix): file.get_tensor(key)
                 for key in file.keys() if key.startswith(prefix)}
    try:
        model.load_state_dict(match(state, model.state_dict(), f'what {path} holds'))
    except ValueError as error:
        raise ModelError(str(error)) from None


def load_matching(path: Path, model: nn.Module, *, thin: bool = False) -> list[str]:
    """
    Load the tensors of a checkpoint that have a name and a shape of the model's.

    Return the names of the model's tensors that it does not have.

    :param thin: of a tensor that is longer than the model's, take elements evenly spread over
        each axis, so that layers that were connected still are (Xu et al., "Initializing models
        with larger ones", ICLR 2024).
    :raises ModelError: no checkpoint of ours, or nothing of it fits.
    """
    read_header(path)
    own = model.state_dict()
    with safe_open(path, 'pt') as file:
        stored = {key.removeprefix('model.'): tuple(file.get_slice(key).get_shape())
                  for key in file.keys() if key.startswith('model.')}
        fitting = {key: _thinned(file.get_tensor(f'model.{key}'), tuple(own[key].shape))
                   for key, shape in stored.items() if key in own and (
                       shape == tuple(own[key].shape) or thin and _longer(shape, own[key].shape))}
    if not fitting:
        raise ModelError(f'no tensor of {path} fits this model; is it the same preset?')
    model.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def _longer(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(a >= b for a, b in zip(shape, wanted))


def _thinned(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    for axis, (length, wanted) in enumerate(zip(tensor.shape, shape, strict=True)):
        if length != wanted:
            tensor = tensor.index_select(axis, torch.arange(wanted) * length // wanted)
    return tensor


def restore(path: Path, model: nn.Module,
            optimizer: torch.optim.Optimizer) -> dict[str, Tensor] | None:
    """
    Load the trained weights and the optimizer's state; return the moving average, if there is one.

    :raises ModelError: the file does not fit, or was saved without its optimizer.
    """
    with safe_open(path, 'pt') as file:
        keys = set(file.keys())
        if not any(key.startswith('optimizer.') for key in keys):
            raise ModelError(f'{path} has no optimizer state; training cannot go on from it')
        averaged = any(key.startswith('raw.') for key in keys)
        average = {key.removeprefix('model.'): file.get_tensor(key)
                   for key in keys if averaged and key.startswith('model.')}
        for name, parameter in _parameters(optimizer):
            prefix = f'optimizer.{name}.'
            state = {key.removeprefix(prefix): file.get_tensor(key)
                     for key in keys if key.startswith(prefix)}
            if state:  # else it never had a gradient
                optimizer.state[parameter] = {
                    key: _laid_out_as(parameter, value) for key, value in state.items()}
    load_weights(path, model, 'raw.' if averaged else 'model.')
    return average or None


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return an optimizer's number or moment where, and in the order that, the parameter is."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [pair for group in optimizer.param_groups
            for pair in zip(group['names'], group['params'], strict=True)]


def _states(optimizer: torch.optim.Optimizer) -> list[tuple[str, dict[str, Tensor]]]:
    return [(name, optimizer.state[parameter]) for name, parameter in _parameters(optimizer)
            if parameter in optimizer.state]
