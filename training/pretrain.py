# SPDX-License-Identifier: Apache-2.0
"""
Pretrain a small backbone: python -m training.pretrain RECIPE --objective labels --out FILE

It stands in for a foundation model where none can be had. Its result is what a recipe names as
``model.backbone.weights``. Two objectives:

  labels  a linear layer on the four feature maps names the class of every 4x4 pixels
  scenes  no labels: the scene behind a disturbed picture is painted; of a StreetWorld picture
          it is the same street in clear weather

Of the recipe the preset, the data, the crop and the seed are used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import sys
import time

from dgtl_core.cli.arguments import positive
from dgtl_core.config import SegmenterConfig
from dgtl_core.files import destination, print_any_text, tidy_on_signals
from dgtl_core.learning.batches import Batch, batches
from dgtl_core.learning.optim import learning_rate, OptimConfig
from dgtl_core.learning.recipe import read_recipe, Recipe
from dgtl_core.model.checkpoint import write_tensors
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.vit import Backbone
import torch
from torch import nn
from tqdm import tqdm
from training.device import add_device, choose_device
from training.pictures import sources, to_learn_from
from training.pretext import LabelObjective, SceneObjective, ScenePairs

REPORT_EVERY = 20  # steps between two lines of the log
OBJECTIVES = {'labels': LabelObjective, 'scenes': SceneObjective}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.pretrain', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path, help='a YAML file, as for training.train')
    parser.add_argument('--objective', choices=list(OBJECTIVES), required=True,
                        help='what to learn, see above')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE',
                        help='the backbone goes there (.safetensors)')
    parser.add_argument('--steps', type=int, default=2000,
                        help='how long to learn (%(default)s)')
    parser.add_argument('--batch', type=int, default=32, help='crops of a step (%(default)s)')
    parser.add_argument('--lr', type=positive(), default=1e-3,
                        help='highest learning rate (%(default)s)')
    add_device(parser)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set transforms.crop=[128,256]')
    parser.add_argument('--force', action='store_true', help='overwrite FILE where it exists')
    options = parser.parse_args(arguments)
    tidy_on_signals()
    try:
        if min(options.steps, options.batch) < 1:
            raise ValueError(
                f'--steps and --batch must be positive, got {options.steps}, {options.batch}')
        recipe = read_recipe(options.recipe, options.set)
        config, where = recipe.segmenter(), choose_device(options.device)
        destination(options.out, '.safetensors', force=options.force)
        stream = _stream(recipe, options)
        torch.manual_seed(recipe.seed)
        backbone = pretrain(config, stream, where, options)
        write_tensors(options.out, backbone.vit.state_dict())
    except (ValueError, OSError) as error:
        print(f'pretrain: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('pretrain: stopped', file=sys.stderr)
        return 130
    return 0


def _stream(recipe: Recipe, options: argparse.Namespace) -> Iterator[Batch]:
    folder = options.out.parent / 'cache'
    if options.objective == 'scenes':
        pairs = ScenePairs(sources(recipe), folder, recipe.workers)
        return pairs.batches(recipe.transforms.crop, options.batch, options.steps, recipe.seed)
    pictures = to_learn_from(
        recipe, folder, lambda line: print(f'pretrain: {line}', file=sys.stderr))
    return batches(
        pictures, recipe.transforms, seed=recipe.seed, start=0, stop=options.steps,
        batch=options.batch, workers=recipe.workers)


def pretrain(config: SegmenterConfig, stream: Iterator[Batch], where: torch.device,
             options: argparse.Namespace) -> Backbone:
    """Return the trained backbone of ``config``."""
    backbone = Backbone(config.backbone).to(where).requires_grad_(True)
    backbone.trainable = True  # also the one that a recipe freezes later
    backbone.train()
    objective = OBJECTIVES[options.objective](config).to(where)
    modules = nn.ModuleList([backbone, objective])
    decays = [p for p in modules.parameters() if p.ndim > 1]
    others = [p for p in modules.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{'params': decays, 'weight_decay': 0.05}, {'params': others, 'weight_decay': 0.0}])
    schedule = OptimConfig(lr=options.lr, schedule='cosine', warmup=options.steps // 20)
    normalize = Normalization(config).to(where)
    start, total = time.monotonic(), 0.0
    log = open(options.out.with_suffix('.jsonl'), 'a', encoding='utf-8')
    with log, tqdm(total=options.steps, unit='step', dynamic_ncols=True) as bar:
        for step, batch in enumerate(stream):
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, options.steps, schedule)
            images = normalize(batch.images.to(where))
            with torch.autocast(where.type, torch.bfloat16):
                loss = objective(backbone, images, batch.labels.to(where))
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.update()
            total += float(loss.detach())
            if not torch.isfinite(loss):
                raise ValueError(f'the loss is {float(loss)} at step {step}; lower --lr')
            if (step + 1) % REPORT_EVERY == 0:
                bar.set_postfix(loss=f'{total / REPORT_EVERY:.4f}')
                print(json.dumps({
                    'step': step + 1, 'seconds': round(time.monotonic() - start, 1),
                    'loss': total / REPORT_EVERY}), file=log, flush=True)
                total = 0.0
    return backbone


if __name__ == '__main__':
    sys.exit(main())
