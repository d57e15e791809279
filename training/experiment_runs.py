# SPDX-License-Identifier: Apache-2.0
"""The runs of training.experiment, each in a process of its own, and their scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from dgtl_core.data.catalog import open_pictures
from dgtl_core.data.corruptions import corrupt
from dgtl_core.data.datasets import LabelledPicture, NO_SIZES
from dgtl_core.learning.recipe import Recipe
from dgtl_core.learning.run import FINAL, LAST
from dgtl_core.metrics import ConfusionMatrix
from dgtl_core.model.text import ClassTexts, load_texts, save_texts
import numpy as np
import torch
from tqdm import tqdm
from training.evaluate import open_model
from training.experiment_plan import Domain, METHODS, pretraining_data, SEVERITY, SourceDomain


def pretrain_backbone(recipe: Recipe, options: argparse.Namespace, size: tuple[int, int]) -> None:
    if (options.out / 'backbone.safetensors').exists():
        return
    _python('training.pretrain', str(options.recipe), '--objective', 'scenes', '--steps',
            str(options.pretrain_steps), '--out', str(options.out / 'backbone.safetensors'),
            '--device', options.device, *_settings(options.set),
            *_settings([f'data={json.dumps(pretraining_data(options.camvid, size))}']))


def train_segmenter(recipe: Recipe, options: argparse.Namespace, source: SourceDomain, method: str,
                    seed: int, folder: Path) -> None:
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


def isometric_texts(file: Path, width: int, target: Path) -> None:
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


def domain_pictures(domains: Sequence[Domain]) -> dict[str, list[LabelledPicture]]:
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


def score_model(model: Path, tests: Mapping[str, list[LabelledPicture]],
           device: str) -> dict[str, float]:
    label, classes, _ = open_model(model, 'whole', device)
    scores = {}
    for name, pictures in tests.items():
        matrix = ConfusionMatrix(len(classes))
        for picture in pictures:
            matrix.update(label(picture.image, NO_SIZES).labels, picture.labels)
        scores[name] = matrix.mean_iou()
    return scores
