# SPDX-License-Identifier: Apache-2.0
"""A training of eight steps, called as the program is, and what it leaves."""

import json
import os
from pathlib import Path

import numpy as np
from small_recipe import write_recipe
import torch
from training.train import main

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


def run(recipe: Path, out: Path, *extra: str) -> int:
    return main([*map(str, (recipe, '--out', out)), *extra])


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]


def whole_run(folder):
    """A run of eight steps without a break: (recipe, output folder)."""
    recipe = write_recipe(folder, average=0.9)
    torch.set_num_threads(1)
    assert run(recipe, folder / 'out') == 0
    return recipe, folder / 'out'


def write_texts(path: Path, names: list[str], seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(len(names), 64)).astype(np.float32)
    np.savez(path, embeddings=rows, classes=np.array(names))
    return rows
