# SPDX-License-Identifier: Apache-2.0
"""
Which signal of a pixel tells what the model does not know: python -m training.unfamiliar

Five signals on the grid of the masks, of a model file whose head gives logits of classes: 1 -
largest probability, entropy, minus the largest logit, minus the logarithm of the sum of all
exponentials (energy, Liu et al., 2020), and the Mahalanobis distance of the patch feature to the
nearest class (Lee et al., 2018; features of length 1, classes as predicted on clear streets, one
covariance). Two questions, each as AUROC: is the pixel wrong, in unseen weather; and does it show
something that was pasted, a piece of another picture upside down.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import json
from pathlib import Path
import sys
from typing import Any

import cv2
from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.cli.arguments import at_least
from dgtl_core.files import destination, print_any_text, write_atomically
from dgtl_core.model_file import onnx_metadata
from dgtl_core.predictor import default_model
from dgtl_core.streetworld import CONDITIONS, DrawnPicture, StreetWorld
import numpy as np
from training.bench.shift_figures import auroc

SIGNALS = ('1 - largest probability', 'entropy', '- largest logit', 'energy', 'Mahalanobis')
_FIT, _UNSEEN, _PASTED = 100, 400, 600  # seeds of streets
_SHRINKAGE, _LEAST, _MOST = 0.1, 20, 200_000
Grid = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog='python -m training.unfamiliar', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, metavar='FILE.onnx',
                        help='the embedded model if left out')
    parser.add_argument('--pictures', type=at_least(1), default=16, metavar='N',
                        help='of each kind (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers here')
    parser.add_argument('--force', action='store_true', help='overwrite this file')
    options = parser.parse_args(arguments)
    try:
        if options.json:  # now, and not when all is measured
            destination(options.json, '.json', force=options.force)
        found = measure(options.model or default_model(), options.pictures)
        print('| pixels | ' + ' | '.join(SIGNALS) + ' |\n|' + '---|' * (len(SIGNALS) + 1))
        for name, values in found.items():
            print(f'| {name} | ' + ' | '.join(f'{value:.3f}' for value in values) + ' |')
        if options.json:
            write_atomically(options.json, json.dumps({
                name: dict(zip(SIGNALS, values)) for name, values in found.items()
            }, indent=1) + '\n')
    except (OSError, ValueError) as error:
        print(f'unfamiliar: {error}', file=sys.stderr)
        return 1
    return 0


def measure(path: Path, count: int) -> dict[str, list[float]]:
    """Return the AUROC of each signal, by which pixels are to be told apart."""
    grid, size = opened(path)
    distance = _distances([grid(sample.image) for sample in _streets(_FIT, count, size)])
    found = {}
    for condition in CONDITIONS:
        parts = []
        for sample in _streets(_UNSEEN, count, size, condition):
            logits, patches = grid(sample.image)
            truth = _nearest(sample.labels, logits.shape[1:])
            wrong = np.where(truth == IGNORE_INDEX, 2, logits.argmax(0) != truth)
            parts.append((wrong, signals(logits, distance(patches))))
        found[f'wrong, {condition}'] = _aurocs(parts)
    parts = []
    others = _streets(_PASTED, count, size)
    for number, (sample, other) in enumerate(zip(_streets(_UNSEEN, count, size), others)):
        image, mask = pasted(sample.image, other.image, number)
        logits, patches = grid(image)
        parts.append((_nearest(mask, logits.shape[1:]), signals(logits, distance(patches))))
    found['pasted'] = _aurocs(parts)
    return found


def opened(path: Path) -> tuple[Grid, tuple[int, int]]:
    """
    Return what gives logits (K, h, w) and patch features (C, h', w') of a picture, and its size.

    :raises ValueError: no model file, or its graph gives no logits of classes or no signature.
    :raises OSError: it cannot be read.
    """
    import onnx
    import onnxruntime

    if not path.is_file():
        raise FileNotFoundError(f'there is no file {path}')
    onnx_metadata(path)  # refuses what is no model file
    proto = onnx.load(str(path))
    makers = {out: node for node in proto.graph.node for out in node.output}
    above, seen = ['signature'], []
    while above:
        node = makers.get(above.pop())
        if node is not None and node not in seen:
            seen.append(node)
            above += node.input
    pools = [node.input[0] for node in seen if node.op_type == 'AveragePool']
    norms = {node.output[0] for node in seen if node.op_type == 'Expand'}
    means = [makers[node.input[0]].input[0] for node in seen
             if node.op_type == 'Div' and node.input[1] in norms]
    scored = any(node.op_type == 'Sigmoid' for node in seen)
    if not pools or not means or scored:
        raise ValueError(f'{path} has no signature, or a head that gives no logits of classes')
    # Of the two blocks the last is the one that is made of the other.
    last = max(means, key=lambda name: _depth(name, makers))
    for name in (pools[0], last):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=['CPUExecutionProvider'])
    height, width = session.get_inputs()[0].shape[1:3]

    def grid(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, patches = session.run([pools[0], last], {'image': image[None]})
        rows = round((patches.shape[1] * height / width) ** 0.5)
        return logits[0], patches[0].T.reshape(patches.shape[2], rows, -1)

    return grid, (height, width)


def _depth(name: str, makers: Mapping[str, Any]) -> int:
    """How many nodes a tensor is made of."""
    seen: set[str] = set()
    above = [name]
    while above:
        at = above.pop()
        if at in makers and at not in seen:
            seen.add(at)
            above += makers[at].input
    return len(seen)


def signals(logits: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Shape: (K, h, w), (h', w') -> (5, h, w), in the order of SIGNALS."""
    largest = logits.max(axis=0)
    total = np.log(np.exp(logits - largest).sum(axis=0))
    log = logits - largest - total
    entropy = -(np.exp(log) * log).sum(axis=0)
    height, width = largest.shape
    far = cv2.resize(distance.astype(np.float32), (width, height),
                     interpolation=cv2.INTER_LINEAR)
    return np.stack([1 - np.exp(-total), entropy, -largest, -largest - total, far])


