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
layers of its own (all three with our tokens and texts, and without an alignment):

  head-mask2former   a Mask2Former head, queries from tokens
  head-light-tokens  a light head, queries from tokens, matched
  head-light-texts   a light head, one query for each class, from its text

All of them see the same pictures in the same order. Each is scored in its source domain and in
conditions that had no label. OUT gets results.json, results.md and results.png. What is finished
is not done again, so the command can be stopped and repeated. Where the recipe names weights of a
backbone, nothing is pretrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed, ThreadPoolExecutor
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any, NamedTuple

from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.corruptions import corrupt
from dgtl_core.data.datasets import LabelledPicture, NO_SIZES
from dgtl_core.files import print_any_text, write_atomically
from dgtl_core.learning.batches import cached
from dgtl_core.learning.recipe import read_recipe, Recipe
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.text import ClassTexts, load_texts, save_texts
import numpy as np
import torch
from tqdm import tqdm
from training.device import add_device
from training.evaluate import open_model
from training.experiment_report import write_results

SEVERITY = 3
PLAIN = {'adapter': {'method': 'none', 'text_link': 'off', 'mask_link': False},
         'head': {'queries': 'learned'}}


def _head(head: dict[str, Any], *, mask_link: bool) -> dict[str, Any]:
    """Return our method with another head, on a backbone that learns too."""
    return {
        'model': {
            'adapter': {'text_link': 'all', 'scale': 1.0, 'zero_start': True, 'query_norm': True,
                        'mask_link': mask_link},
            'backbone': {'trainable': True}, **({'head': head} if head else {})},
        'optim': {'backbone_lr': 0.1}}


METHODS: dict[str, dict[str, Any]] = {  # differences to the recipe
    'frozen': {'model': PLAIN},
    'finetuned': {'model': {**PLAIN, 'backbone': {'trainable': True}},
                  'optim': {'backbone_lr': 0.1}},
    'rein': {'model': {'adapter': {'method': 'rein', 'text_link': 'off', 'mask_link': False}}},
    'dgtl-released': {'model': {'adapter': {'text_link': 'present'}},
                      'loss': {'alignment': 'released'}},
    'dgtl': {'model': {'adapter': {
        'text_link': 'all', 'scale': 1.0, 'zero_start': True, 'query_norm': True}},
        'loss': {'alignment': 'similarity'}},
    # what a part of ours is worth
    'dgtl-released-start': {'model': {'adapter': {'text_link': 'all'}},
                            'loss': {'alignment': 'similarity'}},
    'dgtl-no-text': {'model': {'adapter': {
        'text_link': 'off', 'scale': 1.0, 'zero_start': True, 'query_norm': True}}},
    # what a head is worth
    'head-mask2former': _head({}, mask_link=True),
    'head-light-tokens': _head(
        {'kind': 'light', 'queries': 'tokens', 'num_blocks': 3, 'num_queries': 32},
        mask_link=True),
    'head-light-texts': _head(
        {'kind': 'light', 'queries': 'texts', 'num_blocks': 3}, mask_link=False),
}
MAIN = ('frozen', 'finetuned', 'rein', 'dgtl-released', 'dgtl')


class Domain(NamedTuple):
    """Pictures to test on."""

    name: str
    data: str  # as on the command line of training.evaluate
    corruption: str = ''


class Source(NamedTuple):
    """What is learned from, and what is tested on: first the source itself, then the unseen."""

    data: str
    domains: tuple[Domain, ...]


def sources(camvid: str, size: tuple[int, int]) -> dict[str, Source]:
    """Return the two labelled domains with their tests; ``size`` of StreetWorld's pictures."""
    def street(condition: str, count: int, seed: int, margin: float = 1.0) -> str:
        height, width = (round(side * margin) for side in size)
        return (f'streetworld:{condition},count={count},seed={seed},severity={SEVERITY},'
                f'height={height},width={width}')

    conditions = ('fog', 'night', 'rain', 'snow', 'low_sun')
    corruptions = ('fog', 'night', 'rain', 'snowfall', 'glare')
    test = f'camvid:{camvid},split=test'
    clear = Domain('clear', street('clear', 40, 1000))
    return {
        'streetworld': Source(street('clear', 600, 100, 1.125), (
            clear, *(Domain(name, street(name, 40, 1000)) for name in conditions),
            Domain('real (CamVid)', test))),
        'camvid': Source(f'camvid:{camvid},split=train', (
            Domain('day', f'camvid:{camvid},split=val'), Domain('another place', test),
            *(Domain(name, test, name) for name in corruptions),
            clear._replace(name='synthetic (StreetWorld)'))),
    }


