# SPDX-License-Identifier: Apache-2.0
"""
What does each way of adapting a pretrained backbone buy in domains never seen?

  python -m training.experiment --out runs/experiment

A small ViT is pretrained without labels (training.pretrain --objective scenes) on StreetWorld in
all conditions and on the training pictures of CamVid. Then segmenters are trained on one labelled
domain (StreetWorld in clear weather; CamVid, real pictures by day), each with several seeds and
one of these methods:

  frozen         the backbone stays, a Mask2Former head learns
  finetuned      the backbone learns too, with a tenth of the rate (VLTSeg's way)
  rein           the backbone stays, tokens refine its features (Rein)
  dgtl-released  Rein with texts, mask link and distribution alignment as in the released DGTL
  dgtl           ours: texts of all classes, also at inference; alignment by similarity; a link
                 that starts at zero, and queries from normalised tokens

Or, to compare heads on a backbone that learns with a tenth of the rate, as a light head has no
layers of its own (all with our tokens and texts, and without an alignment):

  head-mask2former   a Mask2Former head, queries from tokens
  head-light-tokens  a light head, queries from tokens, matched
  head-light-texts   a light head, one query for each class, from its text
  head-light-own     the same, with blocks of its own behind the backbone (PMT)

All of them see the same pictures in the same order. Each is scored in its source domain and in
conditions that had no label. OUT gets results.json, results.md and results.png. What is finished
is not done again, so the command can be stopped and repeated. Where the recipe names weights of a
backbone, nothing is pretrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import as_completed, ThreadPoolExecutor
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from dgtl_core.cli.arguments import at_least
from dgtl_core.data.catalog import open_pictures
from dgtl_core.files import make_folder, print_any_text, write_atomically
from dgtl_core.learning.batches import cached
from dgtl_core.learning.recipe import read_recipe
from dgtl_core.learning.run import FINAL
from tqdm import tqdm
from training.device import add_device
from training.experiment_plan import MAIN, METHODS, sources
from training.experiment_report import write_results
from training.experiment_runs import (
    domain_pictures,
    isometric_texts,
    pretrain_backbone,
    score_model,
    train_segmenter,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.experiment', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/experiment'), metavar='FOLDER',
                        help='results and checkpoints (%(default)s)')
    parser.add_argument('--recipe', type=Path, default=Path('training/recipes/experiment.yaml'),
                        help='a YAML file (%(default)s)')
    parser.add_argument('--camvid', default=f'{os.environ.get("DGTL_DATA", "data")}/camvid',
                        metavar='FOLDER', help='the data set (%(default)s)')
    parser.add_argument('--texts', type=Path, default=Path('runs/texts/cityscapes_vitb16.npz'),
                        metavar='FILE', help='class texts of training.embed_classes (%(default)s)')
    parser.add_argument('--methods', nargs='+', choices=list(METHODS), default=list(MAIN),
                        metavar='METHOD', help='the five above; or a head; or, with a part of '
                        'dgtl left out, ' + ', '.join(name for name in METHODS if name not in MAIN
                                                      and not name.startswith('head')))
    parser.add_argument('--sources', nargs='+', choices=('streetworld', 'camvid'),
                        default=['streetworld', 'camvid'], metavar='SOURCE',
                        help='streetworld, camvid (both)')
    parser.add_argument('--seeds', type=at_least(0), nargs='+', default=[0, 1, 2], metavar='N',
                        help='one run of each method for each (0 1 2)')
    parser.add_argument('--pretrain-steps', type=at_least(1), default=500, metavar='N',
                        help='of 32 crops (%(default)s)')
    parser.add_argument('--jobs', type=at_least(1), default=1, metavar='N',
                        help='runs at a time, which share the cores (%(default)s)')
    add_device(parser)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change the recipe, for example --set steps=2000')
    options = parser.parse_args(arguments)
    try:
        results = experiment(options)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f'experiment: {error}', file=sys.stderr)
        return 1
    print(write_results(options.out, results))
    return 0


def experiment(options: argparse.Namespace) -> dict[str, Any]:
    """Do all runs that are not done yet; return ``{source: {method: {seed: {domain: mIoU}}}}``."""
    out: Path = options.out
    recipe = read_recipe(options.recipe, options.set)
    size = recipe.segmenter().input_size
    plan = {name: source for name, source in sources(options.camvid, size).items()
            if name in options.sources}
    for source in plan.values():  # all that must be there, before anything is drawn
        for data in (source.data, *(domain.data for domain in source.domains)):
            open_pictures(data)
    make_folder(out)
    isometric_texts(options.texts, recipe.segmenter().backbone.sizes[0], out / 'texts.npz')
    tests = {name: domain_pictures(source.domains) for name, source in plan.items()}
    if not recipe.segmenter().backbone.weights:
        pretrain_backbone(recipe, options, size)
    for source in plan.values():  # once, before several runs want it
        if recipe.cache:
            cached(open_pictures(source.data), out / 'cache', recipe.workers)
    runs = [(name, method, seed) for seed in options.seeds for name in plan
            for method in options.methods]
    results: dict[str, Any] = {name: {method: {} for method in options.methods} for name in plan}

    def run(name: str, method: str, seed: int) -> dict[str, float]:
        folder = out / name / method / str(seed)
        scores = folder / 'scores.json'
        if not scores.exists():
            train_segmenter(recipe, options, plan[name], method, seed, folder)
            found = score_model(folder / FINAL, tests[name], options.device)
            write_atomically(scores, json.dumps(found, indent=1))
        return dict(json.loads(scores.read_text(encoding='utf-8')))

    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(run, *key): key for key in runs}
        try:
            with tqdm(total=len(runs), unit='run', dynamic_ncols=True) as bar:
                for future in as_completed(waiting):
                    name, method, seed = waiting[future]
                    results[name][method][str(seed)] = future.result()
                    bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


if __name__ == '__main__':
    sys.exit(main())