def pasted(image: np.ndarray, other: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Put an upside-down ellipse of another picture on the road ahead; return it and where."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    centre = round(width * rng.uniform(0.2, 0.8)), round(height * rng.uniform(0.55, 0.8))
    axes = round(width * rng.uniform(0.04, 0.09)), round(height * rng.uniform(0.06, 0.14))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    return np.where(mask[..., None] == 1, other[::-1], image), mask


def _streets(seed: int, count: int, size: tuple[int, int],
             condition: str = 'clear') -> Iterator[DrawnPicture]:
    world = StreetWorld(seed=seed, size=size, condition=condition)
    return (world.picture(index) for index in range(count))


def _nearest(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _unit(patches: np.ndarray) -> np.ndarray:
    return patches / np.maximum(np.linalg.norm(patches, axis=0), 1e-6)


def _distances(
        pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the distance of each patch to the nearest class."""
    features = np.concatenate([_unit(p).reshape(p.shape[0], -1).T for _, p in pairs])
    classes = np.concatenate([
        _nearest(logits.argmax(0).astype(np.uint8), patches.shape[1:]).ravel()
        for logits, patches in pairs])
    known = [c for c in np.unique(classes) if (classes == c).sum() >= _LEAST]
    means = np.stack([features[classes == c].mean(0) for c in known])
    rest = np.concatenate([features[classes == c] - m for c, m in zip(known, means)])
    covariance = rest.T @ rest / len(rest)
    covariance += _SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    root = np.linalg.cholesky(np.linalg.inv(covariance))

    def distance(patches: np.ndarray) -> np.ndarray:
        x = _unit(patches).reshape(patches.shape[0], -1).T @ root
        apart = ((x[:, None] - (means @ root)[None]) ** 2).sum(axis=2).min(axis=1)
        return np.sqrt(apart).reshape(patches.shape[1:])

    return distance


def _aurocs(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """AUROC of each signal over all pixels; those marked 2 do not count."""
    marks = np.concatenate([mark.ravel() for mark, _ in parts])
    values = np.concatenate([value.reshape(len(SIGNALS), -1) for _, value in parts], axis=1)
    step = max(len(marks) // _MOST, 1)
    marks, values = marks[::step], values[:, ::step]
    return [auroc(v[marks == 0], v[marks == 1]) for v in values]


if __name__ == '__main__':
    sys.exit(main())