def pretraining_data(camvid: str, size: tuple[int, int]) -> list[str]:
    """Return what the backbone sees without labels; no picture of a test is among them."""
    height, width = (round(side * 1.125) for side in size)
    streets = [
        f'streetworld:{condition},count=400,seed={seed},height={height},width={width}'
        for seed, condition in enumerate(('clear', 'fog', 'night', 'rain', 'snow', 'low_sun'))]
    return [*streets, *[f'camvid:{camvid},split=train'] * 3]  # more than a quarter is real


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
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N',
                        help='one run of each method for each (0 1 2)')
    parser.add_argument('--pretrain-steps', type=int, default=500, metavar='N',
                        help='of 32 crops (%(default)s)')
    parser.add_argument('--jobs', type=int, default=1, metavar='N',
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
    out.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(options.recipe, options.set)
    size = recipe.segmenter().input_size
    plan = {name: source for name, source in sources(options.camvid, size).items()
            if name in options.sources}
    tests = {name: _tests(source.domains) for name, source in plan.items()}
    _isometric_texts(options.texts, recipe.segmenter().backbone.sizes[0], out / 'texts.npz')
    if not recipe.segmenter().backbone.weights:
        _pretrain(recipe, options, size)
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
            _train(recipe, options, plan[name], method, seed, folder)
            found = _score(folder / FINAL, tests[name], options.device)
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


def _pretrain(recipe: Recipe, options: argparse.Namespace, size: tuple[int, int]) -> None:
    if (options.out / 'backbone.safetensors').exists():
        return
    _python('training.pretrain', str(options.recipe), '--objective', 'scenes', '--steps',
            str(options.pretrain_steps), '--out', str(options.out / 'backbone.safetensors'),
            '--device', options.device, *_settings(options.set),
            *_settings([f'data={json.dumps(pretraining_data(options.camvid, size))}']))


def _train(recipe: Recipe, options: argparse.Namespace, source: Source, method: str, seed: int,
           folder: Path) -> None:
    """Train one segmenter in a process of its own, from where an earlier one got to."""
    if (folder / FINAL).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'cache').exists():
        (folder / 'cache').symlink_to((options.out / 'cache').resolve())
    changes = [*options.set, f'data={json.dumps([source.data])}', f'seed={seed}',
               f'model.text.file={json.dumps(str(options.out / "texts.npz"))}']
    if not recipe.segmenter().backbone.weights:
        weights = json.dumps(str(options.out / 'backbone.safetensors'))
        changes.append(f'model.backbone.weights={weights}')
    changes += [f'{key}={json.dumps(value)}' for key, value in METHODS[method].items()]
    resume = ['--resume'] if (folder / LAST).exists() else []
    with open(folder / 'train.log', 'ab') as log:
        _python('training.train', str(options.recipe), '--out', str(folder), '--device',
                options.device, *resume, *_settings(changes), log=log,
                threads=max(1, (os.cpu_count() or 1) // options.jobs))


def _python(module: str, *arguments: str, log: Any = None, threads: int = 0) -> None:
    environment = {**os.environ, **({'OMP_NUM_THREADS': str(threads)} if threads else {})}
    subprocess.run([sys.executable, '-m', module, *arguments], check=True, env=environment,
                   stdout=log, stderr=log)


def _settings(changes: Sequence[str]) -> list[str]:
    return [part for change in changes for part in ('--set', change)]


def _isometric_texts(file: Path, width: int, target: Path) -> None:
    """
    Write the class texts as vectors of ``width`` numbers with the same products between them.

    The released link and alignment need texts as wide as the tokens. K texts span K dimensions at
    most, so that their coordinates in an orthonormal basis lose nothing.

    :raises ValueError: there are more classes than ``width``.
    """
    texts = load_texts(file)
    if len(texts.classes) > width:
        raise ValueError(f'{len(texts.classes)} texts do not fit into {width} dimensions')
    inside = np.linalg.qr(texts.embeddings.numpy().astype(np.float64).T)[1].T  # (K, K)
    random = np.random.default_rng(0).standard_normal((width, len(inside)))
    basis = np.linalg.qr(random)[0]
    embeddings = torch.from_numpy((inside @ basis.T).astype(np.float32))
    save_texts(target, ClassTexts(
        embeddings, texts.classes, f'{texts.provenance}; in a random basis of {width} dimensions'))


def _tests(domains: Sequence[Domain]) -> dict[str, list[LabelledPicture]]:
    """Return the pictures of each domain, 40 at most, spread over the data set."""
    found = {}
    for domain in tqdm(domains, desc='test pictures', unit='domain', leave=False):
        pictures = open_pictures(domain.data)
        indices = np.linspace(0, len(pictures) - 1, min(40, len(pictures))).round().astype(int)
        chosen = [pictures[int(index)]._replace(depth=None) for index in indices]
        if domain.corruption:
            chosen = [picture._replace(image=corrupt(
                picture.image, domain.corruption, SEVERITY, seed=number))
                for number, picture in enumerate(chosen)]
        found[domain.name] = chosen
    return found


def _score(model: Path, tests: Mapping[str, list[LabelledPicture]],
           device: str) -> dict[str, float]:
    label, classes, _ = open_model(model, 'whole', device)
    scores = {}
    for name, pictures in tests.items():
        matrix = ConfusionMatrix(len(classes))
        for picture in pictures:
            matrix.update(label(picture.image, NO_SIZES).labels, picture.labels)
        scores[name] = matrix.mean_iou()
    return scores


if __name__ == '__main__':
    sys.exit(main())
