# SPDX-License-Identifier: Apache-2.0
"""A tiny model that has learned nothing, its checkpoint and its data set."""

from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.strict import from_dict, override, to_dict
from small_recipe import COLORS, MODEL, write_pictures
import torch
from training.evaluate import main


def save_untrained(tmp_path_factory):
    """A tiny untrained model of four classes, its data set and its checkpoint."""
    folder = tmp_path_factory.mktemp('evaluate')
    write_pictures(folder / 'boxes', count=3, size=(48, 96))
    classes = {'name': 'boxes', 'entries': [
        {'id': i, 'name': f'box {i}', 'color': list(color), 'prompts': []}
        for i, color in enumerate(COLORS)]}
    config = from_dict(SegmenterConfig, to_dict(override(
        preset('dgtl-mini'), {**MODEL, 'classes': classes})))
    torch.manual_seed(0)
    model = Segmenter(config).eval()
    save_checkpoint(folder / 'tiny.safetensors', model, config)
    return folder, model


def evaluate(*arguments):
    return main([str(argument) for argument in arguments])
