# SPDX-License-Identifier: Apache-2.0
"""A recipe of which a step takes a moment: a tiny model on pictures of coloured rectangles."""

from contextlib import contextmanager
from pathlib import Path
import sys

import cv2
import numpy as np
import yaml

COLORS = ((90, 90, 90), (200, 60, 40), (40, 160, 60), (50, 80, 210))
MODEL = {
    'backbone': {'name': 'vit', 'embed_dim': 64, 'depth': 4, 'num_heads': 2,
                 'out_indices': [0, 1, 2, 3], 'patch_size': 8, 'img_size': [32, 64]},
    'adapter': {'num_tokens': 8, 'rank': 4, 'text_link': 'off'},
    'head': {'hidden_dim': 64, 'num_heads': 2, 'num_queries': 8, 'encoder_layers': 1,
             'encoder_feedforward': 64, 'decoder_layers': 2, 'decoder_feedforward': 64},
    'input_size': [32, 64], 'window_stride': [32, 64]}


def write_pictures(folder: Path, count: int = 8, size: tuple[int, int] = (32, 64)) -> None:
    """Write a data set for ``folder:``: rectangles of three classes on a fourth, with noise."""
    (folder / 'images').mkdir(parents=True)
    (folder / 'labels').mkdir()
    (folder / 'classes.yaml').write_text(yaml.safe_dump({'name': 'boxes', 'classes': [
        {'id': i, 'name': f'box {i}', 'color': list(color)} for i, color in enumerate(COLORS)]}))
    generator = np.random.default_rng(0)
    for number in range(count):
        labels = np.zeros(size, np.uint8)
        for class_id in (1, 2, 3):
            y, x = (int(generator.integers(0, n // 8 - 1)) * 8 for n in size)
            h, w = (int(generator.integers(1, 3)) * 8 for _ in size)
            labels[y:y + h, x:x + w] = class_id
        image = np.array(COLORS, np.float32)[labels] + generator.normal(0, 12, (*size, 3))
        image = image.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{number:02}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / 'labels' / f'{number:02}.png'), labels)


def write_recipe(folder: Path, **changes: object) -> Path:
    """Write pictures and a recipe that learns from them; return the recipe's path."""
    write_pictures(folder / 'boxes')
    recipe = {
        'preset': 'dgtl-mini', 'model': MODEL, 'data': [f'folder:{folder}/boxes'], 'workers': 0,
        'steps': 8, 'batch': 4, 'precision': 'fp32', 'save_every': 2, 'seed': 5,
        'transforms': {'crop': [32, 64], 'scale': [1.0, 1.5], 'photometric': 0.2},
        'loss': {'num_points': 64, 'semantic_weight': 1.0},
        'optim': {'lr': 1e-3, 'warmup': 2, 'clip_norm': 1.0}, **changes}
    path = folder / 'boxes.yaml'
    path.write_text(yaml.safe_dump(recipe))
    return path


@contextmanager
def power_failure_after_saving(monkeypatch):
    """Let a training fail as soon as it has saved a checkpoint."""
    from dgtl_core.learning.run import Run

    def stop(self, path, commit, *, resumable, save=Run.save):
        save(self, path, commit, resumable=resumable)
        raise OSError('the power fails')

    with monkeypatch.context() as patch:
        patch.setattr(Run, 'save', stop)
        yield


def command(recipe: Path, out: Path, *extra: str) -> list[str]:
    """Return the command line that trains it."""
    return [sys.executable, '-m', 'training.train', str(recipe), '--out', str(out), *extra]
